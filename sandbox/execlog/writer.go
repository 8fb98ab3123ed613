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

// A WriteError is an entry that could not be written. The sink goes on: a later entry is preceded by a Gap that counts what is missing.
type WriteError struct {
	Seq uint64
	Err error
}

func (e *WriteError) Error() string {
	return fmt.Sprintf("execlog: writing entry %d: %v", e.Seq, e.Err)
}

func (e *WriteError) Unwrap() error { return e.Err }

// A Writer is a Sink that writes one JSON line for each entry, with one call of Write.
type Writer struct {
	mu   sync.Mutex
	w    io.Writer
	seq  uint64
	lost int64 // bytes of entries since the last that could be written
	torn bool  // the last write left the start of a line
	buf  []byte
}

// NewWriter returns a sink on w, which is written by one goroutine at a time.
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
	b := w.buf[:0]
	if w.torn {
		b = append(b, '\n') // what is there is a corrupt line by itself
	}
	seq := w.seq
	var err error
	if w.lost > 0 {
		seq++
		gap := Entry{Time: e.Time, Source: System, Seq: seq, Data: fmt.Appendf(nil, "%d bytes were not logged", w.lost), Event: &Event{Kind: Gap, Bytes: w.lost}}
		if b, err = appendLine(b, &gap); err != nil {
			return err
		}
	}
	seq++
	e.Seq = seq
	if b, err = appendLine(b, e); err != nil {
		w.lost += int64(len(e.Data))
		return err
	}
	w.buf = b[:0]
	n, err := w.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.torn = w.torn && n == 0 || n > 0
		w.lost += max(int64(len(e.Data)), 1)
		return &WriteError{Seq: seq, Err: err}
	}
	w.seq, w.lost, w.torn = seq, 0, false
	return nil
}
