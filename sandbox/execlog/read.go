package execlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"
)

// Read reads the log at path, its rotated files first, and follows it if q says so, also while another process writes and rotates it. A log
// that does not exist is fs.ErrNotExist, unless it is to be followed. A reader whose file was removed before it was read gets a Gap entry.
func Read(ctx context.Context, path string, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := &fileReader{ctx: ctx, path: path, q: &q, yield: yield, at: q.After}
		defer r.close()
		r.read()
	}
}

// fileReader is one reading of a log.
type fileReader struct {
	ctx   context.Context
	path  string
	q     *Query
	yield func(Entry, error) bool
	at    uint64 // the highest number seen
	tail  *tail  // of the entries before Follow
	stop  bool   // the consumer wants no more

	f    *os.File
	in   *bufio.Reader
	name string
	line int
	part []byte // the start of a line that is not complete
	long bool   // it is longer than maxLine
}

func (r *fileReader) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

func (r *fileReader) read() {
	if r.q.Tail > 0 {
		r.tail = &tail{n: r.q.Tail}
	}
	files, err := r.openAll()
	if err != nil {
		r.yield(Entry{}, err)
		return
	}
	for i, f := range files {
		r.use(f)
		if !r.stop && r.ctx.Err() == nil {
			r.lines(i < len(files)-1)
		}
		if i < len(files)-1 {
			r.close()
		}
	}
	if !r.q.Follow && len(r.part) > 0 {
		r.corrupt(io.ErrUnexpectedEOF)
	}
	if r.tail != nil {
		list := r.tail.list
		r.tail = nil
		for _, e := range list {
			r.give(e, nil)
		}
	}
	if r.q.Follow {
		r.follow()
	}
}

// openAll opens the files of the log, the oldest first. A rotation while it looks shows as one file twice or none, and it looks again.
func (r *fileReader) openAll() ([]*os.File, error) {
	for {
		var files []*os.File
		var infos []os.FileInfo
		for i := 0; ; i++ {
			f, err := os.Open(rotated(r.path, i))
			if err != nil {
				if !errors.Is(err, fs.ErrNotExist) || i == 0 && !r.q.Follow && len(files) == 0 && !exists(rotated(r.path, 1)) {
					closeAll(files)
					return nil, fmt.Errorf("execlog: %w", err)
				}
				if i > 0 || !exists(rotated(r.path, 1)) {
					break
				}
				continue
			}
			info, err := f.Stat()
			if err != nil {
				closeAll(append(files, f))
				return nil, fmt.Errorf("execlog: %w", err)
			}
			files, infos = append([]*os.File{f}, files...), append(infos, info)
		}
		now, err := os.Stat(r.path)
		if len(infos) == 0 || err == nil && os.SameFile(now, infos[0]) && distinct(infos) {
			return files, nil
		}
		closeAll(files)
		if r.ctx.Err() != nil {
			return nil, nil
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func distinct(infos []os.FileInfo) bool {
	for i := range infos {
		for j := range i {
			if os.SameFile(infos[i], infos[j]) {
				return false
			}
		}
	}
	return true
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (r *fileReader) use(f *os.File) {
	r.close()
	r.f, r.name, r.line, r.part, r.long = f, f.Name(), 0, nil, false
	r.in = bufio.NewReaderSize(f, 64<<10)
}

// lines reads what the file has. In a file that is complete, a last line without a newline is corrupt.
func (r *fileReader) lines(complete bool) {
	for !r.stop && r.ctx.Err() == nil {
		b, err := r.in.ReadSlice('\n')
		if len(r.part)+len(b) > maxLine {
			r.part, r.long = nil, true
		}
		if !r.long {
			r.part = append(r.part, b...)
		}
		switch {
		case err == nil:
			r.entry()
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			if complete && (len(r.part) > 0 || r.long) {
				r.corrupt(io.ErrUnexpectedEOF)
			}
			return
		default:
			r.give(Entry{}, fmt.Errorf("execlog: %w", err))
			r.stop = true
		}
	}
}

// entry takes the complete line in part.
func (r *fileReader) entry() {
	r.line++
	b, long := bytes.TrimSuffix(r.part, []byte("\n")), r.long
	r.part, r.long = r.part[:0], false
	if long {
		r.give(Entry{}, &CorruptError{r.name, r.line, fmt.Errorf("over %d bytes", maxLine)})
		return
	}
	e, err := decodeLine(b)
	if err != nil {
		r.give(Entry{}, &CorruptError{r.name, r.line, err})
		return
	}
	if e.Seq <= r.at {
		return // seen before a rotation, or before the cursor
	}
	if r.at > 0 && e.Seq > r.at+1 && r.q.Follow && r.tail == nil {
		r.give(missed(r.at, e.Seq-r.at-1), nil)
	}
	r.at = e.Seq
	switch {
	case !r.q.match(&e):
	case r.tail != nil:
		r.tail.add(e)
	default:
		r.give(e, nil)
	}
}

func (r *fileReader) corrupt(err error) {
	r.part, r.long = nil, false
	r.give(Entry{}, &CorruptError{r.name, r.line + 1, err})
}

func (r *fileReader) give(e Entry, err error) {
	if !r.stop {
		r.stop = !r.yield(e, err)
	}
}

// follow reads what comes, and the files that come.
func (r *fileReader) follow() {
	t := time.NewTicker(r.q.poll())
	defer t.Stop()
	for !r.stop {
		if r.f != nil {
			r.lines(false)
		}
		if moved := r.moved(); moved {
			if r.f != nil {
				r.lines(true) // what was written before the rotation
			}
			r.next()
			continue
		}
		if r.q.over(time.Now()) {
			return
		}
		select {
		case <-t.C:
		case <-r.ctx.Done():
			return
		}
	}
}

// moved says whether the file that is read is not the current one any more, or was cut to begin anew.
func (r *fileReader) moved() bool {
	now, err := os.Stat(r.path)
	if err != nil {
		return false
	}
	if r.f == nil {
		return true
	}
	mine, err := r.f.Stat()
	if err != nil || !os.SameFile(mine, now) {
		return true
	}
	at, err := r.f.Seek(0, io.SeekCurrent)
	return err == nil && now.Size() < at
}

// next goes on with the files that came after the one that was read; what they hold twice is told by its number.
func (r *fileReader) next() {
	files, err := r.openAll()
	if err != nil {
		r.give(Entry{}, err)
		r.stop = true
		return
	}
	for i, f := range files {
		r.use(f)
		r.lines(i < len(files)-1)
	}
}
