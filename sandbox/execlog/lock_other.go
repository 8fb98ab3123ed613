//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package execlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// lockFile fails: without flock two writers could spoil a log.
func lockFile(path string, _ fs.FileMode) (*os.File, error) {
	return nil, fmt.Errorf("execlog: locking %s on this system: %w", path, errors.ErrUnsupported)
}

func unlockFile(f *os.File) { f.Close() }
