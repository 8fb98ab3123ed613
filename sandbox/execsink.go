package sandbox

import (
	"errors"
	"io"
	"syscall"
)

// An ExecSink is the writing end of a command's standard input. Write may be called from one goroutine at a time, and Close from any.
type ExecSink struct {
	h *ExecHandle
	r *io.PipeReader
	w *io.PipeWriter
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
	if errors.Is(err, syscall.EPIPE) {
		s.h.stdinError(err)
	}
	return n, err
}

// Close is the end of the command's input. On a terminal it types the end-of-file character (Ctrl-D, unless the program changed it). Output
// goes on. Idempotent; always nil.
func (s *ExecSink) Close() error { return s.w.Close() }
