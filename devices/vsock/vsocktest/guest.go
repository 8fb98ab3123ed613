//go:build unix

package vsocktest

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

const (
	guestBufAlloc = 256 << 10 // Linux: VIRTIO_VSOCK_DEFAULT_BUF_SIZE
	maxPacket     = 64 << 10
	txSlots       = 32
	packetCharge  = 1 << 10 // bookkeeping per queued packet
)

// quick is a TB whose Helper is free: the driver calls it many times per packet,
// which would be most of what a benchmark measures.
type quick struct{ testing.TB }

// Helper does nothing.
func (quick) Helper() {}

// Guest is a socket stack on the guest's side of a device.
// Concurrency: safe for any number of goroutines.
type Guest struct {
	TB testing.TB
	t  *tap

	mu     sync.Mutex
	drv    *virtiotest.Driver
	rx, tx *virtiotest.Queue
	rxGPA  map[uint16]uint64
	rxSize int
	slots  []uint64 // free tx slots: header and payload
	txHead map[uint16]uint64
	space  *sync.Cond // a tx slot became free
	conns  map[[2]uint32]*Conn
	accept map[uint32]chan *Conn
	next   uint32
	closed bool

	stop, done chan struct{}
	barrier    atomic.Uint32

	// Violations of the protocol by the host. Tests check that it is empty.
	violations []string
	scratch    []byte
}

// NewGuest starts dev. Everything is stopped when the test is over.
func NewGuest(tb testing.TB, dev *vsock.Device, o Options) *Guest {
	tb.Helper()
	o.fill()
	t := &tap{Device: dev, irq: make(chan struct{}, 1)}
	g := &Guest{
		TB: tb, t: t, drv: virtiotest.New(quick{tb}, t), next: 40000,
		rxGPA: map[uint16]uint64{}, rxSize: o.RxBufferSize, txHead: map[uint16]uint64{},
		conns: map[[2]uint32]*Conn{}, accept: map[uint32]chan *Conn{},
		stop: make(chan struct{}), done: make(chan struct{}),
		scratch: make([]byte, o.RxBufferSize),
	}
	g.space = sync.NewCond(&g.mu)
	t.drv.Store(g.drv)
	g.drv.Start(o.Features)
	g.rx, g.tx = g.drv.Queue(Rx), g.drv.Queue(Tx)
	for range txSlots {
		g.slots = append(g.slots, g.drv.Alloc(vsock.HeaderSize+maxPacket, 8))
	}
	for range o.RxBuffers {
		gpa := g.drv.Alloc(o.RxBufferSize, 8)
		g.rxGPA[g.rx.Post(virtiotest.In(gpa, o.RxBufferSize))] = gpa
	}
	g.rx.Kick()
	go g.loop()
	tb.Cleanup(g.Close)
	return g
}

// Close stops the stack. The device is left as it is.
func (g *Guest) Close() {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.closed = true
	for _, c := range g.conns {
		c.fail(net.ErrClosed)
	}
	g.space.Broadcast()
	g.mu.Unlock()
	close(g.stop)
	<-g.done
	for _, v := range g.violations {
		g.TB.Errorf("vsocktest: the host violated the protocol: %s", v)
	}
}

// loop is the interrupt handler.
func (g *Guest) loop() {
	defer close(g.done)
	for {
		g.mu.Lock()
		for again := true; again && !g.closed; {
			again = g.pump()
		}
		g.mu.Unlock()
		select {
		case <-g.stop:
			return
		case <-g.t.irq:
			g.drv.Ack()
		}
	}
}

// pump collects everything used and asks for the next interrupt; again is true
// if something came in between.
func (g *Guest) pump() (again bool) {
	g.txCollect()
	for {
		u, ok := g.rx.Collect()
		if !ok {
			break
		}
		g.receive(u)
	}
	g.rx.Kick()
	rxIdx, txIdx := g.rx.UsedIdx(), g.tx.UsedIdx()
	g.rx.SetUsedEvent(rxIdx)
	g.tx.SetUsedEvent(txIdx)
	g.barrier.Add(1) // full barrier between asking and looking again
	if u, ok := g.rx.Collect(); ok {
		g.receive(u)
		again = true
	}
	return g.txCollect() || again
}

func (g *Guest) txCollect() (some bool) {
	for {
		u, ok := g.tx.Collect()
		if !ok {
			return some
		}
		some = true
		g.slots = append(g.slots, g.txHead[u.Head])
		delete(g.txHead, u.Head)
		g.space.Broadcast()
	}
}

func (g *Guest) violation(format string, args ...any) {
	if len(g.violations) < 20 {
		g.violations = append(g.violations, fmt.Sprintf(format, args...))
	}
}

// receive handles one used rx buffer and posts it again.
func (g *Guest) receive(u virtiotest.Used) {
	gpa := g.rxGPA[u.Head]
	delete(g.rxGPA, u.Head)
	raw := g.scratch[:u.Len]
	if err := g.drv.Mem.ReadAt(raw, gpa); err != nil {
		g.violation("reading an rx buffer: %v", err)
		return
	}
	g.rxGPA[g.rx.Post(virtiotest.In(gpa, g.rxSize))] = gpa
	if len(raw) < vsock.HeaderSize {
		g.violation("rx buffer of %d bytes", len(raw))
		return
	}
	h := vsock.DecodeHeader(raw)
	payload := raw[vsock.HeaderSize:]
	switch {
	case h.SrcCID != vsock.HostCID || h.DstCID != GuestCID || h.Type != vsock.TypeStream || int(h.Len) != len(payload):
		g.violation("bad header %v with %d bytes", &h, len(payload))
		return
	case h.Op != vsock.OpRW && h.Len != 0:
		g.violation("payload on %v", &h)
	}
	k := [2]uint32{h.DstPort, h.SrcPort}
	c := g.conns[k]
	switch {
	case c != nil:
		c.packet(&h, payload)
	case h.Op == vsock.OpRequest:
		g.request(&h, k)
	case h.Op != vsock.OpRst:
		g.reset(k)
	}
}

func (g *Guest) request(h *vsock.Header, k [2]uint32) {
	ch := g.accept[k[0]]
	if ch == nil || len(ch) == cap(ch) {
		g.reset(k)
		return
	}
	c := g.newConn(k)
	c.open, c.peerAlloc, c.peerFwd = true, h.BufAlloc, h.FwdCnt
	c.send(vsock.OpResponse, 0, nil)
	ch <- c
}

func (g *Guest) reset(k [2]uint32) {
	h := Header(vsock.OpRst, k[0], k[1])
	g.waitSlot()
	g.transmit(&h, nil)
}

// waitSlot waits for a free tx slot; it may let the lock go. A header must be
// made after it, or its fwd_cnt could go back. Preconditions: g.mu held.
func (g *Guest) waitSlot() {
	for len(g.slots) == 0 && !g.closed {
		// The interrupt handler itself may be sending a reply: it must not wait
		// for itself.
		if !g.txCollect() {
			g.tx.SetUsedEvent(g.tx.UsedIdx())
			g.barrier.Add(1)
			if !g.txCollect() {
				g.waitSpace()
			}
		}
	}
}

// transmit posts a packet. Preconditions: g.mu held, waitSlot has returned.
func (g *Guest) transmit(h *vsock.Header, payload []byte) {
	if g.closed {
		return
	}
	gpa := g.slots[len(g.slots)-1]
	g.slots = g.slots[:len(g.slots)-1]
	var raw [vsock.HeaderSize]byte
	h.Len = uint32(len(payload))
	h.Encode(raw[:])
	g.drv.Put(gpa, raw[:])
	g.drv.Put(gpa+vsock.HeaderSize, payload)
	g.txHead[g.tx.Post(virtiotest.Out(gpa, vsock.HeaderSize+len(payload)))] = gpa
	g.tx.Kick()
}

// waitSpace lets the lock go for a moment. Any caller may be the interrupt
// handler, so it polls instead of waiting to be told.
func (g *Guest) waitSpace() {
	g.mu.Unlock()
	time.Sleep(50 * time.Microsecond)
	g.mu.Lock()
}

func (g *Guest) newConn(k [2]uint32) *Conn {
	c := &Conn{g: g, k: k}
	c.cond = sync.NewCond(&g.mu)
	g.conns[k] = c
	return c
}

// Dial connects to a host port.
func (g *Guest) Dial(hostPort uint32) (*Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	c := g.newConn([2]uint32{g.next, hostPort})
	c.send(vsock.OpRequest, 0, nil)
	for !c.open && c.err == nil {
		c.cond.Wait()
	}
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// Listen accepts the host's connections to a guest port into the channel.
func (g *Guest) Listen(port uint32, backlog int) <-chan *Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	ch := make(chan *Conn, backlog)
	g.accept[port] = ch
	return ch
}

// Conns is the number of connections the guest knows.
func (g *Guest) Conns() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}
