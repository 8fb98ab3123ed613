package execlog

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrClosed is what a closed sink returns.
var ErrClosed = errors.New("execlog: the log is closed")

// A WriteError is an entry that could not be written, or of which it is not certain. The sink goes on: the next entry that can be written is
// preceded by Gap entries that count what is missing.
type WriteError struct {
	Seq uint64 // the number that the entry would have had
	Err error
}

func (e *WriteError) Error() string {
	return fmt.Sprintf("execlog: writing entry %d: %v", e.Seq, e.Err)
}

func (e *WriteError) Unwrap() error { return e.Err }

// A Writer is a Sink that writes one JSON line for each entry, with one call of Write. Make one with NewWriter.
type Writer struct {
	mu   sync.Mutex
	w    io.Writer
	seq  uint64
	lost []loss // since the last entry that could be written
	torn bool   // what is written ends within a line
	buf  []byte // of one Write
	ends []int  // where the lines in buf end
}

// A loss is output that could not be logged.
type loss struct {
	session string
	source  Source
	bytes   int64
	torn    bool // what was cut off is a part of a line: nobody knows whose
}

const (
	maxLosses      = 64   // sessions and streams that are told apart; the losses of others share one Gap
	maxLossSession = 1024 // bytes of a session's ID, so that a Gap is always a line that can be written
)

// NewWriter returns a sink on w, which is written by one goroutine at a time. The entries are numbered from 1.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Log implements Sink. Errors: *WriteError.
func (w *Writer) Log(e Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log(&e)
}

func (w *Writer) log(e *Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Source == System || len(e.Data) <= maxData {
		return w.write(e)
	}
	return split(*e, w.write)
}

// write writes the gaps that are due, and e unless it is nil.
func (w *Writer) write(e *Entry) error {
	b, err := w.encode(e)
	if err != nil {
		w.lose(e)
		return &WriteError{Seq: w.seq + 1, Err: err}
	}
	if len(w.ends) == 0 {
		return nil
	}
	written, gaps := 0, len(w.lost) // Write may find another one
	n, err := w.w.Write(b)
	n = max(0, min(n, len(b)))
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if n > 0 {
		w.torn = b[n-1] != '\n'
	}
	for written < len(w.ends) && w.ends[written]-1 <= n { // one that lacks only its newline will get it
		written++
	}
	// The numbers of lines that are there are never used again, whatever became of the rest.
	w.seq += uint64(written)
	w.lost = append(w.lost[:0], w.lost[min(written, gaps):]...)
	if err == nil {
		return nil
	}
	seq := w.seq
	if e != nil && written <= gaps {
		seq += uint64(gaps-written) + 1
		w.lose(e)
	}
	return &WriteError{Seq: seq, Err: err}
}

// encode fills buf and ends.
func (w *Writer) encode(e *Entry) ([]byte, error) {
	b, seq := w.buf[:0], w.seq
	w.ends = w.ends[:0]
	if w.torn {
		b = append(b, '\n') // makes what is there a corrupt line by itself
	}
	var err error
	for _, l := range w.lost {
		seq++
		if b, err = appendLine(b, l.entry(seq)); err != nil {
			return nil, err
		}
		w.ends = append(w.ends, len(b))
	}
	if e != nil {
		if e.Source == "" {
			return nil, errNoSource
		}
		seq++
		e.Seq = seq
		if b, err = appendLine(b, e); err != nil {
			return nil, err
		}
		w.ends = append(w.ends, len(b))
	}
	if cap(b) <= maxLine {
		w.buf = b[:0]
	}
	return b, nil
}

// lose notes that e is not in the log.
func (w *Writer) lose(e *Entry) {
	session, source := e.Session, e.Source
	if len(session) > maxLossSession || len(source) > maxLossSession {
		session, source = "", ""
	}
	w.note(loss{session: session, source: source, bytes: int64(len(e.Data))})
}

func (w *Writer) note(l loss) {
	if len(w.lost) >= maxLosses {
		l.session, l.source = "", ""
	}
	for i := range w.lost {
		if have := &w.lost[i]; have.session == l.session && have.source == l.source && have.torn == l.torn {
			have.bytes += l.bytes
			return
		}
	}
	w.lost = append(w.lost, l)
}

// entry is the Gap for l.
func (l *loss) entry(seq uint64) *Entry {
	e := &Entry{Time: time.Now(), Source: System, Session: l.session, Seq: seq, Event: &Event{Kind: Gap, Bytes: l.bytes, Source: l.source}}
	switch {
	case l.torn:
		e.Data = fmt.Appendf(nil, "the log ended within a line: its %d bytes were cut off", l.bytes)
	case l.source == "":
		e.Data = fmt.Appendf(nil, "%d bytes could not be logged", l.bytes)
	default:
		e.Data = fmt.Appendf(nil, "%d bytes of %s could not be logged", l.bytes, l.source)
	}
	return e
}
