package sandbox

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// DefaultMaxOutput bounds what Exec, Shell, Output and CombinedOutput collect of each stream: 64 MiB. A command that prints more is ended and
// the call returns an *OutputLimitError: a guest must not be able to exhaust the host's memory. For more, give Cmd a Writer of your own.
const DefaultMaxOutput = 64 << 20

// An OutputLimitError says that a command printed more than its caller was ready to collect. What was collected is in the result.
type OutputLimitError struct {
	Limit int // bytes of one stream
}

func (e *OutputLimitError) Error() string {
	return fmt.Sprintf("the command printed more than %d bytes; stream its output to a Writer of your own, through Cmd.Stdout and Cmd.Stderr", e.Limit)
}

// capture collects output up to a limit. After seal nothing is added any more: a copy that is still inside Write when a command was given up
// must not touch what the caller reads.
type capture struct {
	mu     sync.Mutex
	buf    bytes.Buffer // at most limit bytes
	limit  int
	full   func() // called once, when the limit is reached
	sealed bool
}

// newCapture collects for c, which is ended when it prints too much: closing its pipe alone would leave it running if it ignores that.
func newCapture(c *Cmd) *capture {
	return &capture{limit: DefaultMaxOutput, full: c.kill}
}

// Write fails with an *OutputLimitError at the limit, and takes what fits.
func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sealed {
		return len(p), nil
	}
	if room := c.limit - c.buf.Len(); len(p) > room {
		c.buf.Write(p[:room])
		c.sealed = true
		c.full()
		return room, &OutputLimitError{Limit: c.limit}
	}
	return c.buf.Write(p)
}

// seal ends the collecting and returns what was collected. The caller owns it.
func (c *capture) seal() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed = true
	return c.buf.Bytes()
}

// A collector gathers one stream of a command.
type collector interface {
	io.Writer
	collected() (kept []byte, dropped int64) // ends the collecting
}

// newCollector collects what c's options say.
func newCollector(c *Cmd) collector {
	if c.maxOutput > 0 {
		return newHeadTail(c.maxOutput)
	}
	return newCapture(c)
}

func (c *capture) collected() ([]byte, int64) { return c.seal(), 0 }

func (h *headTail) collected() ([]byte, int64) {
	kept := h.Bytes()
	h.mu.Lock()
	defer h.mu.Unlock()
	return kept, h.dropped
}

func newResult(state *ProcessState, stdout, stderr collector) *Result {
	r := &Result{state: state}
	r.stdout, r.droppedStdout = stdout.collected()
	r.stderr, r.droppedStderr = stderr.collected()
	return r
}
