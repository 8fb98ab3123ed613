package agent

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxModule bounds an unpacked kernel module, in bytes.
const maxModule = 64 << 20

// loadModules loads every module file of a directory in the order of the names,
// which the host made the order of the dependencies. What fails is reported and
// does not stop the rest: the host sees what is missing by what does not work.
func (m *machine) loadModules(dir string) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			m.warn("modules: %v", err)
		}
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		if err := loadModule(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, unix.EEXIST) {
			m.warn("module %s: %v", e.Name(), err)
		}
	}
}

// loadModule loads one file. The host ships modules unpacked; a compressed one
// is left to the kernel, or for .gz, which every kernel's modules may be, is
// unpacked here.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	switch {
	case strings.HasSuffix(path, ".ko"):
		err := unix.FinitModule(int(f.Fd()), "", 0)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
			return initModule(f)
		}
		return err
	case strings.HasSuffix(path, ".ko.gz"):
		z, err := gzip.NewReader(f)
		if err != nil {
			return err
		}
		return initModule(z)
	case strings.HasSuffix(path, ".ko.xz"), strings.HasSuffix(path, ".ko.zst"):
		if err := unix.FinitModule(int(f.Fd()), "", unix.MODULE_INIT_COMPRESSED_FILE); err != nil {
			return fmt.Errorf("%w (compressed: this kernel may lack MODULE_DECOMPRESS; ship it unpacked)", err)
		}
		return nil
	}
	return errors.New("not a module: name does not end in .ko, .ko.gz, .ko.xz or .ko.zst")
}

func initModule(r io.Reader) error {
	var b bytes.Buffer
	if n, err := io.Copy(&b, io.LimitReader(r, maxModule+1)); err != nil {
		return err
	} else if n > maxModule {
		return fmt.Errorf("larger than %d bytes", maxModule)
	}
	return unix.InitModule(b.Bytes(), "")
}
