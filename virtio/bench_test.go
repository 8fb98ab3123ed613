package virtio_test

import (
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// loop is one queue and its prepared driver: each turn offers the same chains
// again, without the allocations of virtiotest.
type loop struct {
	mem  *virtio.Memory
	q    *virtio.Queue
	dq   *virtiotest.Queue
	idx  uint16
	size uint16
}

func newLoop(tb testing.TB, feat uint64, size uint16, bufs int) *loop {
	d, _, dq, q := start(tb, feat, size)
	buf := d.Alloc(4096, 8)
	n := size / uint16(bufs)
	for k := range n {
		for i := range bufs {
			id := k*uint16(bufs) + uint16(i)
			desc := virtiotest.Desc{Addr: buf, Len: 64, Flags: next, Next: id + 1}
			if i == bufs-1 {
				desc.Flags = write
			}
			dq.SetDesc(id, desc)
		}
	}
	return &loop{mem: d.Mem, q: q, dq: dq, size: n}
}

// turn passes n chains through the queue, n <= size.
func (l *loop) turn(tb testing.TB, n uint16, work func(*virtio.Chain)) {
	bufs := uint16(256) / l.size
	for k := range n {
		i := l.idx & 255
		_ = l.mem.StoreUint16(l.dq.Avail+4+2*uint64(i), (k%l.size)*bufs)
		l.idx++
	}
	_ = l.mem.StoreUint32(l.dq.Avail, uint32(l.idx)<<16)
	for range n {
		c, ok, err := l.q.Pop()
		if err != nil || !ok {
			tb.Fatal(ok, err)
		}
		if work != nil {
			work(c)
		}
		if err := l.q.AddUsed(c.Head(), 64); err != nil {
			tb.Fatal(err)
		}
	}
	l.q.NeedInterrupt()
}

func TestQueueDoesNotAllocate(t *testing.T) {
	for _, feat := range []uint64{0, virtio.FeatureRingEventIdx} {
		l := newLoop(t, feat, 256, 4)
		p := make([]byte, 128)
		segs := make([][]byte, 0, 8)
		work := func(c *virtio.Chain) {
			_, _ = c.ReadAt(p, 0)
			_, _ = c.WriteAt(p[:64], 0)
			segs = c.AppendReadable(segs[:0], 44, 100)
		}
		l.turn(t, l.size, work) // the chains' buffer lists grow once
		if n := testing.AllocsPerRun(100, func() {
			l.q.DisableNotifications()
			l.turn(t, l.size, work)
			l.q.EnableNotifications()
		}); n != 0 {
			t.Errorf("features %#x: %v allocations per turn, want 0", feat, n)
		}
	}
}

func BenchmarkPopAddUsed(b *testing.B) {
	for _, bench := range []struct {
		name string
		feat uint64
		bufs int
	}{
		{"1buffer", 0, 1}, {"2buffers", 0, 2}, {"16buffers", 0, 16}, {"2buffers-eventidx", virtio.FeatureRingEventIdx, 2},
	} {
		b.Run(bench.name, func(b *testing.B) {
			l := newLoop(b, bench.feat, 256, bench.bufs)
			b.ReportAllocs()
			for b.Loop() {
				l.turn(b, 1, nil)
			}
		})
	}
}

func BenchmarkChainCopy64KiB(b *testing.B) {
	d, _, dq, q := start(b, 0, 256)
	buf := d.Alloc(64<<10, 4096)
	dq.Post(virtiotest.Out(buf, 64<<10))
	c := pop(b, q)
	p := make([]byte, 64<<10)
	b.SetBytes(64 << 10)
	for b.Loop() {
		if _, err := c.ReadAt(p, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMMIONotify(b *testing.B) {
	d, _, _, _ := start(b, 0, 256)
	for b.Loop() {
		d.MMIO.NotifyQueue(0)
	}
}

func BenchmarkMMIOInterruptStatus(b *testing.B) {
	d, _, _, _ := start(b, 0, 256)
	p := make([]byte, 4)
	for b.Loop() {
		d.MMIO.Read(virtiotest.InterruptStatus, p)
	}
}
