package agent

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// chunk is the size of a copy buffer: the capacity of a pipe, and what the
// channel sends at once.
const chunk = 64 << 10

// maxTail bounds what is read from a cut terminal, whose fill level the kernel
// does not tell: more than its buffers hold.
const maxTail = 1 << 20

var buffers = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// outCopy moves a process's output to the host.
type outCopy struct {
	f      *os.File       // read end of the pipe, or the terminal; in Go's poller
	w      io.WriteCloser // nil = discard (a terminal must be read anyway)
	tty    bool
	stderr bool
	n      int64 // bytes written to w; final after done
	cut    bool  // a writer still held the pipe; final after done
	done   chan struct{}
}

// copy runs until every writer closed the pipe, the deadline of f has passed
// (then what the pipe holds is still sent), or the host wants no more, which the
// process sees as a closed pipe.
func (o *outCopy) copy() {
	defer close(o.done)
	if o.w != nil {
		defer o.w.Close()
	}
	defer o.f.Close()
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	grown := 0
	var hup hangup
	for {
		n, err := o.f.Read(*bp)
		if !o.send((*bp)[:n]) {
			return
		}
		if o.tty && hup.again(err) {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			o.tail(*bp)
			return
		}
		if err != nil {
			return // io.EOF, or the hang-up of a terminal
		}
		if n == len(*bp) && !o.tty {
			if grown++; grown == 8 {
				growPipe(o.f)
			}
		}
	}
}

// send writes p to the host and reports whether to go on.
func (o *outCopy) send(p []byte) bool {
	if o.w == nil || len(p) == 0 {
		return true
	}
	n, err := o.w.Write(p)
	o.n += int64(n)
	return err == nil
}

// hangup tells the end of a terminal's output, EIO, from Linux's race before it.
// The kernel looks for input and then for a closed other side; a last line that
// is written and closed between the two looks reports EIO although the line is
// there. The line is in the buffer by then, so one more read tells.
type hangup bool

// again reports whether to read once more: after the first EIO since the last byte.
func (h *hangup) again(err error) bool {
	*h = hangup(errors.Is(err, unix.EIO)) && !*h
	return bool(*h)
}

// growPipe makes a pipe that carries much larger: fewer wake-ups. It is an
// attempt; an unprivileged user's pipes are limited.
func growPipe(f *os.File) {
	if rc, err := f.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 4*chunk) })
	}
}

// tail sends what the pipe holds now. A pipe whose writers are all gone ends
// within it, so that the host's slowness alone never counts as cut.
func (o *outCopy) tail(buf []byte) {
	left := maxTail
	rc, err := o.f.SyscallConn()
	if err != nil {
		o.cut = true
		return
	}
	if !o.tty {
		_ = rc.Control(func(fd uintptr) {
			if n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
				left = n
			}
		})
	}
	var hup hangup
	for {
		var n int
		var rerr error
		cerr := rc.Control(func(fd uintptr) {
			// At least one byte, to tell an empty pipe from an ended one.
			n, rerr = unix.Read(int(fd), buf[:max(1, min(left, len(buf)))])
		})
		if rerr == unix.EINTR || o.tty && hup.again(rerr) {
			continue
		}
		if cerr != nil || rerr != nil {
			o.cut = rerr == unix.EAGAIN || cerr != nil
			return
		}
		if n == 0 {
			return
		}
		if !o.send(buf[:n]) {
			return
		}
		if left -= n; left < 0 || (o.tty && left == 0) {
			o.cut = true
			return
		}
	}
}

// inCopy moves the host's stdin bytes to the process.
type inCopy struct {
	r    *channel.InStream
	f    *os.File // write end of the pipe, or the terminal; in Go's poller
	tty  bool
	n    atomic.Int64 // bytes that the pipe took
	done chan struct{}
}

// copy runs until the host's end of input, which closes the pipe, or until the
// process takes no more, which the host is told.
func (c *inCopy) copy(x *channel.Exec) {
	defer close(c.done)
	defer c.r.Close()
	defer c.f.Close()
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	last := byte('\n')
	for {
		n, err := c.r.Read(*bp)
		if n > 0 {
			m, werr := c.f.Write((*bp)[:n])
			c.n.Add(int64(m))
			if werr != nil {
				_ = x.StdinClosed(c.n.Load())
				return
			}
			last = (*bp)[n-1]
		}
		if err == io.EOF && c.tty {
			c.typeEOF(last)
		}
		if err != nil {
			return
		}
	}
}

// typeEOF types the terminal's end-of-file character, as a user would: twice
// after an unfinished line, because the first one only sends the line.
func (c *inCopy) typeEOF(last byte) {
	rc, err := c.f.SyscallConn()
	if err != nil {
		return
	}
	var eof byte
	_ = rc.Control(func(fd uintptr) {
		t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err == nil && t.Lflag&unix.ICANON != 0 {
			eof = t.Cc[unix.VEOF]
		}
	})
	switch {
	case eof == 0: // raw mode: the program sees bytes only
	case last == '\n' || last == '\r':
		_, _ = c.f.Write([]byte{eof})
	default:
		_, _ = c.f.Write([]byte{eof, eof})
	}
}

// cancel ends copy, whether it waits for the host or for the process.
func (c *inCopy) cancel() {
	c.r.Cancel()
	c.f.Close()
}
