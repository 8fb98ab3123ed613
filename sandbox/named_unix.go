//go:build unix

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock takes the sandbox's lock, which the holder has. Errors: ErrRunning.
func (n named) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(n.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %s: %w", n.name, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("sandbox: %s: %w; stop it with `hutch stop %s`", n.name, ErrRunning, n.name)
		}
		return nil, fmt.Errorf("sandbox: %s: its lock: %w", n.name, err)
	}
	return func() { f.Close() }, nil
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
