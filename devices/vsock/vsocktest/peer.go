//go:build unix

package vsocktest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// GuestCID is the context ID of the tests' guests.
const GuestCID = 3

// Queue indices (VIRTIO 1.2 §5.10.2), typed from the specification.
const (
	Rx    = 0
	Tx    = 1
	Event = 2
)

// Options of a Peer or Guest.
type Options struct {
	Features     uint64 // ring features to accept; 0: EVENT_IDX
	NoEventIdx   bool   // accept none
	RxBuffers    int    // 0: 128; negative: none
	RxBufferSize int    // bytes each, header included; 0: 4096
}

func (o *Options) fill() {
	if o.Features == 0 && !o.NoEventIdx {
		o.Features = virtio.FeatureRingEventIdx
	}
	if o.RxBuffers == 0 {
		o.RxBuffers = 128
	}
	if o.RxBufferSize == 0 {
		o.RxBufferSize = 4096
	}
}

// Packet is one packet with its payload.
type Packet struct {
	vsock.Header
	Payload []byte
	UsedLen uint32 // of a received one: what the used ring said
}

// Peer is a guest that handles every packet by hand.
// Concurrency: one goroutine.
type Peer struct {
	TB  testing.TB
	Dev *vsock.Device
	Drv *virtiotest.Driver

	bufSize int
	rxBuf   map[uint16]uint64 // head of a posted rx buffer to its address
	free    []uint64          // rx buffers that were not posted yet
	barrier uint32
	hold    bool
	txMark  uint64
}

// NewPeer starts dev with a driver and posts the rx buffers.
func NewPeer(tb testing.TB, dev *vsock.Device, o Options) *Peer {
	tb.Helper()
	o.fill()
	p := &Peer{TB: tb, Dev: dev, Drv: virtiotest.New(tb, dev), bufSize: o.RxBufferSize}
	p.Drv.Start(o.Features)
	p.rxBuf = make(map[uint16]uint64)
	for range o.RxBuffers {
		p.PostRx(p.bufSize)
	}
	p.txMark = p.Drv.Mark()
	p.Drv.Queue(Rx).Kick()
	return p
}

// Restart resets the device and starts it again, with n rx buffers posted.
func (p *Peer) Restart(o Options) {
	p.TB.Helper()
	o.fill()
	p.Drv.Reset()
	p.Drv.Start(o.Features)
	p.rxBuf, p.free = make(map[uint16]uint64), nil
	for range o.RxBuffers {
		p.PostRx(p.bufSize)
	}
	p.txMark = p.Drv.Mark()
	p.Drv.Queue(Rx).Kick()
}

// PostRx gives the device one rx buffer of size bytes, without a kick.
func (p *Peer) PostRx(size int) {
	gpa := p.Drv.Alloc(size, 8)
	p.rxBuf[p.Drv.Queue(Rx).Post(virtiotest.In(gpa, size))] = gpa
	p.txMark = p.Drv.Mark()
}

// HoldRx keeps received buffers back until ReleaseRx, as a guest that is slow.
func (p *Peer) HoldRx() { p.hold = true }

// ReleaseRx posts all kept buffers and kicks.
func (p *Peer) ReleaseRx() {
	p.hold = false
	for _, gpa := range p.free {
		p.repost(gpa)
	}
	p.free = nil
	p.Drv.Queue(Rx).Kick()
}

func (p *Peer) repost(gpa uint64) {
	p.rxBuf[p.Drv.Queue(Rx).Post(virtiotest.In(gpa, p.bufSize))] = gpa
}

// Header is a packet header from the guest's port to the host's, with a roomy
// credit.
func Header(op vsock.Op, guestPort, hostPort uint32) vsock.Header {
	return vsock.Header{
		SrcCID: GuestCID, DstCID: vsock.HostCID, SrcPort: guestPort, DstPort: hostPort,
		Type: vsock.TypeStream, Op: op, BufAlloc: 256 << 10,
	}
}

// Post makes a tx chain of raw bytes available, cut at the given lengths (the
// rest is the last piece), and kicks. It frees old chains when the queue is full.
func (p *Peer) Post(raw []byte, cuts ...int) {
	p.TB.Helper()
	q := p.Drv.Queue(Tx)
	for {
		if _, ok := q.Collect(); !ok {
			break
		}
	}
	if q.Free() == int(q.Size) {
		p.Drv.Release(p.txMark)
	}
	var bufs []virtiotest.Buf
	for _, n := range append(cuts, len(raw)) {
		n = min(n, len(raw))
		if n > 0 || len(bufs) == 0 {
			bufs = append(bufs, p.Drv.AllocPut(raw[:n]))
		}
		raw = raw[n:]
	}
	for q.Free() < len(bufs) {
		q.WaitUsed()
	}
	q.Post(bufs...)
	q.Kick()
}

// Send sends h with payload; h.Len is set to its length.
func (p *Peer) Send(h vsock.Header, payload []byte, cuts ...int) {
	p.TB.Helper()
	h.Len = uint32(len(payload))
	p.SendRaw(h, payload, cuts...)
}

// SendRaw sends h as it is, followed by payload.
func (p *Peer) SendRaw(h vsock.Header, payload []byte, cuts ...int) {
	p.TB.Helper()
	raw := make([]byte, vsock.HeaderSize, vsock.HeaderSize+len(payload))
	h.Encode(raw)
	p.Post(append(raw, payload...), cuts...)
}

// Recv waits for a packet from the host.
func (p *Peer) Recv() Packet {
	p.TB.Helper()
	return p.packet(p.Drv.Queue(Rx).WaitUsed())
}

// TryRecv returns a packet if one has arrived.
func (p *Peer) TryRecv() (Packet, bool) {
	p.TB.Helper()
	u, ok := p.Drv.Queue(Rx).Collect()
	if !ok {
		return Packet{}, false
	}
	return p.packet(u), true
}

func (p *Peer) packet(u virtiotest.Used) Packet {
	p.TB.Helper()
	gpa, ok := p.rxBuf[u.Head]
	if !ok {
		p.TB.Fatalf("vsocktest: the device returned rx head %d, which was not posted", u.Head)
	}
	delete(p.rxBuf, u.Head)
	if u.Len < vsock.HeaderSize {
		p.TB.Fatalf("vsocktest: rx buffer used with %d bytes, less than a header", u.Len)
	}
	raw := p.Drv.Bytes(gpa, int(u.Len))
	if p.hold {
		p.free = append(p.free, gpa)
	} else {
		p.repost(gpa)
		p.Drv.Queue(Rx).Kick()
	}
	pk := Packet{Header: vsock.DecodeHeader(raw), Payload: raw[vsock.HeaderSize:], UsedLen: u.Len}
	if int(pk.Len) != len(pk.Payload) {
		p.TB.Fatalf("vsocktest: header says %d bytes of payload, the used length %d: %v", pk.Len, len(pk.Payload), &pk.Header)
	}
	return pk
}

// Expect waits for a packet and fails the test if it is not op for these ports.
func (p *Peer) Expect(op vsock.Op, guestPort, hostPort uint32) Packet {
	p.TB.Helper()
	pk := p.Recv()
	if pk.Op != op || pk.SrcPort != hostPort || pk.DstPort != guestPort || pk.SrcCID != vsock.HostCID || pk.DstCID != GuestCID {
		p.TB.Fatalf("vsocktest: got %v, want %v %d:%d>%d:%d", &pk.Header, op, vsock.HostCID, hostPort, GuestCID, guestPort)
	}
	return pk
}

// Barrier port: nothing listens there.
const barrierPort = 0xbaddbadd

// Quiet proves that the host has nothing to say: two packets to a closed port
// are answered, and nothing else comes before the second answer. (One is not
// enough: an answer may overtake packets of connections.)
func (p *Peer) Quiet() {
	p.TB.Helper()
	for range 2 {
		p.barrier++
		p.Send(Header(vsock.OpCreditUpdate, p.barrier, barrierPort), nil)
		p.Expect(vsock.OpRst, p.barrier, barrierPort)
	}
}

// Sync waits until the host has handled all that was sent, and returns what it
// said meanwhile.
func (p *Peer) Sync() (said []Packet) {
	p.TB.Helper()
	for range 2 {
		p.barrier++
		p.Send(Header(vsock.OpCreditUpdate, p.barrier, barrierPort), nil)
		for {
			pk := p.Recv()
			if pk.Op == vsock.OpRst && pk.SrcPort == barrierPort && pk.DstPort == p.barrier {
				break
			}
			said = append(said, pk)
		}
	}
	return said
}

// Connect opens a connection from the guest and returns the host's answer.
func (p *Peer) Connect(guestPort, hostPort uint32) Packet {
	p.TB.Helper()
	p.Send(Header(vsock.OpRequest, guestPort, hostPort), nil)
	return p.Expect(vsock.OpResponse, guestPort, hostPort)
}

// WaitFor polls until ok, for facts that no interrupt announces.
func WaitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(virtiotest.Patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("vsocktest: %s: not within %v", what, virtiotest.Patience)
		}
	}
}

// tap is the device with an eye on its interrupts: irq gets a token for each one
// that the driver really would have got.
type tap struct {
	*vsock.Device
	drv atomic.Pointer[virtiotest.Driver]
	irq chan struct{}
}

type tapInterrupt struct {
	virtio.Interrupt
	t *tap
}

// Activate implements virtio.Device.
func (t *tap) Activate(features uint64, queues []*virtio.Queue, irq virtio.Interrupt) error {
	return t.Device.Activate(features, queues, tapInterrupt{irq, t})
}

// Used implements virtio.Interrupt.
func (i tapInterrupt) Used(q *virtio.Queue) {
	drv := i.t.drv.Load()
	before := drv.Interrupts()
	i.Interrupt.Used(q)
	if drv.Interrupts() != before {
		select {
		case i.t.irq <- struct{}{}:
		default:
		}
	}
}
