package execlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// tail keeps the last n entries.
type tail struct {
	n    int
	list []Entry
	at   int // the oldest in list, once it is full
}

func (t *tail) add(e Entry) {
	if len(t.list) < t.n {
		t.list = append(t.list, e)
		return
	}
	t.list[t.at] = e
	t.at = (t.at + 1) % t.n
}

// all returns what was kept, the oldest first.
func (t *tail) all() []Entry { return append(t.list[t.at:len(t.list):len(t.list)], t.list[:t.at]...) }

// last fills the tail, from the end of the newest of files backwards, so that its cost is that of the entries wanted and not of the log. It leaves
// the newest file open, and closes the others.
func (r *fileReader) last(files []*os.File) {
	if len(files) == 0 {
		return
	}
	newest := len(files) - 1
	defer closeAll(files[:newest])
	var end int64
	for i := newest; i >= 0 && len(r.tail.list) < r.tail.n && !r.done(); i-- {
		st, err := files[i].Stat()
		if err != nil {
			r.fail(fmt.Errorf("execlog: %w", err))
			break
		}
		size := st.Size()
		if i == newest { // what is behind its last newline may become a line yet
			if size, err = lastNewline(files[i], size); err != nil {
				r.fail(fmt.Errorf("execlog: %w", err))
				break
			}
			end = size
		}
		r.lastOf(files[i], size)
	}
	slices.Reverse(r.tail.list)
	r.use(files[newest])
	if _, err := r.f.Seek(end, io.SeekStart); err != nil {
		r.fail(fmt.Errorf("execlog: %w", err))
	}
	r.off, r.uncounted = end, end
	r.lines() // the start of an unfinished line, and what came meanwhile
}

// lastOf adds the entries of one file to the tail, the newest first, until it is full.
func (r *fileReader) lastOf(f *os.File, size int64) {
	lines, seen := -1, 0 // of the file, which are counted only if it must be told which of them is wrong; and read so far
	err := backwards(f, size, func(start int64, b []byte, whole bool) bool {
		seen++
		e, err := r.decode(b, whole)
		switch {
		case err != nil:
			if lines < 0 {
				n, err := countLines(f, start)
				if err != nil {
					r.fail(fmt.Errorf("execlog: %w", err))
					return false
				}
				lines = n + seen
			}
			if r.at == r.q.After {
				r.corrupted++
			}
			r.give(Entry{}, &CorruptError{f.Name(), lines - seen + 1, err})
		default:
			if r.at == r.q.After && e.Seq > r.at {
				r.at = e.Seq
			}
			if r.q.match(&e) {
				r.tail.list = append(r.tail.list, e)
			}
		}
		return !r.done() && len(r.tail.list) < r.tail.n
	})
	if err != nil && !errors.Is(err, io.EOF) { // it became shorter: somebody emptied it
		r.fail(fmt.Errorf("execlog: %w", err))
	}
}

// tailBlock is how much of a file is read backwards at once, in bytes.
const tailBlock = 64 << 10

// backwards calls f with the lines in the first end bytes of file, the last one first, until it returns false: where the line begins, its bytes
// without the newline, nil for a line longer than maxLine, and whether there is a newline. Error: io.EOF if the file is shorter than end.
func backwards(file io.ReaderAt, end int64, f func(start int64, line []byte, whole bool) bool) error {
	buf := make([]byte, 0, 2*tailBlock) // what is in the file from low on, without the lines that f has seen
	low := end
	whole := false // the line that ends behind buf has a newline there
	for first := true; ; {
		i := bytes.LastIndexByte(buf, '\n')
		switch {
		case i >= 0 && first && i == len(buf)-1: // the end of the last line
			buf, whole = buf[:i], true
		case i >= 0:
			if !f(low+int64(i)+1, short(buf[i+1:], whole), whole) {
				return nil
			}
			buf, whole = buf[:i], true
		case low == 0:
			if len(buf) > 0 || whole {
				f(0, short(buf, whole), whole)
			}
			return nil
		case len(buf) > maxLine:
			start, err := lastNewline(file, low)
			if err != nil {
				return err
			}
			if !f(start, nil, whole) || start == 0 {
				return nil
			}
			low, buf, whole = start-1, buf[:0], true
		default:
			k := int(min(tailBlock, low))
			buf = slices.Grow(buf, k)
			buf = buf[:len(buf)+k]
			copy(buf[k:], buf)
			if m, err := file.ReadAt(buf[:k], low-int64(k)); m < k {
				return err
			}
			low -= int64(k)
			continue
		}
		first = false
	}
}

// short returns line, or nil if it is longer than maxLine with its newline.
func short(line []byte, whole bool) []byte {
	size := len(line)
	if whole {
		size++
	}
	if size > maxLine {
		return nil
	}
	return line
}

// countLines counts the newlines in the first end bytes of file.
func countLines(file io.ReaderAt, end int64) (int, error) {
	n, buf := 0, make([]byte, tailBlock)
	in := io.NewSectionReader(file, 0, end)
	for {
		m, err := in.Read(buf)
		n += bytes.Count(buf[:m], []byte("\n"))
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return 0, err
		}
	}
}
