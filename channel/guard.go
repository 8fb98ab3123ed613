package channel

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Implementation constants of the guard.
const (
	// guardBacklog is how many bytes of inbound frames may wait for yamux.
	guardBacklog = 512 << 10
	// maxCredit bounds the send window that a guest may grant on one stream;
	// beyond it yamux's 32-bit counter could wrap.
	maxCredit = 1 << 28
	// pingBurst and pingRate bound answered pings: yamux starts a goroutine
	// for each.
	pingBurst = 8
	pingRate  = 4 // per second
)

// guard is the connection below the host's yamux session. It reads the
// transport, cuts it into frames and hands yamux whole, checked frames only;
// it also resets single streams, which yamux's API cannot.
//
// Against a peer that keeps the protocol it is invisible.
type guard struct {
	conn net.Conn
	out  *batchWriter
	done chan struct{} // closed when the pump has ended

	mu       sync.Mutex // after out.mu
	cond     sync.Cond
	ready    []byte // frames for yamux, from off on
	off      int
	streams  map[uint32]*guardStream
	maxID    uint32 // highest stream id that this end opened
	pings    tokens
	pongs    int // pings handed to yamux whose answer it has not sent
	goneAway bool
	err      error // why Read ends, once ready is drained
	closed   bool
}

// guardStream is what the guard knows of one open stream.
type guardStream struct {
	acked  bool
	sealed bool  // the guest must not send data
	recv   int64 // bytes the guest may still send
	send   int64 // bytes the host may still send
	inFIN  bool
	outFIN bool
}

// tokens is a token bucket; the zero value is full at its first use.
type tokens struct {
	n    float64
	last time.Time
}

func (t *tokens) take(now time.Time, rate, burst float64) bool {
	if t.last.IsZero() {
		t.n = burst
	} else {
		t.n = min(burst, t.n+now.Sub(t.last).Seconds()*rate)
	}
	t.last = now
	if t.n < 1 {
		return false
	}
	t.n--
	return true
}

func newGuard(conn net.Conn) *guard {
	g := &guard{conn: conn, done: make(chan struct{}), streams: make(map[uint32]*guardStream)}
	g.cond.L = &g.mu
	g.out = newBatchWriter(conn, g.outbound)
	go g.pump()
	return g
}

// Read gives yamux the next bytes of checked frames. Only one caller.
func (g *guard) Read(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.off == len(g.ready) && g.err == nil && !g.closed {
		g.cond.Wait()
	}
	if g.closed {
		return 0, net.ErrClosed
	}
	if g.off == len(g.ready) {
		return 0, g.err
	}
	n := copy(p, g.ready[g.off:])
	g.off += n
	if g.off == len(g.ready) {
		g.ready, g.off = g.ready[:0], 0
	}
	g.cond.Broadcast()
	return n, nil
}

func (g *guard) Write(p []byte) (int, error) { return g.out.Write(p) }

// Close unblocks Read and Write even if the transport's Close does not.
func (g *guard) Close() error {
	g.mu.Lock()
	g.closed = true
	g.cond.Broadcast()
	g.mu.Unlock()
	g.out.fail(net.ErrClosed)
	return g.conn.Close()
}

// cause is why the transport ended, nil while it is open or was closed here.
func (g *guard) cause() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// pump moves frames from the transport to ready.
func (g *guard) pump() {
	defer close(g.done)
	buf := make([]byte, 0, frameHeaderSize+maxData)
	for {
		n, err := g.conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		used, perr := g.deliver(buf)
		if perr != nil {
			err = perr
		}
		if err != nil {
			g.fail(err)
			return
		}
		buf = buf[:copy(buf, buf[used:])]
	}
}

// fail makes Read return err after the frames before it.
func (g *guard) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.cond.Broadcast()
}

// deliver hands the complete frames at the start of buf to yamux and returns
// how many bytes it used. It blocks while yamux is behind.
func (g *guard) deliver(buf []byte) (used int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(buf)-used >= frameHeaderSize {
		h := parseHeader(buf[used:])
		if err := h.check(); err != nil {
			return used, err
		}
		n := frameHeaderSize + h.bodyLen()
		if len(buf)-used < n {
			return used, nil
		}
		for len(g.ready)-g.off > guardBacklog && !g.closed {
			g.cond.Wait()
		}
		if g.closed {
			return used, net.ErrClosed
		}
		pass, err := g.admit(&h, time.Now)
		if err != nil {
			return used, err
		}
		if pass {
			g.compact()
			g.ready = h.append(g.ready)
			// A reset was rewritten and has no body any more: what followed
			// it must not be read as frames.
			g.ready = append(g.ready, buf[used+frameHeaderSize:used+frameHeaderSize+h.bodyLen()]...)
			g.cond.Broadcast()
		}
		used += n
	}
	return used, nil
}

// compact moves the unread frames to the front when much was read before them.
// The caller holds g.mu.
func (g *guard) compact() {
	if g.off > guardBacklog/2 {
		g.ready, g.off = g.ready[:copy(g.ready, g.ready[g.off:])], 0
	}
}

// frameError is the violation of one inbound frame.
func frameError(h frameHeader, msg string) error {
	return &ProtocolError{Op: "frame", Msg: fmt.Sprintf("%s (type %d flags %#x stream %d length %d)", msg, h.Type, h.Flags, h.Stream, h.Length)}
}

// check refuses what no correct guest sends in any state.
func (h frameHeader) check() error {
	switch {
	case h.Version != 0:
		return frameError(h, fmt.Sprintf("version %d, want 0", h.Version))
	case h.Type > frameGoAway:
		return frameError(h, "unknown frame type")
	case h.Flags&^(flagSYN|flagACK|flagFIN|flagRST) != 0:
		return frameError(h, "unknown flag")
	}
	switch h.Type {
	case framePing:
		if h.Stream != 0 || h.Flags != flagSYN {
			return frameError(h, "ping that is not a question")
		}
	case frameGoAway:
		if h.Stream != 0 || h.Flags != 0 || h.Length > 2 {
			return frameError(h, "malformed go-away")
		}
	default:
		if h.Flags&flagSYN != 0 {
			return frameError(h, "the guest opened a stream")
		}
		if h.Stream&1 == 0 {
			return frameError(h, "stream id that the host never uses")
		}
		if h.Type == frameData && h.Length > maxData {
			return frameError(h, fmt.Sprintf("data over %d bytes", maxData))
		}
	}
	return nil
}

// admit checks a frame against its stream's state and changes the state. Frames
// for streams that are over are dropped: they were under way at a reset. The
// caller holds g.mu.
func (g *guard) admit(h *frameHeader, now func() time.Time) (pass bool, err error) {
	switch h.Type {
	case framePing:
		// An answer that cannot leave, because the guest stopped reading, holds
		// a goroutine of yamux: slow pings pile up as well.
		if !g.pings.take(now(), pingRate, pingBurst) || g.pongs >= pingBurst {
			return false, frameError(*h, "ping flood")
		}
		g.pongs++
		return true, nil
	case frameGoAway:
		if g.goneAway {
			return false, frameError(*h, "second go-away")
		}
		g.goneAway = true
		return true, nil
	}
	if h.Stream > g.maxID {
		return false, frameError(*h, "unknown stream")
	}
	s := g.streams[h.Stream]
	if s == nil {
		return false, nil
	}
	if h.Flags&flagRST != 0 {
		g.endWithReset(h, s)
		return true, nil
	}
	return true, g.admitOpen(*h, s)
}

// endWithReset forgets a stream that the guest resets. yamux frees the slot of
// an unacknowledged stream at its ACK only, so the ACK is added.
func (g *guard) endWithReset(h *frameHeader, s *guardStream) {
	delete(g.streams, h.Stream)
	*h = frameHeader{Type: frameWindow, Flags: flagRST, Stream: h.Stream}
	if !s.acked {
		h.Flags |= flagACK
	}
}

func (g *guard) admitOpen(h frameHeader, s *guardStream) error {
	ack := h.Flags&flagACK != 0
	switch {
	case ack && s.acked:
		return frameError(h, "stream acknowledged twice")
	case !ack && !s.acked:
		return frameError(h, "stream not acknowledged yet")
	case h.Flags&flagFIN != 0 && s.inFIN:
		return frameError(h, "stream closed twice")
	}
	s.acked = true
	if h.Type == frameWindow {
		s.send += int64(h.Length)
		if s.send > maxCredit {
			return frameError(h, "send window overflow")
		}
	} else if h.Length > 0 {
		s.recv -= int64(h.Length)
		switch {
		case s.inFIN:
			return frameError(h, "data after the end of the stream")
		case s.sealed:
			return frameError(h, "data on a stream towards the guest")
		case s.recv < 0:
			return frameError(h, "data over the granted window")
		}
	}
	if h.Flags&flagFIN != 0 {
		s.inFIN = true
		if s.outFIN {
			delete(g.streams, h.Stream)
		}
	}
	return nil
}

// outbound follows the frames that yamux sends.
func (g *guard) outbound(h frameHeader) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h.Type == framePing && h.Flags&flagACK != 0 {
		g.pongs--
	}
	if h.Type > frameWindow {
		return
	}
	if h.Flags&flagSYN != 0 {
		g.streams[h.Stream] = &guardStream{recv: initialWindow, send: initialWindow}
		g.maxID = max(g.maxID, h.Stream)
	}
	s := g.streams[h.Stream]
	if s == nil {
		return
	}
	if h.Type == frameWindow {
		s.recv += int64(h.Length)
	} else {
		s.send -= int64(h.Length)
	}
	if h.Flags&flagFIN != 0 {
		s.outFIN = true
		if s.inFIN {
			delete(g.streams, h.Stream)
		}
	}
	if h.Flags&flagRST != 0 {
		delete(g.streams, h.Stream)
	}
}

// seal refuses all data from the guest on a stream.
func (g *guard) seal(id uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.streams[id]; s != nil {
		s.sealed = true
	}
}

// reset ends a stream at once on both sides: yamux sees a reset by the guest
// and frees the stream, the guest sees one by the host. The end of an ended
// stream is nothing.
func (g *guard) reset(id uint32) {
	g.mu.Lock()
	s := g.streams[id]
	if s == nil || g.closed {
		g.mu.Unlock()
		return
	}
	h := frameHeader{Stream: id}
	g.endWithReset(&h, s)
	g.ready = h.append(g.ready)
	g.cond.Broadcast()
	g.mu.Unlock()
	g.out.inject(frameHeader{Type: frameWindow, Flags: flagRST, Stream: id})
}

// open reports whether both ends have not closed the stream yet.
func (g *guard) open(id uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.streams[id] != nil
}

var _ io.ReadWriteCloser = (*guard)(nil)
