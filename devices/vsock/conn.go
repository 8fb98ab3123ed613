package vsock

// A connection as a pure state machine: step(event) changes the state and
// returns what the world has to do. No I/O, no clock, no lock, no goroutine, so
// that every statement of the protocol can be tested and fuzzed as a function.

// phase is where a connection is in its life.
//
//	            RESPONSE            host closes          RST, or timer
//	connecting ----------> open ------------> closing -----------------> gone
//	     |      (guest's    |                    |                         ^
//	     |      REQUEST     | violation, both    | both sides              | RST sent,
//	     |      starts      | sides shut         | shut                    | or RST received
//	     |      here)       v                    v                         |
//	     +--------------> reset -------------------------------------------+
type phase uint8

const (
	phaseConnecting phase = iota + 1 // the host dials: REQUEST owed or unanswered
	phaseOpen                        // data may flow
	phaseClosing                     // host closed: unsent data, SHUTDOWN, then RST awaited
	phaseReset                       // RST owed to the guest; nothing else can happen
	phaseGone                        // the port pair is free again
)

// owed is the set of control packets to send.
type owed uint8

const (
	oweRst owed = 1 << iota
	oweResponse
	oweRequest
	oweCreditReply  // the guest asked: answered by OpCreditUpdate and nothing else
	oweCreditUpdate // space was freed: any packet tells it
)

// endReason says why a connection ended, for the errors of Read and Write.
type endReason uint8

const (
	reasonNone      endReason = iota
	reasonClosed              // the host program closed it
	reasonClean               // the guest shut both directions and everything was read
	reasonPeerReset           // RST from the guest
	reasonRefused             // RST as the answer to our REQUEST
	reasonViolation           // the guest broke the protocol; connState.Fault says how
	reasonTimeout             // no answer to our REQUEST
	reasonDevice              // the guest reset the device, or its ring broke
)

// connState is everything the protocol needs to know of one connection. Plain
// data: copying it (and Tx.Ends) is a snapshot.
type connState struct {
	Phase     phase
	Owed      owed
	Reason    endReason
	Fault     string // of reasonViolation
	LocalShut uint32 // Shutdown flags of the host program, sticky
	ToldShut  uint32 // the part of LocalShut the guest was sent
	PeerShut  uint32 // Shutdown flags received, sticky (§5.10.6.5)
	Unsent    uint64 // bytes the host program has given and no packet carries yet
	Asked     bool   // a CREDIT_REQUEST is unanswered
	Probes    uint8  // CREDIT_REQUESTs since the guest last made room
	Rx        rxCredit
	Tx        txCredit
}

// eventKind names what can happen to a connection.
type eventKind uint8

const (
	evPacket     eventKind = iota + 1 // hdr arrived
	evMalformed                       // a packet arrived whose length is a lie; fault says how
	evWrite                           // the host program gave n bytes
	evUnwrite                         // and took the last n of them back (deadline)
	evRead                            // the host program took n bytes
	evCloseWrite                      // half-close by the host program
	evClose                           // full close by the host program
	evAbort                           // end at once, with a RST if the guest knows of the connection
	evDrop                            // the device is gone: no packet can be sent
	evTimer                           // the timer that was last armed fired
	evProbe                           // while closing: timerProbe fired, timerClose has not
	evSent                            // the packet of next, op with n bytes, is in a guest buffer
)

type event struct {
	kind   eventKind
	op     Op        // evSent
	n      uint64    // evWrite, evUnwrite, evRead, evSent
	hdr    *Header   // evPacket
	fault  string    // evMalformed
	reason endReason // evAbort, evDrop
}

// timerKind says what the timer of a connection is for. Only timerProbe may be
// armed beside another one, timerClose: a guest that is slow to read must be
// asked again, or what was written before Close would be lost.
type timerKind uint8

const (
	timerKeep    timerKind = iota // leave the timer as it is
	timerStop                     //
	timerConnect                  // until RESPONSE
	timerClose                    // until progress, then until RST
	timerProbe                    // until CREDIT_REQUEST is repeated; Probes says how often it was
)

// actions is what step wants done.
type actions struct {
	deliver   uint32 // append this much of the packet's payload to the receive ring
	wakeRead  bool   // readers have something to look at
	wakeWrite bool   // writers and dialers too
	discard   bool   // drop unsent data, it will never be sent
	timer     timerKind
	gone      bool // free the port pair
}

// newDialed is a connection that the host opens.
func newDialed(bufAlloc, txCap uint32) connState {
	return connState{
		Phase: phaseConnecting, Owed: oweRequest,
		Rx: rxCredit{BufAlloc: bufAlloc}, Tx: txCredit{Cap: txCap},
	}
}

// newAccepted is a connection that the guest opened with req; ok is false if
// req claims that bytes were already taken.
func newAccepted(req *Header, bufAlloc, txCap uint32) (s connState, ok bool) {
	s = connState{
		Phase: phaseOpen, Owed: oweResponse,
		Rx: rxCredit{BufAlloc: bufAlloc}, Tx: txCredit{Cap: txCap},
	}
	return s, s.Tx.peer(req.BufAlloc, req.FwdCnt)
}

// step applies one event.
func (s *connState) step(ev event) actions {
	switch s.Phase {
	case phaseGone:
		return actions{}
	case phaseReset:
		return s.stepReset(ev)
	}
	switch ev.kind {
	case evPacket:
		return s.packet(ev.hdr)
	case evMalformed:
		return s.violation(ev.fault)
	case evWrite:
		s.Unsent += ev.n
	case evUnwrite:
		s.Unsent -= min(ev.n, s.Unsent)
	case evRead:
		if s.LocalShut&ShutdownReceive != 0 {
			break // close already counted it
		}
		s.Rx.Consumed += uint32(ev.n)
		if s.PeerShut&ShutdownSend == 0 && s.Rx.updateDue() {
			s.Owed |= oweCreditUpdate
		}
		return s.finished(actions{})
	case evCloseWrite:
		s.LocalShut |= ShutdownSend
	case evClose:
		return s.close()
	case evAbort:
		return s.abort(ev.reason)
	case evDrop:
		return s.end(ev.reason)
	case evTimer:
		return s.timer()
	case evProbe:
		s.Asked = false
	case evSent:
		return s.sent(ev.op, uint32(ev.n))
	}
	return actions{}
}

// stepReset is step while a RST is owed: everything is over but for it.
func (s *connState) stepReset(ev event) actions {
	switch ev.kind {
	case evPacket:
		if ev.hdr.Op == OpRst { // the guest was faster; a RST is not answered
			return s.end(s.Reason)
		}
	case evDrop:
		return s.end(ev.reason)
	case evSent:
		if ev.op == OpRst {
			return s.end(s.Reason)
		}
	case evClose:
		s.LocalShut = shutdownBoth
	}
	return actions{}
}

// packet takes a packet whose addresses, type and length were checked.
func (s *connState) packet(h *Header) actions {
	if h.Op == OpRst {
		switch {
		case s.Phase == phaseConnecting:
			return s.end(reasonRefused)
		case s.Phase == phaseClosing:
			return s.end(reasonClosed)
		}
		return s.end(reasonPeerReset)
	}
	if s.Phase == phaseConnecting && (h.Op != OpResponse || s.Owed&oweRequest != 0) {
		return s.violation("sent " + h.Op.String() + " on a connection it has not accepted")
	}
	taken := s.Tx.Taken
	if !s.Tx.peer(h.BufAlloc, h.FwdCnt) {
		return s.violation("fwd_cnt is not between the last one and what was sent")
	}
	if s.Tx.available() > 0 {
		s.Asked = false
	}
	if s.Tx.Taken != taken {
		s.Probes = 0
	}
	switch h.Op {
	case OpRequest:
		return s.violation("sent REQUEST on a connection that exists")
	case OpResponse:
		if s.Phase != phaseConnecting {
			return s.violation("sent RESPONSE to no REQUEST")
		}
		s.Phase = phaseOpen
		return actions{wakeWrite: true, timer: timerStop}
	case OpRW:
		return s.data(h.Len)
	case OpShutdown:
		s.PeerShut |= h.Flags & shutdownBoth
		var a actions
		if s.PeerShut&ShutdownReceive != 0 {
			s.Unsent = 0
			a.discard, a.wakeWrite = true, true
		}
		a.wakeRead = s.PeerShut&ShutdownSend != 0
		return s.finished(a)
	case OpCreditRequest:
		s.Owed |= oweCreditReply
	}
	return actions{}
}

// data takes an RW packet of n bytes.
func (s *connState) data(n uint32) actions {
	switch {
	case s.PeerShut&ShutdownSend != 0:
		return s.violation("sent data after it promised to send no more")
	case n == 0:
		return actions{} // must cost nothing and wake nobody
	case !s.Rx.accept(n):
		return s.violation("sent more than its credit")
	case s.LocalShut&ShutdownReceive != 0:
		// Was on its way when the host program closed. Nobody will read it.
		s.Rx.Consumed += n
		return actions{}
	}
	return actions{deliver: n, wakeRead: true}
}

// finished answers with RST once the guest shut both directions and the host
// program has read everything: "Clean disconnect is achieved by one or more
// VIRTIO_VSOCK_OP_SHUTDOWN packets that indicate no more data will be sent and
// received, followed by a VIRTIO_VSOCK_OP_RST response" (§5.10.6.5).
func (s *connState) finished(a actions) actions {
	if s.PeerShut != shutdownBoth || s.Rx.unread() != 0 {
		return a
	}
	b := s.abort(reasonClean)
	b.wakeRead, b.wakeWrite = true, true
	return b
}

// close is the host program's Close: what it wrote is still sent, then the
// guest is told and gets some time to answer RST.
func (s *connState) close() actions {
	s.LocalShut = shutdownBoth
	if s.Phase == phaseConnecting {
		return s.abort(reasonClosed)
	}
	s.Reason = reasonClosed
	s.Phase = phaseClosing
	s.Rx.Consumed = s.Rx.Received
	a := s.finished(actions{wakeRead: true, wakeWrite: true, timer: timerClose})
	return a
}

// violation ends the connection because of the guest.
func (s *connState) violation(fault string) actions {
	s.Fault = fault
	return s.abort(reasonViolation)
}

// abort ends the connection with a RST, or without one if the guest has not
// heard of it.
func (s *connState) abort(why endReason) actions {
	if s.Phase == phaseConnecting && s.Owed&oweRequest != 0 {
		return s.end(why)
	}
	a := s.over(why)
	s.Phase, s.Owed = phaseReset, oweRst
	return a
}

// end frees the port pair.
func (s *connState) end(why endReason) actions {
	a := s.over(why)
	s.Phase, s.Owed = phaseGone, 0
	a.gone = true
	return a
}

// over is what abort and end share. The first reason stays.
func (s *connState) over(why endReason) actions {
	if s.Reason == reasonNone {
		s.Reason = why
	}
	s.Unsent = 0
	return actions{wakeRead: true, wakeWrite: true, discard: true, timer: timerStop}
}

// timer is the expiry of whatever the phase was waiting for.
func (s *connState) timer() actions {
	switch s.Phase {
	case phaseConnecting:
		return s.abort(reasonTimeout)
	case phaseClosing:
		return s.abort(reasonClosed)
	}
	s.Asked = false // still stuck? then next asks again
	return actions{}
}

// room is how many bytes an RW packet may carry now.
func (s *connState) room() uint32 {
	if s.Unsent == 0 || s.Owed&oweResponse != 0 {
		return 0
	}
	return s.Tx.available()
}

// pending says whether next has a packet.
func (s *connState) pending() bool {
	switch s.Phase {
	case phaseConnecting:
		return s.Owed&oweRequest != 0
	case phaseReset:
		return s.Owed&oweRst != 0
	case phaseOpen, phaseClosing:
		if s.Owed != 0 {
			return true
		}
		if s.Unsent > 0 {
			return s.room() > 0 || !s.Asked
		}
		return s.LocalShut&^s.ToldShut != 0
	}
	return false
}

// next chooses the next packet for the guest; n is its payload, at most space.
// It changes nothing: evSent does, once the packet is on its way.
//
// RESPONSE goes before all else, because a guest that gets any other packet
// while it connects gives up (EPROTO).
func (s *connState) next(space uint32) (op Op, n uint32) {
	switch {
	case !s.pending():
		return OpInvalid, 0
	case s.Owed&oweRst != 0:
		return OpRst, 0
	case s.Owed&oweRequest != 0:
		return OpRequest, 0
	case s.Owed&oweResponse != 0:
		return OpResponse, 0
	case s.Owed&oweCreditReply != 0:
		return OpCreditUpdate, 0
	}
	if n = uint32(min(s.Unsent, uint64(min(s.room(), space, MaxPayload)))); n > 0 {
		return OpRW, n // also carries an owed credit update
	}
	switch {
	case s.Owed&oweCreditUpdate != 0:
		return OpCreditUpdate, 0
	case s.Unsent == 0:
		return OpShutdown, 0
	case s.room() == 0:
		return OpCreditRequest, 0
	}
	// Data and credit, but the guest's buffer holds a header only. It must be
	// filled with something, or the same buffer would be tried for ever.
	return OpCreditUpdate, 0
}

// header is the packet of next. "All packets associated with a stream flow MUST
// contain valid information in buf_alloc and fwd_cnt fields" (§5.10.6.3.2). The
// caller fills in the addresses.
func (s *connState) header(op Op, n uint32) Header {
	h := Header{Len: n, Type: TypeStream, Op: op, BufAlloc: s.Rx.BufAlloc, FwdCnt: s.Rx.Consumed}
	if op == OpShutdown {
		h.Flags = s.LocalShut
	}
	return h
}

// sent records that a packet went out.
func (s *connState) sent(op Op, n uint32) actions {
	s.Rx.Told = s.Rx.Consumed
	s.Owed &^= oweCreditUpdate
	switch op {
	case OpRequest:
		s.Owed &^= oweRequest
	case OpResponse:
		s.Owed &^= oweResponse
	case OpCreditUpdate:
		s.Owed &^= oweCreditReply
	case OpCreditRequest:
		s.Asked = true
		s.Probes = min(s.Probes+1, 250)
		return actions{timer: timerProbe}
	case OpShutdown:
		s.ToldShut = s.LocalShut
		if s.Phase == phaseClosing {
			return actions{timer: timerClose}
		}
	case OpRW:
		s.Tx.sent(n)
		s.Unsent -= min(uint64(n), s.Unsent)
		a := actions{wakeWrite: s.Unsent == 0}
		if s.Phase == phaseClosing {
			a.timer = timerClose
		}
		return a
	}
	return actions{}
}
