package virtio_test

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// probe is a device without workers: tests take its queues and play the worker.
type probe struct {
	id       uint32
	features uint64
	sizes    []uint16
	maxBytes uint32
	config   []byte
	fail     error // of Activate

	mu       sync.Mutex
	queues   []*virtio.Queue
	irq      virtio.Interrupt
	accepted uint64
	onReset  func()

	activations, resets, notified atomic.Int64
}

func newProbe(sizes ...uint16) *probe {
	return &probe{
		id: 19, sizes: sizes,
		features: 1<<3 | virtio.FeatureRingEventIdx | virtio.FeatureRingIndirectDesc,
		config:   []byte{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88},
	}
}

func (p *probe) ID() uint32               { return p.id }
func (p *probe) Features() uint64         { return p.features }
func (p *probe) QueueSizes() []uint16     { return p.sizes }
func (p *probe) MaxChainBytes(int) uint32 { return p.maxBytes }
func (p *probe) Notify(int)               { p.notified.Add(1) }
func (p *probe) ReadConfig(off uint32, b []byte) {
	if off < uint32(len(p.config)) {
		copy(b, p.config[off:])
	}
}

func (p *probe) Activate(features uint64, queues []*virtio.Queue, irq virtio.Interrupt) error {
	p.activations.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queues, p.irq, p.accepted = queues, irq, features
	return p.fail
}

func (p *probe) Reset() {
	p.resets.Add(1)
	if p.onReset != nil {
		p.onReset()
	}
}

// start runs a one-queue probe and gives its queue, both sides.
func start(t testing.TB, features uint64, size uint16) (*virtiotest.Driver, *probe, *virtiotest.Queue, *virtio.Queue) {
	t.Helper()
	p := newProbe(size)
	d := virtiotest.New(t, p)
	d.Start(features)
	return d, p, d.Queue(0), p.queues[0]
}

// pop takes a chain that must be there.
func pop(t testing.TB, q *virtio.Queue) *virtio.Chain {
	t.Helper()
	c, ok, err := q.Pop()
	if err != nil || !ok {
		t.Fatalf("Pop() = %v, %v, want a chain", ok, err)
	}
	return c
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 1)
	}
	return b
}

var le = binary.LittleEndian
