package sandbox

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// consoleRing bounds what is kept of the serial console; older bytes are dropped and counted.
	consoleRing = 256 << 10
	// consoleTail bounds what an error carries of it.
	consoleTail = 4 << 10
)

// console collects the guest's serial output. Write is called on a virtual CPU's thread, so it never waits for a reader: bytes go into a
// ring, and a goroutine of its own forwards them to the caller's writer, however slow that is. A writer that cannot keep up loses the
// oldest bytes, which are counted.
type console struct {
	mu      sync.Mutex // guards all below but out
	ring    []byte     // the last bytes, oldest first; between cuts up to twice consoleRing
	end     uint64     // absolute position after the last byte
	sent    uint64     // absolute position up to which out has been written
	closed  bool
	wake    *sync.Cond
	done    chan struct{} // closed when the forwarding goroutine has ended
	out     io.Writer
	dropped atomic.Uint64
}

func newConsole(out io.Writer) *console {
	c := &console{out: out, done: make(chan struct{})}
	c.wake = sync.NewCond(&c.mu)
	if out == nil {
		close(c.done)
		return c
	}
	go c.forward()
	return c
}

// Write takes guest output; it never fails and never blocks on a reader.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(p)
	c.end += uint64(n)
	if n >= consoleRing {
		c.ring = append(c.ring[:0], p[n-consoleRing:]...)
	} else {
		if over := len(c.ring) + n - 2*consoleRing; over > 0 || cap(c.ring) == 0 {
			c.compactLocked()
		}
		c.ring = append(c.ring, p...)
	}
	c.wake.Signal()
	return n, nil
}

// compactLocked keeps the ring's last half. The slice is let grow to twice the bound and then cut, so that a byte costs O(1).
func (c *console) compactLocked() {
	if len(c.ring) > consoleRing {
		n := copy(c.ring, c.ring[len(c.ring)-consoleRing:])
		c.ring = c.ring[:n]
	}
}

// tail returns a copy of the last n bytes.
func (c *console) tail(n int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ring) < n {
		n = len(c.ring)
	}
	return bytes.Clone(c.ring[len(c.ring)-n:])
}

// panicMessage returns the text after "Kernel panic - not syncing: " in what the console holds, or "".
func (c *console) panicMessage() (msg string, found bool) {
	const mark = "Kernel panic - not syncing"
	text := c.tail(consoleRing)
	i := bytes.LastIndex(text, []byte(mark))
	if i < 0 {
		return "", false
	}
	rest := text[i+len(mark):]
	if j := bytes.IndexByte(rest, '\n'); j >= 0 {
		rest = rest[:j]
	}
	const most = 200 // the line comes from the guest
	if len(rest) > most {
		rest = rest[:most]
	}
	return sanitize(bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(rest), []byte(":")))), true
}

// initMarks are what a guest prints once its kernel has turned to the first program: init/main.c, kernel/exit.c; the last is our agent's.
var initMarks = []string{"Run /init as init process", "Failed to execute /init", "Attempted to kill init!", "No working init found", "hutch-agent: "}

// evidence tells what the console shows of the boot.
func (c *console) evidence() (printed, init bool) {
	text := c.tail(consoleRing)
	for _, mark := range initMarks {
		init = init || bytes.Contains(text, []byte(mark))
	}
	return len(text) > 0, init
}

// forward writes the console to out until close, then what is left.
func (c *console) forward() {
	defer close(c.done)
	buf := make([]byte, 0, 32<<10)
	for {
		c.mu.Lock()
		for c.sent == c.end && !c.closed {
			c.wake.Wait()
		}
		if c.sent == c.end {
			c.mu.Unlock()
			return
		}
		if oldest := c.end - uint64(len(c.ring)); c.sent < oldest {
			c.dropped.Add(oldest - c.sent)
			c.sent = oldest
		}
		from := c.ring[len(c.ring)-int(c.end-c.sent):]
		buf = append(buf[:0], from[:min(len(from), cap(buf))]...)
		c.sent += uint64(len(buf))
		c.mu.Unlock()
		if _, err := c.out.Write(buf); err != nil {
			return // the caller's writer is gone; the ring goes on filling for errors
		}
	}
}

// close ends the forwarding goroutine once it has written what there is. It does not wait for it: the caller's writer may hang for ever,
// and Close must not.
func (c *console) close() {
	c.mu.Lock()
	c.closed = true
	c.wake.Broadcast()
	c.mu.Unlock()
}
