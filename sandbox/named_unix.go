//go:build unix

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lookTime bounds how long lock waits for those who only look at a lock, which takes them microseconds.
const lookTime = time.Second

// lock takes the sandbox's lock, which the holder has, and makes its file and folder if need be. Errors: ErrRunning.
func (n named) lock() (unlock func(), err error) {
	for end := time.Now().Add(lookTime); ; {
		err := os.MkdirAll(n.dir, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue // it was removed in the middle of that
		}
		if err != nil {
			return nil, fmt.Errorf("sandbox: %s: %w", n.name, err)
		}
		f, unlock, err := n.tryLock(os.O_RDWR|os.O_CREATE, syscall.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its folder was just removed
		}
		if errors.Is(err, ErrRunning) && time.Now().Before(end) {
			if running, rerr := n.running(); rerr == nil && !running { // it was somebody who looks, as running does
				time.Sleep(time.Millisecond)
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		if n.isLock(f) {
			return unlock, nil
		}
		unlock() // of a file that was removed meanwhile: it locks nobody out
	}
}

// isLock says whether f still is the lock's file.
func (n named) isLock(f *os.File) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(filepath.Join(n.dir, "lock"))
	return err == nil && os.SameFile(mine, now)
}

// running says whether somebody has the lock. It makes nothing, and those who ask do not see each other.
func (n named) running() (bool, error) {
	_, unlock, err := n.tryLock(os.O_RDONLY, syscall.LOCK_SH)
	switch {
	case errors.Is(err, ErrRunning):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	unlock()
	return false, nil
}

func (n named) tryLock(flags, how int) (*os.File, func(), error) {
	f, err := os.OpenFile(filepath.Join(n.dir, "lock"), flags, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("sandbox: %s: %w", n.name, err)
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil, fmt.Errorf("sandbox: %s: %w; stop it with `hutch stop %s`", n.name, ErrRunning, n.name)
		}
		return nil, nil, fmt.Errorf("sandbox: %s: its lock: %w", n.name, err)
	}
	return f, func() { f.Close() }, nil
}

// ownedByUs refuses a directory that somebody else could have made or can write.
func ownedByUs(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("sandbox: the runtime directory: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.IsDir() || int(sys.Uid) != os.Getuid() || st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("sandbox: the runtime directory %s is not a directory of this user's alone: remove it, or set XDG_RUNTIME_DIR", dir)
	}
	return nil
}
