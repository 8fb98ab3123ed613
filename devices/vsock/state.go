package vsock

import "sort"

// State is a plain copy of what the device knows, for snapshots and diagnosis.
// It holds no payload: host programs' net.Conns cannot be restored in another
// process, so a restored guest gets a new Device and TransportReset.
type State struct {
	GuestCID    uint64
	Active      bool // the guest's driver has started the device
	Broken      string
	EventOwed   bool // a TRANSPORT_RESET waits for an event buffer
	Replies     int  // RSTs waiting for rx buffers
	NextPort    uint32
	Listening   []uint32 // host ports, ascending
	Connections []ConnState
	Stats       Stats
}

// ConnState is one connection. Counters are payload bytes mod 2^32.
type ConnState struct {
	HostPort, GuestPort         uint32
	Phase                       string
	BufAlloc, Received, FwdCnt  uint32 // guest to host
	PeerBufAlloc, Sent, PeerFwd uint32 // host to guest
	PacketsInFlight             int
	Unsent                      uint64 // bytes written by the host program and not sent
	LocalShut, PeerShut         uint32 // Shutdown flags
}

var phaseNames = map[phase]string{
	phaseConnecting: "connecting", phaseOpen: "open", phaseClosing: "closing", phaseReset: "reset", phaseGone: "gone",
}

// String names the phase.
func (p phase) String() string { return phaseNames[p] }

// State returns a consistent copy.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.mux
	s := State{
		GuestCID: d.cfg.GuestCID, Active: d.run != nil, EventOwed: d.eventOwed,
		Replies: m.replies.n, NextPort: m.nextPort, Stats: m.stats,
	}
	if d.broken != nil {
		s.Broken = d.broken.Error()
	}
	for port := range m.listen {
		s.Listening = append(s.Listening, port)
	}
	sort.Slice(s.Listening, func(i, j int) bool { return s.Listening[i] < s.Listening[j] })
	for k, ep := range m.conns {
		st := &ep.st
		s.Connections = append(s.Connections, ConnState{
			HostPort: k.host, GuestPort: k.guest, Phase: st.Phase.String(),
			BufAlloc: st.Rx.BufAlloc, Received: st.Rx.Received, FwdCnt: st.Rx.Consumed,
			PeerBufAlloc: st.Tx.BufAlloc, Sent: st.Tx.Sent, PeerFwd: st.Tx.Taken,
			PacketsInFlight: len(st.Tx.Ends), Unsent: st.Unsent,
			LocalShut: st.LocalShut, PeerShut: st.PeerShut,
		})
	}
	sort.Slice(s.Connections, func(i, j int) bool {
		a, b := s.Connections[i], s.Connections[j]
		return a.HostPort < b.HostPort || a.HostPort == b.HostPort && a.GuestPort < b.GuestPort
	})
	return s
}
