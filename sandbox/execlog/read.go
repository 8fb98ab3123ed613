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

// Read reads the log at path, its rotated files first, and follows it if q says so, also while another process writes and rotates it. Reader
// describes what is yielded. Of a log that begins anew while it is followed, because somebody removed or emptied its files, all entries are new.
//
// Memory is bounded by Query.Tail entries and a line: one longer than 1 MiB is corrupt and is not read wholly. An unfinished last line is
// waited for, and is corrupt if it stays so. Errors: fs.ErrNotExist for a log that does not exist and is not to be followed; *CorruptError; those
// of reading files.
//
// For Query.Tail the files are read from their end, and no further than it needs: what is corrupt there is reported before the entries, the last
// line first.
func Read(ctx context.Context, path string, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := &fileReader{ctx: ctx, path: path, q: q, yield: yield, at: q.After}
		defer r.close()
		r.read()
	}
}

// fileReader is one reading of a log.
type fileReader struct {
	ctx       context.Context
	path      string
	q         Query
	yield     func(Entry, error) bool
	at        uint64 // the number of the last entry
	corrupted uint64 // corrupt lines since: each explains one number that is missing
	tail      *tail  // of the entries before Follow
	stop      bool   // the consumer wants no more, or reading failed
	anew      bool   // the next entry may be the first of a log that began anew

	f    *os.File // nil: there is none yet
	in   *bufio.Reader
	line int    // complete lines read of f
	off  int64  // bytes of them
	part []byte // the start of the next line
	size int64  // bytes read of that line; more than part if it is too long

	uncounted int64 // bytes at the start of f whose lines are not in line, because a tail began behind them
}

// unfinished is how often, and how long, an unfinished last line is waited for.
const (
	unfinishedTries = 5
	unfinishedWait  = 10 * time.Millisecond
)

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
	files, _, err := openNewer(r.path, nil)
	if err == nil && len(files) == 0 && !r.q.Follow {
		err = fmt.Errorf("execlog: no log at %s: %w", r.path, fs.ErrNotExist)
	}
	if err != nil {
		r.fail(err)
		return
	}
	if r.tail != nil {
		r.last(files)
	} else {
		r.files(files)
	}
	if !r.q.Follow && r.f != nil {
		for range unfinishedTries {
			if r.size == 0 || r.done() {
				break
			}
			r.wait(unfinishedWait)
			r.grown()
		}
		r.finish()
	}
	if err := r.ctx.Err(); err != nil {
		if !r.q.Follow {
			r.fail(err)
		}
		return
	}
	if r.tail != nil {
		list := r.tail.all()
		r.tail = nil
		for _, e := range list {
			r.give(e, nil)
		}
	}
	if r.q.Follow {
		r.follow()
	}
}

// done says whether to read no more.
func (r *fileReader) done() bool { return r.stop || r.ctx.Err() != nil }

func (r *fileReader) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.ctx.Done():
	}
}

// files reads files, and keeps the last of them open. All others are complete.
func (r *fileReader) files(files []*os.File) {
	for i, f := range files {
		r.use(f)
		r.lines()
		if i < len(files)-1 {
			r.finish()
		}
	}
}

func (r *fileReader) use(f *os.File) {
	r.close()
	r.f, r.line, r.off, r.part, r.size, r.uncounted = f, 0, 0, r.part[:0], 0, 0
	if r.in == nil {
		r.in = bufio.NewReaderSize(f, 64<<10)
	}
	r.in.Reset(f)
}

// lines reads what the file has.
func (r *fileReader) lines() {
	for !r.done() {
		b, err := r.in.ReadSlice('\n')
		r.size += int64(len(b))
		if r.size <= maxLine {
			r.part = append(r.part, b...)
		} else {
			r.part = r.part[:0]
		}
		switch {
		case err == nil:
			r.off += r.size
			r.entry()
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return
		default:
			r.fail(fmt.Errorf("execlog: %w", err))
		}
	}
}

// again reads an unfinished line from its start: a writer whose disk is full takes back what it could write of a line, and another may be there now.
// One that is too long is only read on, unless the file became shorter.
func (r *fileReader) again(shorter bool) {
	if r.size > 0 && (shorter || r.size <= maxLine) {
		if _, err := r.f.Seek(r.off, io.SeekStart); err != nil {
			r.fail(fmt.Errorf("execlog: %w", err))
			return
		}
		r.in.Reset(r.f)
		r.part, r.size = r.part[:0], 0
	}
	r.lines()
}

// finish takes the unfinished line of a file that gets no more.
func (r *fileReader) finish() {
	if r.size > 0 && !r.done() {
		r.entry()
	}
}

// entry takes the line in part.
func (r *fileReader) entry() {
	r.line++
	whole := bytes.HasSuffix(r.part, []byte("\n"))
	b := bytes.TrimSuffix(r.part, []byte("\n"))
	if r.size > maxLine {
		b = nil
	}
	e, err := r.decode(b, whole)
	r.part, r.size = r.part[:0], 0
	if err != nil {
		r.corrupt(err)
		return
	}
	if r.anew && e.Seq <= r.at {
		r.at, r.q.After = 0, 0
	}
	r.anew = false
	if e.Seq > r.at {
		if n := e.Seq - r.at - 1; r.at > 0 && n > r.corrupted && r.tail == nil {
			r.give(missed(r.at, e.Seq-1, 0), nil)
		}
		r.at, r.corrupted = e.Seq, 0
	} else if e.Seq > r.q.After {
		r.at, r.corrupted = e.Seq, 0 // another Writer has appended
	}
	switch {
	case !r.q.match(&e):
	case r.tail != nil:
		r.tail.add(e)
	default:
		r.give(e, nil)
	}
}

// decode decodes a line: nil is one that is too long.
func (r *fileReader) decode(b []byte, whole bool) (Entry, error) {
	if b == nil {
		return Entry{}, fmt.Errorf("it has more than %d bytes", maxLine)
	}
	e, err := decodeLine(b)
	if err != nil && !whole {
		err = fmt.Errorf("the file ends within it: %w", io.ErrUnexpectedEOF)
	}
	return e, err
}

func (r *fileReader) corrupt(err error) {
	r.corrupted++
	if r.uncounted > 0 {
		if n, err := countLines(r.f, r.uncounted); err == nil {
			r.line += n
		}
		r.uncounted = 0
	}
	r.give(Entry{}, &CorruptError{r.f.Name(), r.line, err})
}

func (r *fileReader) give(e Entry, err error) {
	if !r.stop {
		r.stop = !r.yield(e, err)
	}
}

func (r *fileReader) fail(err error) {
	r.give(Entry{}, err)
	r.stop = true
}

// follow reads what comes, and the files that come.
func (r *fileReader) follow() {
	for !r.done() {
		begun := time.Now()
		switch now, err := os.Stat(r.path); {
		case err != nil: // there is none yet, or a rotation is under way
			r.grown()
		case r.f == nil:
			r.next(nil)
			continue
		default:
			mine, err := r.f.Stat()
			if err != nil {
				r.fail(fmt.Errorf("execlog: %w", err))
				return
			}
			if !os.SameFile(mine, now) {
				r.grown() // what was written before the rotation, all of it now
				r.finish()
				r.next(mine)
				continue
			}
			r.grown()
		}
		if r.q.over(begun) {
			return
		}
		r.wait(r.q.poll())
	}
}

// grown reads what came to the file.
func (r *fileReader) grown() {
	if r.f == nil {
		return
	}
	st, err := r.f.Stat()
	switch {
	case err != nil:
		r.fail(fmt.Errorf("execlog: %w", err))
	case st.Size() < r.off: // somebody emptied it
		r.anew = true
		r.line, r.off, r.size, r.uncounted = 0, 0, 1, 0
		r.again(true)
	case st.Size() != r.off+r.size || r.size > 0: // what was the start of a line may be another one of that size
		r.again(st.Size() < r.off+r.size)
	}
}

// next goes on with the files that came after mine.
func (r *fileReader) next(mine os.FileInfo) {
	files, found, err := openNewer(r.path, mine)
	if err != nil {
		r.fail(err)
		return
	}
	r.anew = mine != nil && !found // rotated away, which the numbers will tell, or a new log
	r.files(files)
}
