package sandbox

import (
	"errors"
	"io"
	"sync"
	"syscall"
	"time"
)

// An ExecSink is the writing end of a command's standard input. Write may be called from one goroutine at a time, and Close from any.
type ExecSink struct {
	h *ExecHandle
	r *io.PipeReader
	w *io.PipeWriter

	mu      sync.Mutex
	sent    chan struct{} // closed and made anew when passed changes
	written int64         // bytes that Write handed over
	taken   int64         // bytes that Read handed on
	passed  int64         // bytes that are on their way to the guest: the reader has come back for more
}

// sinkReader is the copying end of an ExecSink.
type sinkReader struct{ s *ExecSink }

// EndOfReads is called by package channel when the command takes no more.
func (r sinkReader) EndOfReads() { (&inputPipe{r.s.r}).EndOfReads() }

func (r sinkReader) Read(p []byte) (int, error) {
	s := r.s
	s.mu.Lock()
	s.passed = s.taken
	close(s.sent)
	s.sent = make(chan struct{})
	s.mu.Unlock()
	n, err := (&inputPipe{s.r}).Read(p)
	s.mu.Lock()
	s.taken += int64(n)
	s.mu.Unlock()
	return n, err
}

// settle waits until all that was written is on its way to the guest, at most for d: what is in the hands of the copy when the command is left
// would be lost.
func (s *ExecSink) settle(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		s.mu.Lock()
		done, sent := s.passed >= s.written, s.sent
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-sent:
		case <-s.h.gone:
			return
		case <-t.C:
			return
		}
	}
}

// TakeStdin returns the command's standard input, once: nil when it was taken before or the command was started without WithExecStdinPipe.
// Close it, or the command waits for more.
func (h *ExecHandle) TakeStdin() *ExecSink {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken {
		return nil
	}
	h.taken = true
	return h.stdin
}

// Write writes to the command and waits for room: a command that does not read stalls its writer and no one else. Once the command takes no
// more, Write fails with syscall.EPIPE; the handle then reports a StdinError.
func (s *ExecSink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.mu.Lock()
	s.written += int64(n)
	s.mu.Unlock()
	if errors.Is(err, syscall.EPIPE) {
		s.h.stdinError(err)
	}
	return n, err
}

// Close is the end of the command's input. On a terminal it types the end-of-file character (Ctrl-D, unless the program changed it). Output
// goes on. Idempotent; always nil.
func (s *ExecSink) Close() error { return s.w.Close() }
