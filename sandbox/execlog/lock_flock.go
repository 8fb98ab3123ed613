//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package execlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// lockFile takes the lock of a log's writer, which its Close and the end of the process release.
func lockFile(path string, perm fs.FileMode) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, perm)
		if err != nil {
			return nil, fmt.Errorf("execlog: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("%w: %s", ErrInUse, path)
			}
			return nil, fmt.Errorf("execlog: locking %s: %w", path, err)
		}
		mine, err := f.Stat()
		if err != nil {
			unlockFile(f)
			return nil, fmt.Errorf("execlog: %w", err)
		}
		// Somebody may have removed the file, with the whole log, after it was opened: others would lock the next one of the name.
		if now, err := os.Stat(path); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
		unlockFile(f)
	}
}

// unlockFile gives the lock back. Closing would not do: a child process that another goroutine is starting may hold the descriptor a moment longer.
func unlockFile(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}
