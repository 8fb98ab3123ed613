package vsock

import (
	"math"
	"time"
)

// key names a connection. The two context IDs are always the host's and the
// guest's.
type key struct{ host, guest uint32 }

// endpoint is a connection with its buffers: the state machine plus what the
// worker, one reader and one writer share.
//
// Concurrency: everything under Device.mu but rx, which the worker fills and
// the reader empties without it.
type endpoint struct {
	key      key
	st       connState
	rx       *ring     // guest to host, not yet read
	stage    *ring     // host to guest, merged small writes; nil until needed
	pend     []byte    // the rest of the slice of a blocked Write; goes after stage
	queued   bool      // in mux.ready
	after    *endpoint // the next one there
	deadline time.Time // when the next timer fires; zero: none is armed
	giveUp   time.Time // of timerClose; zero: not armed
	backlog  *backlog  // holds the connection until Accept; nil otherwise

	// Tokens: one in the channel means "look again". One reader and one writer
	// wait at a time, so one token is enough.
	readable, writable chan struct{}
}

// wake leaves a token.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// unsent returns the next bytes to send, in one piece, at most n.
func (e *endpoint) unsent(n int) []byte {
	if e.stage != nil {
		if p := e.stage.peek(); len(p) > 0 {
			return p[:min(n, len(p))]
		}
	}
	return e.pend[:min(n, len(e.pend))]
}

// dropUnsent removes n bytes that unsent returned.
func (e *endpoint) dropUnsent(n int) {
	if e.stage != nil && e.stage.len() > 0 {
		e.stage.consume(n)
		return
	}
	e.pend = e.pend[n:]
}

// backlog is the queue of one listening port.
type backlog struct {
	port   uint32
	queue  []*endpoint
	closed bool
	ready  chan struct{} // token: queue or closed changed
}

// Stats are counters since New. Snapshot of plain numbers.
type Stats struct {
	TxPackets, RxPackets uint64 // from and to the guest
	TxBytes, RxBytes     uint64 // payload in them
	Malformed            uint64 // packets that broke a rule, whatever was done about it
	Refused              uint64 // REQUESTs answered with RST
	Violations           uint64 // connections reset because of the guest
	Kicks                uint64 // passes of the worker
	Faults               uint64 // panics and memory faults caught in the device; each broke it until reset
}

// mux owns all connections of a device. It is driven by calls (packet, next,
// expire, step) and reads the time through now, so it needs neither queues nor
// goroutines to be tested.
//
// Invariants: len(conns) <= MaxConns, every endpoint with a pending packet is
// in ready.
type mux struct {
	cfg      Config
	now      func() time.Time
	conns    map[key]*endpoint
	listen   map[uint32]*backlog
	replies  replyStore
	ready    readyList // may have a packet to send, in turn
	nextPort uint32
	wakeAt   time.Time // when expire will be called; zero: not at all
	early    bool      // a timer was armed for before that: somebody must call expire
	log      *violationLog
	stats    Stats
}

// replyStore holds the RSTs to packets of no connection, oldest first. A fixed
// array: a guest that provokes replies must not make us allocate.
type replyStore struct {
	h     [replyStoreSize]Header
	first int
	n     int
}

func (r *replyStore) push(h Header) {
	r.h[(r.first+r.n)%replyStoreSize] = h
	r.n++
}

func (r *replyStore) pop() Header {
	h := r.h[r.first]
	r.first = (r.first + 1) % replyStoreSize
	r.n--
	return h
}

// readyList is a first-in first-out list linked through endpoint.after.
type readyList struct{ first, last *endpoint }

func (l *readyList) push(ep *endpoint) {
	if ep.queued {
		return
	}
	ep.queued = true
	if l.last == nil {
		l.first = ep
	} else {
		l.last.after = ep
	}
	l.last = ep
}

func (l *readyList) pop() *endpoint {
	ep := l.first
	if l.first = ep.after; l.first == nil {
		l.last = nil
	}
	ep.queued, ep.after = false, nil
	return ep
}

func newMux(cfg Config, now func() time.Time) *mux {
	return &mux{
		cfg: cfg, now: now,
		conns: make(map[key]*endpoint), listen: make(map[uint32]*backlog),
		nextPort: firstEphemeral,
		log:      newViolationLog(now),
	}
}

// full says that no packet may be taken from the guest until replies were
// delivered: "The tx virtqueue MUST be processed even when the rx virtqueue is
// full so long as there are additional resources available to hold packets
// outside the rx virtqueue" (§5.10.6.1.2). These resources are the reply store
// and, per connection, a few bits; each packet costs at most one of either.
func (m *mux) full() bool { return m.replies.n >= replyStoreSize }

// reply stores a RST for a packet of no connection.
func (m *mux) reply(h *Header) {
	if !m.full() {
		m.replies.push(h.resetReply())
	}
}

// packet takes a packet from the guest whose chain carried payload bytes after
// the header. The first deliver payload bytes belong into ep.rx, which has room
// for them.
//
// Preconditions: !full().
func (m *mux) packet(h *Header, payload int) (ep *endpoint, deliver uint32) {
	m.stats.TxPackets++
	v := h.check(m.cfg.GuestCID, payload)
	k := key{host: h.DstPort, guest: h.SrcPort}
	if v != verdictOK {
		m.malformed(h, v, k)
		return nil, 0
	}
	ep = m.conns[k]
	switch {
	case ep != nil:
		a := m.step(ep, event{kind: evPacket, hdr: h})
		m.stats.TxBytes += uint64(a.deliver)
		return ep, a.deliver
	case h.Op == OpRequest:
		if !m.accept(h, k) {
			m.stats.Refused++
			m.reply(h)
		}
	case h.Op != OpRst:
		m.reply(h)
	}
	return nil, 0
}

// malformed is packet for those that check refused.
func (m *mux) malformed(h *Header, v verdict, k key) {
	m.stats.Malformed++
	m.log.record("packet refused", h)
	if v == verdictDrop {
		return
	}
	if ep := m.conns[k]; ep != nil && v == verdictReset {
		m.step(ep, event{kind: evMalformed, fault: "sent a packet whose len is above 64 KiB or above what its buffer holds"})
		return
	}
	if h.Op != OpRst {
		m.reply(h)
	}
}

// accept makes the connection the guest asks for, if it may have it.
func (m *mux) accept(h *Header, k key) bool {
	b := m.listen[k.host]
	if b == nil || len(b.queue) >= m.cfg.Backlog || len(m.conns) >= m.cfg.MaxConns {
		return false
	}
	st, ok := newAccepted(h, uint32(m.cfg.BufferSize), uint32(m.cfg.SendWindow))
	if !ok {
		return false
	}
	ep := m.add(k, st)
	ep.backlog = b
	b.queue = append(b.queue, ep)
	wake(b.ready)
	return true
}

// add enters a new connection.
func (m *mux) add(k key, st connState) *endpoint {
	ep := &endpoint{
		key: k, st: st, rx: newRing(m.cfg.BufferSize),
		readable: make(chan struct{}, 1), writable: make(chan struct{}, 1),
	}
	m.conns[k] = ep
	m.ready.push(ep)
	return ep
}

// dial makes a connection to the guest's port, with the REQUEST still to send.
// Errors: ErrTooManyConns.
func (m *mux) dial(guest uint32) (*endpoint, error) {
	if len(m.conns) >= m.cfg.MaxConns {
		return nil, ErrTooManyConns
	}
	k := key{guest: guest}
	for { // ends: there are fewer connections and listeners than ports
		k.host = m.nextPort
		if m.nextPort++; m.nextPort == math.MaxUint32 {
			m.nextPort = firstEphemeral
		}
		// A pair is free only when its last use was reset or timed out, because
		// conns holds it until then: "neither peer reuses the (source,
		// destination) address tuple for a new connection while the other peer
		// is still processing the old connection" (§5.10.6.5).
		if m.conns[k] == nil && m.listen[k.host] == nil {
			break
		}
	}
	ep := m.add(k, newDialed(uint32(m.cfg.BufferSize), uint32(m.cfg.SendWindow)))
	m.arm(ep, timerConnect)
	return ep, nil
}

// step gives an event to a connection and does what it asks for.
func (m *mux) step(ep *endpoint, ev event) actions {
	before := ep.st.Phase
	a := ep.st.step(ev)
	if ep.st.Fault != "" && before != phaseReset && before != phaseGone {
		m.stats.Violations++
		m.log.record(ep.st.Fault, ev.hdr)
	}
	if a.discard {
		ep.stage = nil
	}
	if a.timer != timerKeep {
		m.arm(ep, a.timer)
	}
	if ep.st.Phase >= phaseReset {
		m.leaveBacklog(ep)
	}
	if a.gone {
		delete(m.conns, ep.key)
	} else if ep.st.pending() {
		m.ready.push(ep)
	}
	// The reader of delivered data is woken after the worker has copied it.
	if a.wakeRead && a.deliver == 0 {
		wake(ep.readable)
	}
	if a.wakeWrite {
		wake(ep.writable)
	}
	return a
}

// leaveBacklog frees the place of a connection that died before Accept.
func (m *mux) leaveBacklog(ep *endpoint) {
	b := ep.backlog
	if b == nil {
		return
	}
	ep.backlog = nil
	for i, q := range b.queue {
		if q == ep {
			b.queue = append(b.queue[:i], b.queue[i+1:]...)
			return
		}
	}
}

// pending says whether next has a packet.
func (m *mux) pending() bool {
	if m.replies.n > 0 {
		return true
	}
	for m.ready.first != nil {
		if m.ready.first.st.pending() {
			return true
		}
		m.ready.pop()
	}
	return false
}

// next takes the next packet for the guest, with at most space bytes of
// payload. If h.Len is not 0 the payload is what ep.unsent returns, and the
// caller must drop it there. Connections take turns packet by packet.
//
// Preconditions: pending().
func (m *mux) next(space uint32) (h Header, ep *endpoint) {
	m.stats.RxPackets++
	if m.replies.n > 0 {
		return m.replies.pop(), nil
	}
	ep = m.ready.pop()
	op, n := ep.st.next(space)
	h = ep.st.header(op, n)
	h.SrcCID, h.DstCID = HostCID, m.cfg.GuestCID
	h.SrcPort, h.DstPort = ep.key.host, ep.key.guest
	m.stats.RxBytes += uint64(n)
	m.step(ep, event{kind: evSent, op: op, n: uint64(n)})
	return h, ep
}

// arm sets the timer of a connection.
func (m *mux) arm(ep *endpoint, t timerKind) {
	switch t {
	case timerStop:
		ep.deadline, ep.giveUp = time.Time{}, time.Time{}
	case timerConnect:
		ep.deadline = m.now().Add(m.cfg.ConnectTimeout)
	case timerClose:
		ep.giveUp = m.now().Add(m.cfg.CloseTimeout)
		// An earlier deadline is a probe, or an older timerClose, which becomes one.
		if ep.deadline.IsZero() || ep.giveUp.Before(ep.deadline) {
			ep.deadline = ep.giveUp
		}
	case timerProbe:
		ep.deadline = m.now().Add(min(probeMin<<min(ep.st.Probes, 10), probeMax))
		if !ep.giveUp.IsZero() && ep.giveUp.Before(ep.deadline) {
			ep.deadline = ep.giveUp
		}
	}
	if !ep.deadline.IsZero() && (m.wakeAt.IsZero() || ep.deadline.Before(m.wakeAt)) {
		m.early = true
	}
}

// expire fires the timers that are due and returns when to call again; ok is
// false if no timer is armed.
func (m *mux) expire() (next time.Time, ok bool) {
	now := m.now()
	for _, ep := range m.conns { // at most MaxConns
		if ep.deadline.IsZero() {
			continue
		}
		if !ep.deadline.After(now) {
			ev := event{kind: evTimer}
			if ep.deadline = ep.giveUp; ep.giveUp.After(now) {
				ev.kind = evProbe
			}
			m.step(ep, ev) // arms none: that comes with the packet it leads to
		} else if !ok || ep.deadline.Before(next) {
			next, ok = ep.deadline, true
		}
	}
	m.wakeAt, m.early = next, false
	return next, ok
}

// listenOn opens a host port. Errors: ErrPortInUse.
func (m *mux) listenOn(port uint32) (*backlog, error) {
	if m.listen[port] != nil {
		return nil, ErrPortInUse
	}
	b := &backlog{port: port, ready: make(chan struct{}, 1)}
	m.listen[port] = b
	return b, nil
}

// closeBacklog closes a host port: what nobody accepted is reset.
func (m *mux) closeBacklog(b *backlog) {
	if b.closed {
		return
	}
	b.closed = true
	delete(m.listen, b.port)
	for len(b.queue) > 0 {
		m.step(b.queue[0], event{kind: evAbort, reason: reasonClosed}) // leaves the queue
	}
	wake(b.ready)
}

// takeBacklog accepts the oldest connection, or returns nil.
func (m *mux) takeBacklog(b *backlog) *endpoint {
	if len(b.queue) == 0 {
		return nil
	}
	ep := b.queue[0]
	m.leaveBacklog(ep)
	return ep
}

// dropAll ends every connection without a packet, for reset and close.
func (m *mux) dropAll(why endReason) {
	for _, ep := range m.conns {
		m.step(ep, event{kind: evDrop, reason: why})
	}
	m.replies.first, m.replies.n = 0, 0
	for m.ready.first != nil {
		m.ready.pop()
	}
}
