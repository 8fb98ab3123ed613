package virtio_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// use passes one chain through the queue.
func use(t testing.TB, dq *virtiotest.Queue, q *virtio.Queue) {
	t.Helper()
	dq.Post(virtiotest.Out(ok, 4))
	if err := q.AddUsed(pop(t, q).Head(), 0); err != nil {
		t.Fatal(err)
	}
	dq.Collect()
}

// C18, §2.7.7.2: without EVENT_IDX the flag decides and used_event is ignored.
func TestInterruptFollowsTheFlagWithoutEventIdx(t *testing.T) {
	_, _, dq, q := start(t, 0, 8)
	for _, event := range []uint16{0, 1, 2, 0x7fff, 0xffff} {
		for _, suppressed := range []bool{false, true} {
			dq.SetUsedEvent(event)
			dq.SuppressInterrupts(suppressed)
			use(t, dq, q)
			if got := q.NeedInterrupt(); got == suppressed {
				t.Errorf("used_event %#x, NO_INTERRUPT %v: interrupt %v", event, suppressed, got)
			}
		}
	}
}

// C19, §2.7.7.2: with EVENT_IDX the interrupt comes exactly when the used index
// passes used_event, for every distance, and the flag is ignored.
func TestInterruptFollowsUsedEventAtEveryOffset(t *testing.T) {
	_, _, dq, q := start(t, virtio.FeatureRingEventIdx, 8)
	dq.SuppressInterrupts(true)
	idx := uint16(0) // used.idx before the step
	for i := range 65536 + 70 {
		batch := uint16(i%3 + 1)
		// The event is at a distance d from the old index: crossed iff d < batch.
		d := uint16(i)
		dq.SetUsedEvent(idx + d)
		for range batch {
			use(t, dq, q)
		}
		idx += batch
		if got, want := q.NeedInterrupt(), d < batch; got != want {
			t.Fatalf("used.idx %#x to %#x, used_event %#x: interrupt %v, want %v", idx-batch, idx, idx-batch+d, got, want)
		}
	}
}

// C20, §2.7.10.2.
func TestUsedFlagsSuppressNotificationsOnlyWithoutEventIdx(t *testing.T) {
	_, _, dq, q := start(t, 0, 8)
	use(t, dq, q)
	q.DisableNotifications()
	if f, i := dq.UsedFlags(), dq.UsedIdx(); f != 1 || i != 1 {
		t.Errorf("disabled: flags %d, idx %d, want 1, 1", f, i)
	}
	use(t, dq, q)
	if f, i := dq.UsedFlags(), dq.UsedIdx(); f != 1 || i != 2 {
		t.Errorf("after a buffer: flags %d, idx %d, want 1, 2", f, i)
	}
	if dq.Kick() {
		t.Error("the driver kicked although notifications are off")
	}
	if q.EnableNotifications() {
		t.Error("an empty ring has something pending")
	}
	if f, i := dq.UsedFlags(), dq.UsedIdx(); f != 0 || i != 2 {
		t.Errorf("enabled: flags %d, idx %d, want 0, 2", f, i)
	}

	_, _, dq, q = start(t, virtio.FeatureRingEventIdx, 8)
	q.DisableNotifications()
	dq.Post(virtiotest.Out(ok, 4))
	if !dq.Kick() { // avail_event is 0: the first buffer kicks
		t.Error("no kick for the first buffer")
	}
	q.DisableNotifications()
	dq.Post(virtiotest.Out(ok, 4))
	if dq.Kick() {
		t.Error("the driver kicked although avail_event stayed behind")
	}
	if !q.EnableNotifications() {
		t.Error("two buffers are there, but nothing is pending")
	}
	pop(t, q)
	pop(t, q)
	if q.EnableNotifications() {
		t.Error("the drained ring has something pending")
	}
	dq.Post(virtiotest.Out(ok, 4))
	if !dq.Kick() {
		t.Error("no kick after notifications were enabled")
	}
	if f := dq.UsedFlags(); f != 0 {
		t.Errorf("used.flags = %d with EVENT_IDX, want 0", f)
	}
	dq.CheckCanaries() // avail_event is the last field: 2 bytes, not 4
}

// C21: notifications with nothing available cost nothing and change nothing.
func TestSpuriousNotificationsDoNothing(t *testing.T) {
	d, p, dq, q := start(t, 0, 8)
	before := d.MMIO.State()
	for range 1_000_000 {
		dq.Notify()
	}
	if _, ok, err := q.Pop(); ok || err != nil {
		t.Errorf("Pop() = %v, %v", ok, err)
	}
	if n := p.notified.Load(); n != 1_000_000 {
		t.Errorf("%d notifications arrived", n)
	}
	if after := d.MMIO.State(); !equalState(before, after) {
		t.Errorf("state %+v, was %+v", after, before)
	}
	if d.Interrupts() != 0 {
		t.Errorf("%d interrupts", d.Interrupts())
	}
}

// C22, §2.7.10: no wake-up is lost between a driver that kicks only when asked
// and a device that sleeps only when nothing is pending, nor on the way back.
func TestNoWakeupIsLost(t *testing.T) {
	total := 300_000
	if testing.Short() {
		total = 30_000
	}
	for _, feat := range []uint64{0, virtio.FeatureRingEventIdx} {
		p := newWorker(8)
		d := virtiotest.New(t, p)
		d.Start(feat)
		dq := d.Queue(0)
		buf := d.Alloc(8, 8)
		begin := time.Now()
		for i := range total {
			dq.Post(virtiotest.In(buf, 8))
			dq.Kick()
			if i%3 == 0 || dq.Free() == 0 {
				dq.WaitUsed()
				for {
					if _, ok := dq.Collect(); !ok {
						break
					}
				}
			}
		}
		for dq.Free() < 8 {
			dq.WaitUsed()
		}
		t.Logf("features %#x: %d buffers in %v, %d interrupts, %d kicks", feat, total, time.Since(begin), d.Interrupts(), p.kicks.Load())
		d.Reset()
		if p.running.Load() != 0 {
			t.Error("the worker outlived the reset")
		}
	}
}

// C22, §2.7.10, the litmus test of it: driver and device take their step at the
// same time, over and over. The device enables notifications and looks again; the
// driver offers a buffer and looks whether to notify. At least one must see the
// other. Without a full barrier between the device's store and its load, both
// miss now and then.
func TestEnablingNotificationsRacesWithTheDriver(t *testing.T) {
	for _, feat := range []uint64{0, virtio.FeatureRingEventIdx} {
		d, _, dq, q := start(t, feat, 8)
		dq.SetDesc(0, virtiotest.Desc{Addr: ok, Len: 4})
		event := dq.Used + 4 + 8*8
		var turn, ready atomic.Int64
		var kicked atomic.Bool
		stop := make(chan struct{})
		go func() { // the driver
			defer close(stop)
			for i := int64(1); ; i++ {
				for n := 0; turn.Load() < i; n++ {
					if n > 100 {
						runtime.Gosched()
					}
				}
				if turn.Load() == litmusEnd {
					return
				}
				_ = d.Mem.StoreUint32(dq.Avail, uint32(uint16(i))<<16)
				if feat == 0 {
					w, _ := d.Mem.LoadUint32(dq.Used)
					kicked.Store(w&1 == 0)
				} else {
					w, _ := d.Mem.LoadUint16(event)
					kicked.Store(uint16(i)-w-1 < 1)
				}
				ready.Store(i)
			}
		}()
		lost, i := 0, int64(0)
		for begin := time.Now(); i < 3_000_000 && (i%1024 != 0 || time.Since(begin) < time.Second); {
			i++
			q.DisableNotifications()
			turn.Store(i)
			for range i % 64 * 16 { // vary who is first, by some 300 ns
				runtime.KeepAlive(i)
			}
			pending := q.EnableNotifications()
			for n := 0; ready.Load() < i; n++ {
				if n > 100 {
					runtime.Gosched()
				}
			}
			if !pending && !kicked.Load() {
				lost++
			}
			if err := q.AddUsed(pop(t, q).Head(), 0); err != nil {
				t.Fatal(err)
			}
		}
		turn.Store(litmusEnd)
		<-stop
		t.Logf("features %#x: %d turns", feat, i)
		if lost != 0 {
			t.Errorf("features %#x: %d of %d wake-ups lost", feat, lost, i)
		}
	}
}

const litmusEnd = 1 << 62

// worker is a device with a real worker goroutine per queue: it writes 8 bytes
// into each chain.
type worker struct {
	*probe
	kick    []chan struct{}
	stop    chan struct{}
	done    chan struct{}
	kicks   atomic.Int64
	running atomic.Int64
	touched atomic.Int64 // chains worked on
}

func newWorker(sizes ...uint16) *worker { return &worker{probe: newProbe(sizes...)} }

func (w *worker) Activate(_ uint64, queues []*virtio.Queue, irq virtio.Interrupt) error {
	w.stop, w.done = make(chan struct{}), make(chan struct{}, len(queues))
	w.kick = nil
	for _, q := range queues {
		kick := make(chan struct{}, 1)
		kick <- struct{}{} // buffers may be there already
		w.kick = append(w.kick, kick)
		w.running.Add(1)
		go func() {
			defer func() { w.running.Add(-1); w.done <- struct{}{} }()
			for {
				select {
				case <-w.stop:
					return
				case <-kick:
					w.serve(q, irq)
				}
			}
		}()
	}
	return nil
}

func (w *worker) serve(q *virtio.Queue, irq virtio.Interrupt) {
	for {
		q.DisableNotifications()
		for {
			select {
			case <-w.stop:
				return
			default:
			}
			c, ok, err := q.Pop()
			if err != nil {
				return
			}
			if !ok {
				break
			}
			w.touched.Add(1)
			n, _ := c.WriteAt([]byte("response"), 0)
			if q.AddUsed(c.Head(), uint32(n)) != nil {
				return
			}
		}
		irq.Used(q)
		if !q.EnableNotifications() {
			return
		}
	}
}

func (w *worker) Notify(i int) {
	w.kicks.Add(1)
	select {
	case w.kick[i] <- struct{}{}:
	default:
	}
}

func (w *worker) Reset() {
	close(w.stop)
	for range w.kick {
		<-w.done
	}
}
