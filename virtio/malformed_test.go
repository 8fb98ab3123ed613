package virtio_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// malformed is one way to break the ring, and the rule the error must name.
type malformed struct {
	name string
	rule string
	feat uint64
	make func(d *virtiotest.Driver, q *virtiotest.Queue)
}

func chain(descs ...virtiotest.Desc) func(*virtiotest.Driver, *virtiotest.Queue) {
	return func(_ *virtiotest.Driver, q *virtiotest.Queue) {
		for i, d := range descs {
			q.SetDesc(uint16(i), d)
		}
		q.SetAvail(0, 0)
		q.SetAvailIdx(1)
	}
}

const (
	ok      = 0x20000 // an address in RAM (0x10000..0x1010000)
	ramEnd  = 0x1010000
	next    = virtiotest.DescNext
	write   = virtiotest.DescWrite
	indir   = virtiotest.DescIndirect
	indFeat = virtio.FeatureRingIndirectDesc
)

func dsc(addr uint64, n uint32, flags, next uint16) virtiotest.Desc {
	return virtiotest.Desc{Addr: addr, Len: n, Flags: flags, Next: next}
}

func table(gpa uint64, n uint32, descs ...virtiotest.Desc) func(*virtiotest.Driver, *virtiotest.Queue) {
	return func(d *virtiotest.Driver, q *virtiotest.Queue) {
		var b []byte
		for _, x := range descs {
			b = append(b, virtiotest.EncodeDesc(x)...)
		}
		if len(b) > 0 {
			d.Put(gpa, b)
		}
		chain(virtiotest.Desc{Addr: gpa, Len: n, Flags: indir})(d, q)
	}
}

var malformedChains = []malformed{
	// C4, §2.7.5.2.
	{"descriptor that follows itself", "loops", 0, chain(dsc(ok, 8, next, 0))},
	{"cycle of two", "loops", 0, chain(dsc(ok, 8, next, 1), dsc(ok, 8, next, 0))},
	{"cycle of three, empty buffers", "loops", 0, chain(dsc(ok, 0, next, 1), dsc(ok, 0, next, 2), dsc(ok, 0, next, 0))},
	{"next beyond the table", "next index", 0, chain(dsc(ok, 8, next, 8))},
	{"next far beyond the table", "next index", 0, chain(dsc(ok, 8, next, 0xffff))},
	// C10, §2.7.4.2.
	{"readable after writable", "readable buffer after", 0, chain(dsc(ok, 8, write|next, 1), dsc(ok, 8, 0, 0))},
	{"empty readable after writable", "readable buffer after", 0, chain(dsc(ok, 8, write|next, 1), dsc(ok, 0, 0, 0))},
	// C5, §2.7.5.2: the probe takes 64 KiB.
	{"more bytes than the device accepts", "more bytes", 0, chain(dsc(ok, 0x10000, next, 1), dsc(ok, 1, 0, 0))},
	{"the largest length", "more bytes", 0, chain(dsc(ok, 0xffffffff, 0, 0))},
	// C12, C14, §2.7.6.
	{"index jumps ahead", "available index", 0, func(_ *virtiotest.Driver, q *virtiotest.Queue) { q.SetAvailIdx(9) }},
	{"index moves back", "available index", 0, func(_ *virtiotest.Driver, q *virtiotest.Queue) { q.SetAvailIdx(0xffff) }},
	{"index jumps half way", "available index", 0, func(_ *virtiotest.Driver, q *virtiotest.Queue) { q.SetAvailIdx(0x8000) }},
	{"head is the queue size", "head index", 0, func(_ *virtiotest.Driver, q *virtiotest.Queue) { q.SetAvail(0, 8); q.SetAvailIdx(1) }},
	{"head is 65535", "head index", 0, func(_ *virtiotest.Driver, q *virtiotest.Queue) { q.SetAvail(0, 0xffff); q.SetAvailIdx(1) }},
	// C25, C27, §2.7.5.
	{"address plus length wraps", "outside guest RAM", 0, chain(dsc(^uint64(0)-7, 16, 0, 0))},
	{"the last address", "outside guest RAM", 0, chain(dsc(^uint64(0), 1, 0, 0))},
	{"runs over the end of RAM", "outside guest RAM", 0, chain(dsc(ramEnd-1, 2, write, 0))},
	{"above RAM", "outside guest RAM", 0, chain(dsc(ramEnd, 1, write, 0))},
	{"below RAM", "outside guest RAM", 0, chain(dsc(0xffff, 2, write, 0))},
	{"the device's own registers", "outside guest RAM", 0, chain(dsc(0xd0000000, 4, write, 0))},
	// C6, §2.7.5.3.1.
	{"indirect, not negotiated", "without negotiation", 0, table(ok, 16, dsc(ok, 8, 0, 0))},
	// C7.
	{"indirect inside indirect", "inside an indirect", indFeat, table(ok, 16, dsc(ok, 16, indir, 0))},
	{"indirect with next", "both INDIRECT and NEXT", indFeat, chain(dsc(ok, 16, indir|next, 1), dsc(ok, 8, 0, 0))},
	// C9, §2.7.5.3.
	{"indirect table of 0 bytes", "no positive multiple", indFeat, table(ok, 0)},
	{"indirect table of 17 bytes", "no positive multiple", indFeat, table(ok, 17)},
	{"indirect table longer than the queue", "longer than the queue", indFeat, table(ok, 9*16)},
	{"indirect table of 4 GiB", "longer than the queue", indFeat, table(ok, 0xfffffff0)},
	{"indirect table over the end of RAM", "indirect table outside", indFeat, table(ramEnd-8, 16)},
	{"next beyond the indirect table", "next index", indFeat, table(ok, 32, dsc(ok, 8, next, 2), dsc(ok, 8, 0, 0))},
	{"loop in the indirect table", "loops", indFeat, table(ok, 32, dsc(ok, 8, next, 1), dsc(ok, 8, next, 0))},
}

// A4, A5, §2.1.2: each violation breaks the queue with an error that says which,
// the device asks for a reset and interrupts, and afterwards nothing happens.
func TestMalformedRingBreaksTheQueue(t *testing.T) {
	for _, c := range malformedChains {
		t.Run(c.name, func(t *testing.T) {
			p := newProbe(8)
			p.maxBytes = 0x10000
			d := virtiotest.New(t, p)
			d.Start(c.feat)
			dq, q := d.Queue(0), p.queues[0]
			c.make(d, dq)
			desc, avail := d.Bytes(dq.Desc, 128), d.Bytes(dq.Avail, 22)

			_, got, err := q.Pop()
			var qe *virtio.QueueError
			if got || !errors.Is(err, virtio.ErrBroken) || !errors.As(err, &qe) {
				t.Fatalf("Pop() = %v, %v, want ErrBroken", got, err)
			}
			if !bytes.Contains([]byte(qe.Rule), []byte(c.rule)) {
				t.Errorf("the error names the rule %q, want %q", qe.Rule, c.rule)
			}
			if s := d.Status(); s != 0x4f {
				t.Errorf("Status = %#x, want 0x4f (DEVICE_NEEDS_RESET)", s)
			}
			if s := d.WaitInterrupt(); s != 2 {
				t.Errorf("InterruptStatus = %d, want 2 (configuration change)", s)
			}
			if !errors.Is(d.MMIO.Err(), virtio.ErrBroken) {
				t.Errorf("MMIO.Err() = %v, want ErrBroken", d.MMIO.Err())
			}
			for range 1000 {
				dq.Notify()
			}
			if n := p.notified.Load(); n != 0 {
				t.Errorf("%d notifications reached the broken device", n)
			}
			if _, got, err := q.Pop(); got || !errors.Is(err, virtio.ErrBroken) {
				t.Errorf("second Pop() = %v, %v, want ErrBroken", got, err)
			}
			if q.EnableNotifications() || q.NeedInterrupt() || q.Available() {
				t.Error("the broken queue still has work")
			}
			if err := q.AddUsed(0, 0); !errors.Is(err, virtio.ErrBroken) {
				t.Errorf("AddUsed on the broken queue: %v", err)
			}
			// C2: the driver's areas are as they were; nothing was used.
			if !bytes.Equal(d.Bytes(dq.Desc, 128), desc) || !bytes.Equal(d.Bytes(dq.Avail, 22), avail) {
				t.Error("the device wrote the driver's areas")
			}
			if dq.UsedIdx() != 0 || d.Interrupts() != 1 {
				t.Errorf("used.idx = %d with %d interrupts, want 0 with 1", dq.UsedIdx(), d.Interrupts())
			}
			// A reset heals.
			d.Start(0)
			d.Queue(0).Post(virtiotest.Out(ok, 4))
			pop(t, p.queues[0])
		})
	}
}

// A5: one broken queue, or a device's own error, stops all queues.
func TestOneBrokenQueueStopsThemAll(t *testing.T) {
	for _, byDevice := range []bool{false, true} {
		p := newProbe(8, 8)
		d := virtiotest.New(t, p)
		var heard []error
		d.MMIO.SetFaultHandler(func(err error) { heard = append(heard, err) })
		d.Start(0)
		cause := errors.New("the device's own")
		for i := range 2 {
			d.Queue(i).Post(virtiotest.Out(ok, 4))
		}
		c := pop(t, p.queues[1])
		if byDevice {
			p.irq.NeedsReset(cause)
			p.irq.NeedsReset(errors.New("a second one is not heard"))
		} else {
			d.Queue(0).SetAvailIdx(100)
			_, _, cause = p.queues[0].Pop()
		}
		if _, got, err := p.queues[1].Pop(); got || !errors.Is(err, virtio.ErrStopped) {
			t.Errorf("by device %v: Pop of the other queue = %v, %v, want ErrStopped", byDevice, got, err)
		}
		if err := p.queues[1].AddUsed(c.Head(), 0); !errors.Is(err, virtio.ErrStopped) {
			t.Errorf("by device %v: AddUsed on the other queue = %v, want ErrStopped", byDevice, err)
		}
		if len(heard) != 1 || !errors.Is(heard[0], cause) || d.Interrupts() != 1 {
			t.Errorf("by device %v: heard %v with %d interrupts, want %v with 1", byDevice, heard, d.Interrupts(), cause)
		}
	}
}
