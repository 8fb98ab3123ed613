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
)

// FileOptions are the settings of OpenFile. The zero value is ready to use.
type FileOptions struct {
	MaxSize  int64       // bytes at which the file is rotated; 0 = 10 MiB
	MaxFiles int         // files in all, the current one included; 0 = 5
	Perm     fs.FileMode // of new files, before umask; 0 = 0600
	Sync     bool        // wait for the disk after every entry
}

// ErrInUse is what OpenFile returns for a file that another writer has open, in this process or another one.
var ErrInUse = errors.New("execlog: another writer has the log open")

// A File is a Sink and a Reader on a file of JSON lines. When an entry would make it larger than MaxSize, the file becomes path.1, that one path.2
// and so on, and the oldest is removed: a line is never split between files. A file of the name path.lock keeps other writers away; it stays.
type File struct {
	path string // absolute
	opt  FileOptions

	w      Writer // its w is the File's write; its lock guards what follows
	f      *os.File
	lock   *os.File
	size   int64
	closed bool
}

// OpenFile opens the log at path for writing and makes it if need be; its directory must exist. The numbers of an existing log go on. A line that a
// crash has torn is cut off, and a Gap entry tells how long it was.
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
	path, err := filepath.Abs(path) // rotation is not to depend on the process's directory
	if err != nil {
		return nil, fmt.Errorf("execlog: %w", err)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSymlink != 0 {
		if path, err = filepath.EvalSymlinks(path); err != nil { // one file, one lock; and rotation is not to rename the link
			return nil, fmt.Errorf("execlog: %w", err)
		}
	}
	lock, err := lockFile(path+".lock", opt.Perm)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, opt: opt, lock: lock}
	f.w.w = writerFunc(f.write)
	if err := f.open(); err != nil {
		f.Close()
		return nil, err
	}
	if f.w.seq, err = lastSeq(path); err != nil {
		f.w.lost = nil // without a number it cannot be written
		f.Close()
		return nil, err
	}
	_ = f.w.write(nil) // a gap, which is kept for later if it cannot be written
	return f, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// open opens the current file, and repairs its end.
func (f *File) open() error {
	if st, err := os.Stat(f.path); err == nil && !st.Mode().IsRegular() { // opening a FIFO would wait
		return fmt.Errorf("execlog: %s is no regular file (%v)", f.path, st.Mode().Type())
	}
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, f.opt.Perm)
	if err != nil {
		return fmt.Errorf("execlog: %w", err)
	}
	size, torn, err := repair(file)
	if err != nil {
		file.Close()
		return fmt.Errorf("execlog: %w", err)
	}
	f.f, f.size, f.w.torn = file, size, false
	if torn > 0 {
		f.w.note(loss{bytes: torn, torn: true})
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

// write appends lines to the file. What it reports as written are whole lines, unless the disk refuses even to take back the rest.
func (f *File) write(p []byte) (int, error) {
	fresh := f.f == nil // a rotation failed half-way
	if fresh {
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	if f.size > 0 && f.size+int64(len(p)) > f.opt.MaxSize {
		if err := f.rotate(); err != nil {
			return 0, err
		}
		fresh = true
	}
	skip := 0
	if fresh && p[0] == '\n' {
		skip = 1 // the torn line that this was to end stayed behind
	}
	n, err := f.f.Write(p[skip:])
	f.size += int64(n)
	n += skip
	if err != nil && n > skip {
		// Back to the end of a line, and no further: a reader may have taken the lines before it.
		whole := max(skip, bytes.LastIndexByte(p[:n], '\n')+1)
		if f.f.Truncate(f.size-int64(n-whole)) == nil {
			f.size -= int64(n - whole)
			n = whole
		}
		if n == skip {
			n = 0
		}
	}
	if err == nil && f.opt.Sync {
		err = f.f.Sync()
	}
	return n, err
}

// rotate renames the files and opens a new one. It can be tried again after it failed anywhere.
func (f *File) rotate() error {
	// Renaming starts at the first name that is free: a hole which a failure left is filled, rather than moved on at the cost of the oldest file.
	last := 1
	for last < f.opt.MaxFiles-1 && exists(rotated(f.path, last)) {
		last++
	}
	if f.opt.MaxFiles == 1 { // a new file rather than an empty one, so that readers see it
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		last = 0
	}
	for i := last; i > 0; i-- {
		err := os.Rename(rotated(f.path, i-1), rotated(f.path, i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f.f.Close()
	f.f, f.size = nil, 0
	for _, i := range rotations(f.path) { // of a time when there could be more
		if i >= f.opt.MaxFiles {
			_ = os.Remove(rotated(f.path, i))
		}
	}
	if err := f.open(); err != nil {
		return err
	}
	if f.opt.Sync {
		return syncDir(filepath.Dir(f.path))
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the file; Gap entries that are due are tried once more. Idempotent. Readers are not ended.
func (f *File) Close() error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	var errs []error
	if f.f != nil {
		errs = append(errs, f.w.write(nil), f.f.Close())
	}
	unlockFile(f.lock) // the lock file stays, so that nobody locks another one of the name
	return errors.Join(errs...)
}

// Read implements Reader; see the function Read. It also reads a closed log.
func (f *File) Read(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return Read(ctx, f.path, q)
}

// Path returns the absolute path of the current file.
func (f *File) Path() string { return f.path }

var (
	_ io.Closer = (*File)(nil)
	_ Reader    = (*File)(nil)
	_ Reader    = (*Ring)(nil)
)
