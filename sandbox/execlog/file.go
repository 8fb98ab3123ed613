package execlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
)

// FileOptions are the settings of OpenFile. The zero value is ready to use.
type FileOptions struct {
	MaxSize  int64       // bytes at which the file is rotated; 0 = 10 MiB
	MaxFiles int         // files in all, at least 1; 0 = 5
	Perm     fs.FileMode // 0 = 0600
	Sync     bool        // wait for the disk after every entry
}

// ErrInUse is what OpenFile returns for a file that another writer has open.
var ErrInUse = errors.New("execlog: another writer has the log open")

// A File is a Sink and a Reader on a file of JSON lines. When an entry would make it larger than MaxSize, the file becomes path.1, that one path.2
// and so on, and the oldest is removed: a line is never split between files.
type File struct {
	path string
	opt  FileOptions

	w      Writer // its w is the File's write; its lock guards what follows
	f      *os.File
	lock   *os.File
	size   int64
	closed bool
}

// OpenFile opens the log at path for writing and makes it if need be; its directory must exist. The numbers of an existing log go on, and a
// line that was torn by a crash is closed off, for readers to report.
//
// Errors: ErrInUse, or why the file cannot be opened.
func OpenFile(path string, opt FileOptions) (*File, error) {
	if opt.MaxSize <= 0 {
		opt.MaxSize = 10 << 20
	}
	if opt.MaxFiles <= 0 {
		opt.MaxFiles = 5
	}
	if opt.Perm == 0 {
		opt.Perm = 0o600
	}
	lock, err := lockFile(path+".lock", opt.Perm)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, opt: opt, lock: lock}
	f.w.w = writerFunc(f.write)
	if err := f.open(); err != nil {
		lock.Close()
		return nil, err
	}
	for e, err := range Read(context.Background(), path, Query{}) {
		if err == nil {
			f.w.seq = max(f.w.seq, e.Seq)
		}
	}
	return f, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// open opens the current file.
func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, f.opt.Perm)
	if err != nil {
		return fmt.Errorf("execlog: %w", err)
	}
	st, err := file.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", f.path)
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("execlog: %w", err)
	}
	f.f, f.size = file, st.Size()
	if f.size > 0 {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, f.size-1); err == nil && last[0] != '\n' {
			f.w.torn = true
		}
	}
	return nil
}

// Log implements Sink. Errors: *WriteError, ErrClosed.
func (f *File) Log(e Entry) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	return f.w.log(&e)
}

// write appends whole lines to the file.
func (f *File) write(p []byte) (int, error) {
	if f.size > 0 && f.size+int64(len(p)) > f.opt.MaxSize {
		if err := f.rotate(); err != nil {
			return 0, err
		}
		p = bytes.TrimPrefix(p, []byte("\n")) // the torn line stayed behind
	}
	if f.f == nil { // a rotation failed half-way
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	n, err := f.f.Write(p)
	f.size += int64(n)
	if err != nil && n > 0 && f.f.Truncate(f.size-int64(n)) == nil {
		f.size -= int64(n) // nothing of the entry is left
		n = 0
	}
	if err == nil && f.opt.Sync {
		err = f.f.Sync()
	}
	return n, err
}

// rotate renames the files and opens a new one.
func (f *File) rotate() error {
	if f.opt.MaxFiles == 1 { // a new file rather than an empty one, so that readers see it
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i := f.opt.MaxFiles - 1; i > 0; i-- {
		err := os.Rename(rotated(f.path, i-1), rotated(f.path, i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f.f.Close()
	f.f, f.w.torn = nil, false
	return f.open()
}

// rotated is the name of the i-th file, 0 the current one.
func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// Close closes the file. Idempotent.
func (f *File) Close() error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	var err error
	if f.f != nil {
		err = f.f.Close()
	}
	f.lock.Close() // its end is the lock's; the file stays, so that nobody locks another one of the name
	return err
}

// Read implements Reader. It also reads a closed log.
func (f *File) Read(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return Read(ctx, f.path, q)
}

// Path returns the path of the current file.
func (f *File) Path() string { return filepath.Clean(f.path) }

var (
	_ io.Closer = (*File)(nil)
	_ Reader    = (*File)(nil)
	_ Reader    = (*Ring)(nil)
)
