// Package vsock is the host's half of a virtio socket device (VIRTIO 1.2
// §5.10): the guest sees /dev/vsock, the host program sees net.Conn and
// net.Listener. The host kernel's AF_VSOCK and vhost are not involved, so a
// hostile guest meets only the code in this package.
//
// # The protocol in one screen
//
// An address is a context ID and a port. The host is CID 2, the guest has the
// CID in the device's configuration space. A connection is named by its two
// ports. Every packet is a 44-byte header, for the RW operation followed by
// payload.
//
// Direction is always seen from the guest, as in the specification: tx is guest
// to host (queue 1), rx is host to guest (queue 0). Queue 2 carries events.
//
//	REQUEST  ->  <-  RESPONSE        open (either side may ask), or RST: refused
//	RW       <->     RW              data
//	SHUTDOWN(receive=1, send=2)      promises: the sender will not receive/send any more
//	RST                              the connection is gone; also answers SHUTDOWN of both
//
// # Credit
//
// Each packet carries buf_alloc (how much the sender buffers for this
// connection) and fwd_cnt (how many payload bytes its application has taken so
// far, mod 2^32). So a sender knows how much room the peer has:
//
//	free = buf_alloc - (bytes sent - fwd_cnt)
//
// CREDIT_UPDATE carries just these two numbers, CREDIT_REQUEST asks for one.
// Recent Linux guests also count packets, not only bytes, against their buffer
// and reset the connection above it; we therefore keep at most one packet per
// KiB of the guest's buffer outstanding and merge small writes once that many
// are on their way.
//
// # Layers
//
//	packet.go    header codec, checks that need no state
//	credit.go    the two counters of each direction
//	conn.go      one connection: a pure state machine, event in, actions out
//	buffer.go    bounded byte ring between the worker and one reader
//	mux.go       connections by port pair, listeners, caps, reply store, timers
//	device.go    virtio.Device: queues, worker, budgets, reset
//	net.go       Conn; listen.go: Listener and Device.Dial
//
// # Invariants
//
//   - A byte is copied twice on its way in (guest to ring, ring to reader; once
//     with WriteTo) and once on its way out (Write's slice to guest buffer).
//   - Memory that a guest can make us hold: connections × (their window + one
//     16 KiB chunk + 64 KiB of merged small writes) and 256 replies of 44 bytes. A guest that
//     overruns its window loses the connection.
//   - The worker never blocks on the host program: the window guarantees room.
//   - A vCPU thread only leaves a token in a channel (Notify).
//   - Locks: the transport's, then Device.mu. A reader's or writer's mutex is
//     taken before Device.mu. Nothing else is locked under Device.mu, and no
//     code of the caller runs under it.
//
// # Testing
//
// The packages vsocktest (a guest's half) and virtio/virtiotest (a driver) run
// everything without a VM: go test -race ./devices/vsock/...
package vsock
