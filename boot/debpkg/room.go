package debpkg

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// roomForLists is what a refresh of the lists needs: Debian's take some 90 MB. With less, apt-get may wait for ever instead of failing.
const roomForLists = 128 << 20

const roomFix = "free some, or set HUTCH_CACHE to a folder on a file system with room"

// needRoom fails with ENOSPC when the cache's file system has less than n bytes for this user. Where that cannot be told, it passes.
func (c *client) needRoom(op, name string, n uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil {
		return nil
	}
	free := uint64(st.Bavail) * uint64(st.Bsize)
	if free >= n {
		return nil
	}
	return &Error{Op: op, Name: name, Fix: roomFix,
		Err: fmt.Errorf("%w: %d MB are free in %s, %d MB are needed", syscall.ENOSPC, free/1e6, c.dir, (n+999_999)/1e6)}
}

// noRoom recognises a full disk in what a program printed.
func noRoom(op, name, out string) *Error {
	if !strings.Contains(out, "No space left on device") {
		return nil
	}
	return &Error{Op: op, Name: name, Err: syscall.ENOSPC, Fix: roomFix, Output: tail(out)}
}
