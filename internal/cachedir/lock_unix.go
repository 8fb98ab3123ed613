//go:build unix

package cachedir

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a waiting Lock looks again: flock has no wait that a context could end.
const lockPoll = 50 * time.Millisecond

// Lock takes an exclusive advisory lock on the file path, making the file when it is missing, and waits until ctx ends.
//
// The lock is held by the open file, so the kernel frees it when the process dies. The file stays: removing it would let two holders lock
// two different files of one name. Errors: ctx.Err wrapped with the path, or the error that opened or locked the file.
// Lock excludes goroutines of one process as well as other processes.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case nil:
			return func() { f.Close() }, nil
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
		default:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: held by another process: %w", path, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}
