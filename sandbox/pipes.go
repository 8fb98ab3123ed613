package sandbox

import (
	"io"
	"syscall"

	"github.com/hutchvm/hutch/channel"
)

// outputPipe is the copying end of StdoutPipe or StderrPipe; the copy closes it when the stream ends, which is end of file for the reader.
type outputPipe struct{ w *io.PipeWriter }

func (o *outputPipe) Write(p []byte) (int, error) { return o.w.Write(p) }

// EndOfStream is called by package channel when the command's stream has ended.
func (o *outputPipe) EndOfStream() { o.w.Close() }

// outputReader is the caller's end. Closing it early is a closed pipe for the command and no failure of Wait, as with os/exec.
type outputReader struct{ r *io.PipeReader }

func (o *outputReader) Read(p []byte) (int, error) { return o.r.Read(p) }

func (o *outputReader) Close() error { return o.r.CloseWithError(channel.ErrReaderClosed) }

// inputPipe is the copying end of StdinPipe.
type inputPipe struct{ r *io.PipeReader }

// Read ends as at the end of input once this end was closed, which happens after the process has exited: no failure of the caller's.
func (i *inputPipe) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err == io.ErrClosedPipe {
		err = io.EOF
	}
	return n, err
}

// EndOfReads is called by package channel when the command takes no more: whoever writes on must not wait for ever.
func (i *inputPipe) EndOfReads() { i.r.CloseWithError(syscall.EPIPE) }
