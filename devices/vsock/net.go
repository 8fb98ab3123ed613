package vsock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
	_ net.Listener  = (*Listener)(nil)
	_ net.Addr      = Addr{}
	_ closeWriter   = (*Conn)(nil)
	_ net.Error     = (*netError)(nil)
	_ error         = (*ProtocolError)(nil)
	_ deadlineMaker = (*Listener)(nil)
)

type (
	closeWriter   interface{ CloseWrite() error }
	deadlineMaker interface{ SetDeadline(time.Time) error }
)

// network is what Addr.Network and net.OpError.Net say.
const network = "vsock"

// Operations of net.OpError.
const (
	opAccept = "accept"
	opClose  = "close"
	opDial   = "dial"
	opListen = "listen"
	opRead   = "read"
	opSet    = "set"
	opWrite  = "write"
)

// Addr is a vsock address.
type Addr struct {
	CID  uint64
	Port uint32
}

// Network implements net.Addr: "vsock".
func (a Addr) Network() string { return network }

// String implements net.Addr: "cid:port".
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// deadline wakes a waiting reader, writer or accepter when its time has come.
// The zero value is no deadline.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	timer *time.Timer
}

// set replaces the deadline. token is the channel that those wait on.
func (d *deadline) set(t time.Time, token chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		if wait := time.Until(t); wait > 0 {
			d.timer = time.AfterFunc(wait, func() { wake(token) })
		}
	}
	wake(token) // who waits must look at the new deadline
}

// passed says whether the deadline is over.
func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.at.IsZero() && time.Until(d.at) <= 0
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// Conn is a stream connection between the host program and the guest: a
// net.Conn with CloseWrite and WriteTo.
//
// Errors of its methods are *net.OpError, except io.EOF; see the error
// variables of this package for what they wrap.
//
// Concurrency: all methods are safe for any number of goroutines. Concurrent
// Reads are served one after the other, and so are Writes.
type Conn struct {
	d  *Device
	ep *endpoint

	readMu  sync.Mutex // the ring has one consumer; before Device.mu
	writeMu sync.Mutex // pend has one owner; before Device.mu

	readDeadline, writeDeadline deadline
}

func newConn(d *Device, ep *endpoint) *Conn { return &Conn{d: d, ep: ep} }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return Addr{HostCID, c.ep.key.host} }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.d.cfg.GuestCID, c.ep.key.guest} }

// opError wraps err, nil and io.EOF excepted.
func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// endError is the error of a connection that is over for the reason in st.
func endError(st *connState) error {
	switch st.Reason {
	case reasonClosed:
		return net.ErrClosed
	case reasonRefused:
		return ErrRefused
	case reasonTimeout:
		return ErrConnectTimeout
	case reasonViolation:
		return &ProtocolError{Fault: st.Fault}
	}
	return ErrReset
}

// readStateLocked is what Read returns once the ring is empty; nil: wait.
func (c *Conn) readStateLocked() error {
	st := &c.ep.st
	switch {
	case st.LocalShut&ShutdownReceive != 0 || st.Reason == reasonClosed:
		return net.ErrClosed
	case st.Reason == reasonViolation:
		return endError(st)
	case st.PeerShut&ShutdownSend != 0:
		return io.EOF // also after a RST: the guest had finished
	case st.Phase >= phaseReset:
		return endError(st)
	}
	return nil
}

// writeStateLocked is why no more can be written, or nil.
func (c *Conn) writeStateLocked() error {
	st := &c.ep.st
	switch {
	case st.LocalShut&ShutdownReceive != 0 || st.Reason == reasonClosed:
		return net.ErrClosed
	case st.LocalShut&ShutdownSend != 0, st.PeerShut&ShutdownReceive != 0, st.Reason == reasonClean:
		return ErrBrokenPipe
	case st.Phase >= phaseReset:
		return endError(st)
	}
	return nil
}

// waitData returns unread bytes of the ring, or why there are none and will be
// none. Bytes that arrived before the end come before the error.
// Preconditions: c.readMu is held.
func (c *Conn) waitData() ([]byte, error) {
	for {
		c.d.mu.Lock()
		err := c.readStateLocked()
		c.d.mu.Unlock()
		if err == net.ErrClosed {
			return nil, err
		}
		if c.readDeadline.passed() {
			return nil, os.ErrDeadlineExceeded
		}
		// Looked at after the state: what precedes the end is in the ring by
		// the time the end is visible.
		if p := c.ep.rx.peek(); len(p) > 0 {
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		<-c.ep.readable
	}
}

// consumed tells the machine that n bytes left the ring.
func (c *Conn) consumed(n int) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.d.mux.step(c.ep, event{kind: evRead, n: uint64(n)})
	c.d.changedLocked()
}

// Read implements net.Conn. It returns io.EOF when the guest has shut its
// sending direction and everything it sent was read. Bytes that arrived before a
// reset are read before ErrReset is returned.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if _, err := c.waitData(); err != nil {
		return 0, c.opError(opRead, err)
	}
	n := c.ep.rx.read(p)
	c.consumed(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it passes w pieces of the receive buffer
// itself, up to 16 KiB, until io.EOF (then it returns nil) or an error. The
// guest gets credit as w takes the bytes. io.Copy uses it.
func (c *Conn) WriteTo(w io.Writer) (total int64, err error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		p, err := c.waitData()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, c.opError(opRead, err)
		}
		n, err := w.Write(p)
		if n < 0 || n > len(p) {
			return total, errors.New("vsock: WriteTo: the writer returned an impossible count")
		}
		if n > 0 {
			c.ep.rx.consume(n)
			c.consumed(n)
		}
		total += int64(n)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
}

// Write implements net.Conn. It returns when all of p is in buffers of the guest
// or, for small rests while the guest is slow, in a buffer of 16 KiB that is sent
// as soon as the guest makes room. p goes straight into guest memory.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	d, ep := c.d, c.ep
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := c.writeStateLocked(); err != nil {
		return 0, c.opError(opWrite, err)
	}
	if c.writeDeadline.passed() {
		return 0, c.opError(opWrite, os.ErrDeadlineExceeded)
	}
	ep.pend = p
	d.mux.step(ep, event{kind: evWrite, n: uint64(len(p))})
	d.changedLocked()
	for len(ep.pend) > 0 {
		err := c.writeStateLocked()
		if err == nil && c.writeDeadline.passed() {
			err = os.ErrDeadlineExceeded
		}
		if err != nil {
			rest := len(ep.pend)
			ep.pend = nil
			d.mux.step(ep, event{kind: evUnwrite, n: uint64(rest)})
			d.changedLocked() // a SHUTDOWN may have waited for the rest
			return len(p) - rest, c.opError(opWrite, err)
		}
		if ep.stagePend() {
			break
		}
		d.mu.Unlock()
		<-ep.writable
		d.mu.Lock()
	}
	ep.pend = nil
	return len(p), nil
}

// stagePend moves a small rest of a Write to the stage, so that many small
// writes to a slow guest become few packets and need not wait.
func (e *endpoint) stagePend() bool {
	if len(e.pend) > stageWriteMax {
		return false
	}
	if e.stage == nil {
		e.stage = newRing(stageSize)
	}
	if e.stage.free() < len(e.pend) {
		return false
	}
	e.stage.write(e.pend)
	e.pend = nil
	return true
}

// CloseWrite shuts the sending direction: after all that was written, the guest
// reads end-of-file. Reading goes on. Errors: net.ErrClosed, ErrReset.
func (c *Conn) CloseWrite() error {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := c.writeStateLocked(); err != nil && err != ErrBrokenPipe {
		return c.opError(opClose, err)
	}
	d.mux.step(c.ep, event{kind: evCloseWrite})
	d.changedLocked()
	wake(c.ep.writable) // a blocked Write ends
	return nil
}

// Close implements net.Conn. It returns at once; what was written is still sent,
// within the limits of Config.CloseTimeout. Blocked Reads and Writes return
// net.ErrClosed. Idempotent; always nil.
func (c *Conn) Close() error {
	d := c.d
	d.mu.Lock()
	if c.ep.st.LocalShut&ShutdownReceive == 0 {
		d.mux.step(c.ep, event{kind: evClose})
		d.changedLocked()
	}
	wake(c.ep.readable)
	wake(c.ep.writable)
	d.mu.Unlock()
	c.readDeadline.stop()
	c.writeDeadline.stop()
	return nil
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.settable(); err != nil {
		return err
	}
	c.readDeadline.set(t, c.ep.readable)
	c.writeDeadline.set(t, c.ep.writable)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if err := c.settable(); err != nil {
		return err
	}
	c.readDeadline.set(t, c.ep.readable)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if err := c.settable(); err != nil {
		return err
	}
	c.writeDeadline.set(t, c.ep.writable)
	return nil
}

// settable is net.ErrClosed for a closed connection.
func (c *Conn) settable() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	if c.ep.st.LocalShut&ShutdownReceive != 0 || c.d.closed {
		return c.opError(opSet, net.ErrClosed)
	}
	return nil
}
