package vsock

import (
	"encoding/binary"
	"fmt"
)

// Specification (VIRTIO 1.2 §5.10).
const (
	// DeviceID is the virtio device type of the socket device.
	DeviceID = 19
	// HostCID is the context ID of the host, the only peer a guest can reach.
	HostCID = 2
	// HeaderSize is the size of Header on the wire:
	// 8+8+4+4+4+2+2+4+4+4 = 44 (§5.10.6).
	HeaderSize = 44
)

// MaxPayload is the greatest payload of one packet we send or take. The
// specification sets no limit; this is what Linux guests use since 5.4.
const MaxPayload = 64 << 10

// TypeStream is the only socket type on offer (VIRTIO_VSOCK_TYPE_STREAM,
// §5.10.6). SEQPACKET (2) needs a feature bit that we do not offer.
const TypeStream uint16 = 1

// Op is the operation of a packet (enum virtio_vsock_op, §5.10.6).
type Op uint16

// The operations. 0 and everything above OpCreditRequest are invalid.
const (
	OpInvalid       Op = 0 // VIRTIO_VSOCK_OP_INVALID
	OpRequest       Op = 1 // VIRTIO_VSOCK_OP_REQUEST
	OpResponse      Op = 2 // VIRTIO_VSOCK_OP_RESPONSE
	OpRst           Op = 3 // VIRTIO_VSOCK_OP_RST
	OpShutdown      Op = 4 // VIRTIO_VSOCK_OP_SHUTDOWN
	OpRW            Op = 5 // VIRTIO_VSOCK_OP_RW
	OpCreditUpdate  Op = 6 // VIRTIO_VSOCK_OP_CREDIT_UPDATE
	OpCreditRequest Op = 7 // VIRTIO_VSOCK_OP_CREDIT_REQUEST
)

var opNames = [...]string{"INVALID", "REQUEST", "RESPONSE", "RST", "SHUTDOWN", "RW", "CREDIT_UPDATE", "CREDIT_REQUEST"}

// String is the specification's name of the operation.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("OP(%d)", uint16(o))
}

// Valid says whether the specification defines the operation.
func (o Op) Valid() bool { return o >= OpRequest && o <= OpCreditRequest }

// Flags of an OpShutdown packet (enum virtio_vsock_shutdown, §5.10.6.5). They
// speak of the sender of the packet and are permanent.
const (
	ShutdownReceive uint32 = 1 << 0 // VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: will not receive any more
	ShutdownSend    uint32 = 1 << 1 // VIRTIO_VSOCK_SHUTDOWN_F_SEND: will not send any more

	shutdownBoth = ShutdownReceive | ShutdownSend
)

// eventTransportReset is VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, the only event of
// the event queue (§5.10.6.7).
const eventTransportReset uint32 = 0

// eventSize is the size of struct virtio_vsock_event: { le32 id }.
const eventSize = 4

// Header is struct virtio_vsock_hdr (§5.10.6), little-endian on the wire.
type Header struct {
	SrcCID   uint64 // upper 32 bits reserved, zero
	DstCID   uint64 // upper 32 bits reserved, zero
	SrcPort  uint32
	DstPort  uint32
	Len      uint32 // bytes of payload that follow
	Type     uint16 // TypeStream
	Op       Op
	Flags    uint32 // OpShutdown only, on streams
	BufAlloc uint32 // bytes the sender buffers for this connection
	FwdCnt   uint32 // payload bytes the sender's application took, mod 2^32
}

// Encode writes the wire form to p, which must hold HeaderSize bytes.
func (h *Header) Encode(p []byte) {
	_ = p[HeaderSize-1]
	le := binary.LittleEndian
	le.PutUint64(p[0:8], h.SrcCID)
	le.PutUint64(p[8:16], h.DstCID)
	le.PutUint32(p[16:20], h.SrcPort)
	le.PutUint32(p[20:24], h.DstPort)
	le.PutUint32(p[24:28], h.Len)
	le.PutUint16(p[28:30], h.Type)
	le.PutUint16(p[30:32], uint16(h.Op))
	le.PutUint32(p[32:36], h.Flags)
	le.PutUint32(p[36:40], h.BufAlloc)
	le.PutUint32(p[40:44], h.FwdCnt)
}

// DecodeHeader reads the wire form from p, which must hold HeaderSize bytes.
// Every bit pattern decodes; the checks of meaning come later.
func DecodeHeader(p []byte) Header {
	_ = p[HeaderSize-1]
	le := binary.LittleEndian
	return Header{
		SrcCID:   le.Uint64(p[0:8]),
		DstCID:   le.Uint64(p[8:16]),
		SrcPort:  le.Uint32(p[16:20]),
		DstPort:  le.Uint32(p[20:24]),
		Len:      le.Uint32(p[24:28]),
		Type:     le.Uint16(p[28:30]),
		Op:       Op(le.Uint16(p[30:32])),
		Flags:    le.Uint32(p[32:36]),
		BufAlloc: le.Uint32(p[36:40]),
		FwdCnt:   le.Uint32(p[40:44]),
	}
}

// String is for logs and test failures.
func (h *Header) String() string {
	return fmt.Sprintf("%v %d:%d>%d:%d len=%d flags=%d buf_alloc=%d fwd_cnt=%d type=%d",
		h.Op, h.SrcCID, h.SrcPort, h.DstCID, h.DstPort, h.Len, h.Flags, h.BufAlloc, h.FwdCnt, h.Type)
}

// resetReply is the RST that answers h when no connection does: addresses
// swapped, type echoed, no credit because there is no buffer (§5.10.6.4.2).
func (h *Header) resetReply() Header {
	return Header{
		SrcCID: h.DstCID, DstCID: h.SrcCID,
		SrcPort: h.DstPort, DstPort: h.SrcPort,
		Type: h.Type, Op: OpRst,
	}
}

// verdict is what the stateless checks say about a packet from the guest.
type verdict uint8

const (
	verdictOK    verdict = iota
	verdictDrop          // no reply, no state change
	verdictReply         // RST with the addresses swapped, no state change
	verdictReset         // RST, and the connection of this port pair is killed
)

// check applies what needs no connection state. payload is the number of bytes
// the chain really carries after the header.
//
// The order matters: a packet that is not from this guest is never answered
// with anything that depends on its other fields.
func (h *Header) check(guestCID uint64, payload int) verdict {
	switch {
	case h.SrcCID != guestCID:
		// "The guest_cid configuration field MUST be used as the source CID when
		// sending outgoing packets" (§5.10.6.4.1): forged, and nobody to answer.
		return verdictDrop
	case h.DstCID != HostCID, h.Type != TypeStream:
		// "A VIRTIO_VSOCK_OP_RST reply MUST be sent if a packet is received with
		// an unknown type value" (§5.10.6.4.2). A RST is never answered.
		if h.Op == OpRst {
			return verdictDrop
		}
		return verdictReply
	case !h.Op.Valid():
		return verdictDrop
	case h.Len > MaxPayload, int64(h.Len) > int64(payload):
		return verdictReset
	}
	return verdictOK
}

// ValidGuestCID says whether cid may be given to a guest: 0, 1, 2, 2^32-1 and
// 2^64-1 are reserved and the upper half must be zero (§5.10.4).
func ValidGuestCID(cid uint64) bool { return cid > HostCID && cid < 1<<32-1 }
