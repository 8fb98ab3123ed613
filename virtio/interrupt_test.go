package virtio_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// B10, B11: bit 0 for used buffers, bit 1 for configuration; each stays until it
// is acknowledged, and acknowledging undefined bits does nothing.
func TestInterruptStatusBits(t *testing.T) {
	d, p, dq, q := start(t, 0, 8)
	use(t, dq, q)
	p.irq.Used(q)
	if s := d.Read32(virtiotest.InterruptStatus); s != 1 {
		t.Errorf("after a used buffer: %d, want 1", s)
	}
	p.irq.Config()
	if s := d.Read32(virtiotest.InterruptStatus); s != 3 {
		t.Errorf("after a configuration change: %d, want 3", s)
	}
	for _, ack := range []struct{ v, want uint32 }{{0, 3}, {0xfffffffc, 3}, {1, 2}, {1, 2}, {0xffffffff, 0}} {
		d.Write32(virtiotest.InterruptACK, ack.v)
		if s := d.Read32(virtiotest.InterruptStatus); s != ack.want {
			t.Errorf("after ACK %#x: %d, want %d", ack.v, s, ack.want)
		}
	}
	if d.Interrupts() != 2 {
		t.Errorf("%d interrupts, want 2", d.Interrupts())
	}
	p.irq.Used(q) // nothing new was published
	if d.Interrupts() != 2 {
		t.Error("an interrupt without a used buffer")
	}
}

// B12, §4.2.3.4: the handler that an interrupt starts sees why.
func TestStatusBitIsSetBeforeTheInterrupt(t *testing.T) {
	p := newProbe(8)
	var m *virtio.MMIO
	var seen []uint32
	m = virtio.NewMMIO(virtiotest.Memory(t, 0x10000, 1<<20), p, func() error {
		b := make([]byte, 4)
		m.Read(virtiotest.InterruptStatus, b)
		seen = append(seen, le.Uint32(b))
		m.Write(virtiotest.InterruptACK, b)
		return nil
	})
	d := &virtiotest.Driver{TB: t, MMIO: m}
	d.Negotiate(0)
	d.DriverOK()
	p.irq.Config()
	p.irq.NeedsReset(errors.New("test"))
	if len(seen) != 2 || seen[0] != 2 || seen[1] != 2 {
		t.Errorf("the handler saw %v, want [2 2]", seen)
	}
}

// B11: acknowledgements race with events, and the last event is never lost: the
// handler that runs after it finds its bit.
func TestAcknowledgementLosesNoEvent(t *testing.T) {
	p := newProbe(8)
	line := make(chan struct{}, 1)
	m := virtio.NewMMIO(virtiotest.Memory(t, 0x10000, 1<<20), p, func() error {
		select {
		case line <- struct{}{}:
		default:
		}
		return nil
	})
	d := &virtiotest.Driver{TB: t, MMIO: m}
	d.Negotiate(0)
	d.DriverOK()
	var events, handled atomic.Int64
	const total = 100_000
	var wg sync.WaitGroup
	wg.Go(func() {
		for range total {
			events.Add(1)
			p.irq.Config()
		}
	})
	wg.Go(func() { // the guest's handler
		for handled.Load() < total {
			<-line
			b := make([]byte, 4)
			m.Read(virtiotest.InterruptStatus, b)
			m.Write(virtiotest.InterruptACK, b)
			if le.Uint32(b) != 0 {
				handled.Store(events.Load())
			}
		}
	})
	wg.Wait()
	// B14: each change moved the generation on.
	if g := d.Read32(virtiotest.ConfigGeneration); g != total {
		t.Errorf("ConfigGeneration = %d, want %d", g, total)
	}
}

// B14: constant while the configuration is; also without a running driver.
func TestConfigGeneration(t *testing.T) {
	d, p, dq, q := start(t, 0, 8)
	g := d.Read32(virtiotest.ConfigGeneration)
	use(t, dq, q)
	p.irq.Used(q)
	if d.Read32(virtiotest.ConfigGeneration) != g {
		t.Error("a used buffer changed the generation")
	}
	d.MMIO.ConfigChanged()
	if d.Read32(virtiotest.ConfigGeneration) != g+1 || d.Ack() != 3 {
		t.Error("ConfigChanged did not move the generation and interrupt")
	}
	d.Reset()
	n := d.Interrupts()
	d.MMIO.ConfigChanged()
	if d.Read32(virtiotest.ConfigGeneration) != g+2 || d.Interrupts() != n {
		t.Error("ConfigChanged without a driver: wrong generation, or an interrupt")
	}
}

func TestFailingInterruptIsAFault(t *testing.T) {
	p := newProbe(8)
	broken := errors.New("eventfd is gone")
	m := virtio.NewMMIO(virtiotest.Memory(t, 0x10000, 1<<20), p, func() error { return broken })
	d := &virtiotest.Driver{TB: t, MMIO: m}
	d.Negotiate(0)
	d.DriverOK()
	p.irq.Config()
	if !errors.Is(m.Err(), broken) {
		t.Errorf("Err() = %v, want the error of raise", m.Err())
	}
}

// A11, B9: several vCPUs write registers while the workers run. After Status
// reads 0, and after QueueReady reads 0, there is no ring access and no
// interrupt.
func TestResetUnderTrafficStopsEverything(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	p := newWorker(16, 16)
	d := virtiotest.New(t, p)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 { // other vCPUs: kicks, reads and acknowledgements at any time
		wg.Go(func() {
			b := make([]byte, 4)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				d.MMIO.NotifyQueue(i % 2)
				d.MMIO.Read(uint64(i%0x120), b)
				d.MMIO.Write(virtiotest.InterruptACK, []byte{3, 0, 0, 0})
			}
		})
	}
	for round := range rounds {
		mark := d.Mark()
		d.Start(virtio.FeatureRingEventIdx * uint64(round%2))
		for q := range 2 {
			for range 16 {
				d.Queue(q).Post(virtiotest.In(d.Alloc(8, 8), 8))
			}
			d.Queue(q).Notify()
		}
		if round%2 == 0 {
			d.Queue(0).WaitUsed()
		}
		size := int(d.Mark() - 0x10000)
		if round%3 == 0 {
			// Take queue 0 back and offer it new buffers, which must stay.
			d.Write32(virtiotest.QueueSel, 0)
			d.Write32(virtiotest.QueueReady, 0)
			used := d.Queue(0).UsedIdx()
			d.Queue(0).SetAvailIdx(32)
			d.Queue(0).Notify()
			if got := d.Queue(0).UsedIdx(); got != used {
				t.Fatalf("round %d: used.idx moved from %d to %d after QueueReady read 0", round, used, got)
			}
		}
		d.Reset()
		image, irqs, touched := d.Bytes(0x10000, size), d.Interrupts(), p.touched.Load()
		if n := p.running.Load(); n != 0 {
			t.Fatalf("round %d: %d workers run after the reset", round, n)
		}
		for range 20 {
			d.MMIO.NotifyQueue(0)
		}
		if string(d.Bytes(0x10000, size)) != string(image) || d.Interrupts() != irqs || p.touched.Load() != touched {
			t.Fatalf("round %d: something happened after the reset", round)
		}
		d.Release(mark)
	}
	close(stop)
	wg.Wait()
}

// C15, C24: a guest thread rewrites descriptors, lengths and indices while the
// device works. Nothing panics and nothing outside RAM is touched (guard pages).
func TestConcurrentRewritingOfTheRing(t *testing.T) {
	p := newProbe(8)
	d := virtiotest.New(t, p)
	iterations := 300_000
	if testing.Short() {
		iterations = 30_000
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	d.StartSized(indFeat, 8)
	dq := d.Queue(0)
	wg.Go(func() {
		lens := []uint32{0, 1, 16, 32, 128, 0xffff0, 0xffffffff}
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			k := i % 8
			_ = d.Mem.StoreUint32(dq.Desc+16*k+8, lens[i%7])
			_ = d.Mem.StoreUint32(dq.Desc+16*k+12, uint32(i%8)|uint32(i%9)<<16)
			_ = d.Mem.StoreUint32(dq.Desc+16*k, []uint32{ok, ramEnd - 16, uint32(dq.Desc), 0}[i%4])
		}
	})
	var popped, broken int
	buf := make([]byte, 64)
	idx := uint16(0)
	for range iterations {
		q := p.queues[0]
		dq.SetAvail(idx, idx%8)
		idx++
		dq.SetAvailIdx(idx)
		c, got, err := q.Pop()
		switch {
		case err != nil:
			broken++
			if s := d.Status(); s&virtio.StatusNeedsReset == 0 {
				t.Fatalf("broken without DEVICE_NEEDS_RESET: %#x", s)
			}
			d.Negotiate(indFeat)
			idx = 0
			dq.SetAvailIdx(0)
			d.ProgramQueue(0, 8, dq.Desc, dq.Avail, dq.Used)
			d.DriverOK()
			continue
		case !got:
			t.Fatal("Pop found nothing")
		}
		popped++
		n, _ := c.ReadAt(buf, 0)
		w, _ := c.WriteAt(buf[:n], 0)
		if err := q.AddUsed(c.Head(), uint32(w)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d chains, %d broken rings", popped, broken)
	if popped == 0 || broken == 0 {
		t.Error("the test did not reach both outcomes")
	}
}
