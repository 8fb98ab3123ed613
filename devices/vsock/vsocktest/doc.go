// Package vsocktest is a guest's half of the socket device, for tests without a
// VM. Two layers over virtiotest's driver:
//
// Peer sends and receives single packets, right or wrong ones, and decides which
// buffers the device gets. It is for tests of the protocol.
//
// Guest is a small socket stack, written against the specification and not from
// the host's code: Dial, Listen and a net.Conn on the guest's side. It keeps to
// the credit rules, answers SHUTDOWN as Linux does, and counts the host's
// violations. It is for tests of streams.
package vsocktest
