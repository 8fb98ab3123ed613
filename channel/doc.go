// Package channel is the exec protocol of hutch: how a host program starts
// processes through a guest agent over one reliable byte stream, and what
// both ends promise each other about output bytes and exit codes.
//
// # Primer
//
// The byte stream (a vsock connection, a socketpair, a virtio-serial port: the
// package knows none of them) carries a handshake of three small messages and
// then a yamux session. yamux cuts the stream into frames of independent,
// flow-controlled streams. The host is the yamux client and opens every
// stream; the guest never opens one.
//
// Each exec has one control stream of length-prefixed CBOR messages and one
// raw stream per data direction that is wired (stdin, stdout, stderr). Payload
// bytes are never framed by us, so a copy costs nothing beyond yamux, and each
// direction has its own window: a reader that stops stalls one stream only.
// PROTOCOL.md in this directory is the wire description.
//
// # Invariants
//
//   - An exec is complete only when its exit record, its byte totals and the
//     end of every data stream arrived, and the counts agree. Anything less is
//     an error: [ErrExecLost], [ErrAgentLost] or [*TruncatedError].
//   - The guest is hostile. A guard below yamux parses every inbound frame
//     header, hands over complete frames only, and ends the session at the first
//     frame that a correct peer cannot send. What a guest can pin in the host
//     is bounded by sessions × window.
//   - No call waits without its context: a frozen guest delays nobody past the
//     deadline, and no watchdog guesses that a silent guest is dead.
//
// # Layout
//
//	messages.go  wire structs          frame.go   length + CBOR
//	guard.go     inbound frame guard   batch.go   write coalescing
//	mux.go       both: yamux's settings
//	client.go    host: connection      process.go host: one exec
//	run.go       host: its streams     control.go host: signals, kills, sizes
//	server.go    guest: connection     exec.go    guest: one exec
//	sessions.go  host: sessions        attach.go  host: one attachment
//	guest_sessions.go guest: sessions  session_messages.go their wire structs
//	relay.go     host: a connection of another process, passed on to the guest
//
// # Testing
//
// go test ./channel needs nothing but Go. The end-to-end tests against the
// real agent are in package agent.
package channel
