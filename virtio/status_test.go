package virtio_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// A1, A14: whatever is written before DRIVER_OK, no ring is touched, no buffer
// used, no interrupt raised.
func TestNothingHappensBeforeDriverOK(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		p := newProbe(16, 16)
		d := virtiotest.New(t, p)
		d.Negotiate(0)
		dq := d.SetupQueue(0, 16)
		dq.Post(virtiotest.In(ok, 4))
		image := d.Bytes(0x10000, 0x20000)
		for range 200 {
			reg := registers[r.IntN(len(registers))]
			v := r.Uint32() >> r.IntN(32)
			if reg.off == virtiotest.Status {
				v = []uint32{3, 0xb, 0xf0, 0x4b, 0x100}[r.IntN(5)]
			}
			d.Write32(reg.off, v)
			d.MMIO.NotifyQueue(r.IntN(2))
		}
		if p.activations.Load() != 0 || p.notified.Load() != 0 || d.Interrupts() != 0 {
			t.Fatalf("%d activations, %d notifications, %d interrupts before DRIVER_OK", p.activations.Load(), p.notified.Load(), d.Interrupts())
		}
		if string(d.Bytes(0x10000, 0x20000)) != string(image) {
			t.Fatal("guest memory changed before DRIVER_OK")
		}
	}
}

// A2, B13, A10: a reset brings everything back, a thousand times.
func TestResetRestoresPowerOnState(t *testing.T) {
	p := newProbe(16, 16, 16)
	d := virtiotest.New(t, p)
	fresh := fmt.Sprintf("%+v", d.MMIO.State())
	for i := range 1000 {
		d.Start(^uint64(0))
		p.irq.NeedsReset(errors.New("test"))
		d.Reset()
		d.Write32(virtiotest.QueueSel, 0)
		if got := fmt.Sprintf("%+v", d.MMIO.State()); got != fresh {
			t.Fatalf("cycle %d: %s, want %s", i, got, fresh)
		}
		if d.MMIO.Err() != nil {
			t.Fatalf("cycle %d: Err() = %v", i, d.MMIO.Err())
		}
	}
	if p.activations.Load() != 1000 || p.resets.Load() != 1000 {
		t.Errorf("%d activations, %d resets, want 1000 each", p.activations.Load(), p.resets.Load())
	}
}

// A3, §2.1.1: every pair of a reachable status and a byte written, against the
// rules spelled out one by one.
func TestEveryStatusTransition(t *testing.T) {
	reach := map[uint32]func(d *virtiotest.Driver){
		0x00: func(*virtiotest.Driver) {},
		0x01: func(d *virtiotest.Driver) { d.Write32(0x70, 1) },
		0x03: func(d *virtiotest.Driver) { d.Write32(0x70, 3) },
		0x0b: func(d *virtiotest.Driver) { d.Negotiate(0) },
		0x0f: func(d *virtiotest.Driver) { d.Start(0) },
		0x80: func(d *virtiotest.Driver) { d.Write32(0x70, 0x80) },
		0x8f: func(d *virtiotest.Driver) { d.Start(0); d.Write32(0x70, 0x8f) },
	}
	d := virtiotest.New(t, newProbe(16))
	for from, enter := range reach {
		for v := range uint32(0x201) {
			mark := d.Mark()
			d.Reset()
			enter(d)
			if from == 0x03 { // let FEATURES_OK succeed when it is asked for
				d.Write32(virtiotest.DriverFeaturesSel, 1)
				d.Write32(virtiotest.DriverFeatures, 1)
			}
			violations := d.MMIO.Violations()
			d.Write32(0x70, v)
			w := v &^ 0x40 // the device's own bit, written back
			legal := w&^0x8f == 0 && w&from == from && (from&0x80 == 0 || w == from) &&
				(w&2 == 0 || w&1 != 0) && (w&8 == 0 || w&2 != 0) && (w&4 == 0 || from&8 != 0)
			want := from
			if legal {
				want = w
				if from < 3 { // VERSION_1 was not accepted yet
					want &^= 8
				}
			}
			if v == 0 {
				want, legal = 0, true
			}
			if got := d.Status(); got != want {
				t.Errorf("status %#x, write %#x: %#x, want %#x", from, v, got, want)
			}
			if counted := d.MMIO.Violations() != violations; counted == legal {
				t.Errorf("status %#x, write %#x: violation counted: %v", from, v, counted)
			}
			d.Release(mark)
		}
	}
}

// A15: FAILED stops the device and the host hears of it.
func TestFailedQuiescesTheDevice(t *testing.T) {
	d, p, dq, q := start(t, 0, 8)
	var heard []error
	d.MMIO.SetFaultHandler(func(err error) { heard = append(heard, err) })
	dq.Post(virtiotest.Out(ok, 4))
	d.Write32(0x70, 0x8f)
	if len(heard) != 1 || !errors.Is(heard[0], virtio.ErrDriverFailed) || !errors.Is(d.MMIO.Err(), virtio.ErrDriverFailed) {
		t.Errorf("heard %v, Err() = %v, want ErrDriverFailed", heard, d.MMIO.Err())
	}
	if _, got, err := q.Pop(); got || !errors.Is(err, virtio.ErrStopped) || p.resets.Load() != 1 {
		t.Errorf("Pop() = %v, %v after %d resets, want ErrStopped after 1", got, err, p.resets.Load())
	}
	p.irq.Used(q)
	p.irq.Config()
	p.irq.NeedsReset(errors.New("late"))
	dq.Notify()
	if d.Interrupts() != 0 || p.notified.Load() != 0 || d.Status() != 0x8f {
		t.Errorf("%d interrupts, %d notifications, status %#x", d.Interrupts(), p.notified.Load(), d.Status())
	}
	d.Start(0)
	if d.Status() != 0xf {
		t.Errorf("status %#x after a new start", d.Status())
	}
}

func TestActivationErrorNeedsReset(t *testing.T) {
	p := newProbe(8)
	p.fail = errors.New("no such thing")
	d := virtiotest.New(t, p)
	d.Start(0)
	if err := d.MMIO.Err(); !errors.Is(err, virtio.ErrActivate) || !errors.Is(err, p.fail) {
		t.Errorf("Err() = %v, want ErrActivate and the cause", err)
	}
	if d.Status() != 0x4f || d.Interrupts() != 1 {
		t.Errorf("status %#x, %d interrupts, want 0x4f, 1", d.Status(), d.Interrupts())
	}
}

// A16: RING_RESET is not offered, so QueueReset does nothing.
func TestQueueResetRegisterHasNoEffect(t *testing.T) {
	d, p, _, _ := start(t, 0, 8)
	before := d.MMIO.State()
	for _, v := range []uint32{1, 0, 0xffffffff} {
		d.Write32(virtiotest.QueueReset, v)
		if got := d.Read32(virtiotest.QueueReset); got != 0 {
			t.Errorf("QueueReset reads %#x", got)
		}
	}
	if !equalState(before, d.MMIO.State()) || p.resets.Load() != 0 || d.DeviceFeatures()&(1<<40) != 0 {
		t.Error("QueueReset changed something")
	}
}

// A driver may leave queues out: the device gets one that yields nothing.
func TestQueueThatWasNotSetUpYieldsNothing(t *testing.T) {
	p := newProbe(8, 8)
	d := virtiotest.New(t, p)
	d.Negotiate(0)
	d.SetupQueue(0, 8)
	d.DriverOK()
	q := p.queues[1]
	if _, got, err := q.Pop(); got || !errors.Is(err, virtio.ErrStopped) || q.Size() != 0 || q.EnableNotifications() || q.NeedInterrupt() {
		t.Errorf("Pop() = %v, %v, size %d", got, err, q.Size())
	}
	q.DisableNotifications()
	q.PublishUsed()
	if err := q.AddUsed(0, 0); !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("AddUsed() = %v", err)
	}
	d.Write32(virtiotest.QueueNotify, 1)
	if p.notified.Load() != 0 {
		t.Error("a notification of the missing queue arrived")
	}
}

// B8: memory of a queue that is not ready, or no more, is not touched.
func TestQueueTakenBackIsNotTouched(t *testing.T) {
	d, p, dq, q := start(t, 0, 8)
	buf := d.Alloc(8, 8)
	dq.Post(virtiotest.In(buf, 8))
	dq.Post(virtiotest.In(buf, 8))
	c := pop(t, q)
	image := d.Bytes(0x10000, 0x20000)
	d.Write32(virtiotest.QueueSel, 0)
	if d.Read32(virtiotest.QueueReady) != 1 {
		t.Fatal("QueueReady reads 0 while the queue is in use")
	}
	d.Write32(virtiotest.QueueReady, 0)
	if d.Read32(virtiotest.QueueReady) != 0 {
		t.Fatal("QueueReady reads 1 after 0 was written")
	}
	if _, err := c.WriteAt([]byte("late"), 0); !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("WriteAt = %v, want ErrStopped", err)
	}
	if n, err := c.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("ReadAt = %d, %v, want ErrStopped", n, err)
	}
	if err := q.AddUsed(c.Head(), 4); !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("AddUsed = %v, want ErrStopped", err)
	}
	if _, got, err := q.Pop(); got || !errors.Is(err, virtio.ErrStopped) {
		t.Errorf("Pop = %v, %v, want ErrStopped", got, err)
	}
	q.DisableNotifications()
	q.EnableNotifications()
	q.PublishUsed()
	dq.Notify()
	if !bytes.Equal(d.Bytes(0x10000, 0x20000), image) || p.notified.Load() != 0 {
		t.Error("the ring was touched after it was taken back")
	}
}
