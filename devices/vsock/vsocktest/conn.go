//go:build unix

package vsocktest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
)

// ErrReset is what a Conn returns after the host's RST.
var ErrReset = errors.New("vsocktest: reset by the host")

// Conn is the guest's end of a connection.
type Conn struct {
	g    *Guest
	k    [2]uint32 // guest port, host port
	cond *sync.Cond

	open, closed       bool
	err                error // reset or stack closed
	peerShut, myShut   uint32
	buf                []byte // unread
	packets            []int  // sizes of what is in buf, for the packet count limit
	received, fwd      uint32
	told               uint32
	sent               uint32
	peerAlloc, peerFwd uint32
	rd, wd             time.Time
	rt, wt             *time.Timer
	writing            sync.Mutex // keeps the bytes of one Write together
}

func (c *Conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	delete(c.g.conns, c.k)
	c.cond.Broadcast()
}

func (c *Conn) send(op vsock.Op, flags uint32, payload []byte) {
	c.g.waitSlot()
	if c.err != nil {
		return // the host's RST came while we waited
	}
	h := Header(op, c.k[0], c.k[1])
	h.Flags, h.BufAlloc, h.FwdCnt = flags, guestBufAlloc, c.fwd
	c.told = c.fwd
	c.g.transmit(&h, payload)
}

// packet handles a packet of this connection.
func (c *Conn) packet(h *vsock.Header, payload []byte) {
	if h.Op == vsock.OpRst {
		c.fail(ErrReset)
		return
	}
	if !c.open && h.Op != vsock.OpResponse {
		c.g.violation("%v before RESPONSE", h)
	}
	if int32(h.FwdCnt-c.peerFwd) < 0 || h.FwdCnt-c.peerFwd > c.sent-c.peerFwd {
		c.g.violation("fwd_cnt %d not in %d..%d", h.FwdCnt, c.peerFwd, c.sent)
	}
	c.peerAlloc, c.peerFwd = h.BufAlloc, h.FwdCnt
	switch h.Op {
	case vsock.OpResponse:
		c.open = true
	case vsock.OpRW:
		c.data(payload)
	case vsock.OpShutdown:
		c.peerShut |= h.Flags
		if c.peerShut == vsock.ShutdownReceive|vsock.ShutdownSend && (len(c.buf) == 0 || c.closed) {
			c.send(vsock.OpRst, 0, nil)
			c.fail(io.EOF)
			return
		}
	case vsock.OpCreditRequest:
		c.send(vsock.OpCreditUpdate, 0, nil)
	case vsock.OpCreditUpdate:
	default:
		c.g.violation("unexpected %v", h)
	}
	c.cond.Broadcast()
}

func (c *Conn) data(payload []byte) {
	if len(payload) == 0 {
		c.g.violation("RW without payload")
		return
	}
	if c.peerShut&vsock.ShutdownSend != 0 {
		c.g.violation("RW after SHUTDOWN(SEND)")
	}
	c.received += uint32(len(payload))
	if len(c.buf)+len(payload) > cap(c.buf) {
		c.buf = append(make([]byte, 0, 2*guestBufAlloc), c.buf...)
	}
	c.buf = append(c.buf, payload...)
	c.packets = append(c.packets, len(payload))
	if uint32(len(c.buf)) > guestBufAlloc || c.received-c.told > guestBufAlloc {
		c.g.violation("credit exceeded: %d bytes unread", len(c.buf))
	}
	if len(c.packets)*packetCharge > guestBufAlloc {
		c.g.violation("%d packets queued in a buffer of %d bytes", len(c.packets), guestBufAlloc)
	}
	if c.closed {
		c.take(len(c.buf))
	}
}

// take removes n unread bytes.
func (c *Conn) take(n int) {
	// Moved down rather than re-sliced: no garbage while streaming.
	c.buf = c.buf[:copy(c.buf, c.buf[n:])]
	c.fwd += uint32(n)
	for n > 0 {
		k := min(n, c.packets[0])
		n -= k
		if c.packets[0] -= k; c.packets[0] == 0 {
			c.packets = c.packets[:copy(c.packets, c.packets[1:])]
		}
	}
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case past(c.rd):
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case len(c.buf) > 0:
			n := copy(p, c.buf)
			c.take(n)
			c.afterRead()
			return n, nil
		case c.peerShut&vsock.ShutdownSend != 0:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.err
		}
		c.cond.Wait()
	}
}

// afterRead tells the host of freed space as Linux 6.1 does: when less than a
// packet's worth is left.
func (c *Conn) afterRead() {
	if c.err != nil {
		return
	}
	if guestBufAlloc-(c.fwd-c.told) < maxPacket {
		c.send(vsock.OpCreditUpdate, 0, nil)
	}
	if c.peerShut == vsock.ShutdownReceive|vsock.ShutdownSend && len(c.buf) == 0 {
		c.send(vsock.OpRst, 0, nil)
		c.fail(io.EOF)
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case past(c.wd):
			return n, os.ErrDeadlineExceeded
		case c.myShut&vsock.ShutdownSend != 0 || c.peerShut&vsock.ShutdownReceive != 0:
			return n, io.ErrClosedPipe
		case c.err != nil:
			return n, c.err
		case len(p) == n:
			return n, nil
		}
		room := int(c.peerAlloc) - int(c.sent-c.peerFwd)
		if room <= 0 {
			c.cond.Wait()
			continue
		}
		k := min(len(p)-n, room, maxPacket)
		c.sent += uint32(k)
		c.send(vsock.OpRW, 0, p[n:n+k])
		n += k
	}
}

// CloseWrite shuts the sending direction.
func (c *Conn) CloseWrite() error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.err == nil && !c.closed {
		c.myShut |= vsock.ShutdownSend
		c.send(vsock.OpShutdown, c.myShut, nil)
	}
	return nil
}

// Close implements net.Conn: SHUTDOWN of both directions; the host's RST ends
// the connection.
func (c *Conn) Close() error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.take(len(c.buf))
	if c.err == nil {
		if c.peerShut == vsock.ShutdownReceive|vsock.ShutdownSend {
			c.send(vsock.OpRst, 0, nil)
			c.fail(io.EOF)
		} else {
			c.myShut = vsock.ShutdownReceive | vsock.ShutdownSend
			c.send(vsock.OpShutdown, c.myShut, nil)
		}
	}
	c.cond.Broadcast()
	return nil
}

// Kill resets the connection at once.
func (c *Conn) Kill() {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if c.err == nil {
		c.send(vsock.OpRst, 0, nil)
		c.fail(ErrReset)
	}
	c.closed = true
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return vsock.Addr{CID: GuestCID, Port: c.k[0]} }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return vsock.Addr{CID: vsock.HostCID, Port: c.k[1]} }

func (c *Conn) setDeadline(at *time.Time, timer **time.Timer, t time.Time) {
	if *timer != nil {
		(*timer).Stop()
	}
	*at = t
	if !t.IsZero() {
		*timer = time.AfterFunc(time.Until(t), func() {
			c.g.mu.Lock()
			defer c.g.mu.Unlock()
			c.cond.Broadcast()
		})
	}
	c.cond.Broadcast()
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.setDeadline(&c.rd, &c.rt, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.setDeadline(&c.wd, &c.wt, t)
	return nil
}
