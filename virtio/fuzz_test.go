package virtio_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// fuzzRAM is small, so that random addresses often hit it, and lies at 0x10000
// and, after a hole, at 0x20000.
func fuzzRAM(t testing.TB) *virtio.Memory {
	m, err := virtio.NewMemory(
		virtio.Region{GPA: 0x10000, Bytes: virtiotest.RAM(t, 0x4000)},
		virtio.Region{GPA: 0x20000, Bytes: virtiotest.RAM(t, 0x1000)},
	)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// FuzzQueue: descriptor soup. data is: flags byte (bit 0 EVENT_IDX, bit 1
// INDIRECT, bits 2-3 log2 of the size), then steps of a length byte and that
// many bytes, laid over the queue's memory (descriptor table, rings and an
// indirect table) before the device serves the queue.
//
// Properties: no panic, no access outside RAM (guard pages), each serving ends
// within the queue size, used.len is at most the writable length, each popped
// head is returned exactly once, and a broken queue shows as DEVICE_NEEDS_RESET.
func FuzzQueue(f *testing.F) {
	d := func(addr uint64, n uint32, flags, next uint16) []byte {
		return virtiotest.EncodeDesc(dsc(addr, n, flags, next))
	}
	f.Add(bytes.Join([][]byte{{3<<2 | 2}, {32}, d(0x10400, 8, 1, 1), d(0x10500, 8, 2, 0)}, nil))
	f.Add(bytes.Join([][]byte{{1 << 2}, {16}, d(0x10400, 8, 1, 0)}, nil))
	f.Add(bytes.Join([][]byte{{1}, {16}, d(0x13ffc, 8, 2, 0)}, nil))
	f.Add(bytes.Join([][]byte{{2<<2 | 2}, {16}, d(0x10100, 32, 4, 0)}, nil))
	f.Add(bytes.Join([][]byte{{3<<2 | 3}, {16}, d(0x10000, 0x200, 2, 0), {16}, d(^uint64(0), 2, 2, 0)}, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		mem := fuzzRAM(t)
		size := uint32(1) << (data[0] >> 2 & 3)
		feat := virtio.FeatureVersion1
		if data[0]&1 != 0 {
			feat |= virtio.FeatureRingEventIdx
		}
		if data[0]&2 != 0 {
			feat |= indFeat
		}
		p := newProbe(8)
		drv := virtiotest.NewWithMemory(t, p, mem, 0x11000)
		drv.Negotiate(feat)
		const desc, avail, used = 0x10000, 0x10080, 0x100c0
		drv.ProgramQueue(0, size, desc, avail, used)
		drv.DriverOK()
		q := p.queues[0]
		idx := uint16(0)
		for data = data[1:]; len(data) > 0; {
			n := min(int(data[0]), len(data)-1)
			drv.Put(desc, data[1:1+n])
			data = data[1+n:]
			if n <= 130 { // the index was not part of the soup: offer one more
				idx++
				_ = mem.StoreUint32(avail, uint32(idx)<<16)
			}
			serveSoup(t, mem, q, int(size), used)
			if errors.Is(q.Err(), virtio.ErrBroken) != (drv.Status()&virtio.StatusNeedsReset != 0) {
				t.Fatalf("queue: %v, status %#x", q.Err(), drv.Status())
			}
		}
	})
}

// serveSoup is the device's side. used is the guest address of the used ring to
// check, or 0.
func serveSoup(t *testing.T, mem *virtio.Memory, q *virtio.Queue, size int, used uint64) {
	held := map[uint16]*virtio.Chain{}
	buf := make([]byte, 300)
	for pops := 0; pops < 4*size; pops++ {
		c, ok, err := q.Pop()
		if err != nil || !ok {
			break
		}
		if _, twice := held[c.Head()]; twice || int(c.Head()) >= size {
			t.Fatalf("head %d popped twice, or out of range", c.Head())
		}
		held[c.Head()] = c
		n, _ := c.ReadAt(buf, 0)
		if n > c.ReadableLen() {
			t.Fatalf("read %d of %d bytes", n, c.ReadableLen())
		}
		w, _ := c.WriteAt(buf, 1)
		if w > max(0, c.WritableLen()-1) {
			t.Fatalf("wrote %d of %d bytes", w, c.WritableLen())
		}
		if pops%3 == 2 { // return out of order
			continue
		}
		_, _ = c.WriteAt(buf[:1], 0)
		returnHead(t, mem, q, c, used, held)
	}
	for _, c := range held {
		returnHead(t, mem, q, c, used, held)
	}
	q.NeedInterrupt()
	q.EnableNotifications()
}

func returnHead(t *testing.T, mem *virtio.Memory, q *virtio.Queue, c *virtio.Chain, used uint64, held map[uint16]*virtio.Chain) {
	delete(held, c.Head())
	if err := q.AddUsed(c.Head(), 0xffffffff); err != nil {
		if !errors.Is(err, virtio.ErrBroken) {
			t.Fatalf("AddUsed(%d) = %v", c.Head(), err)
		}
		return
	}
	if used != 0 {
		idx, _ := mem.LoadUint16(used + 2)
		n, _ := mem.LoadUint32(used + 4 + 8*(uint64(idx-1)%uint64(q.Size())) + 4)
		if int(n) > c.WritableLen() {
			t.Fatalf("used.len %d, %d writable", n, c.WritableLen())
		}
	}
	if err := q.AddUsed(c.Head(), 0); err == nil {
		t.Fatalf("head %d was returned twice", c.Head())
	}
}

// FuzzMMIO: a script of register accesses across the lifecycle, 7 bytes each:
// operation, register, width, 32-bit value. The device has real queues that a
// notification serves.
//
// Properties: no panic, nothing outside RAM; the device is active only between
// DRIVER_OK and reset; Status never shows a state that the rules exclude; the
// state stays restorable or is refused with ErrBadState.
func FuzzMMIO(f *testing.F) {
	op := func(kind byte, reg uint16, v uint32) []byte {
		return []byte{kind, byte(reg / 4), 4, byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
	}
	boot := [][]byte{
		op(1, 0x70, 0), op(1, 0x70, 1), op(1, 0x70, 3), op(1, 0x24, 1), op(1, 0x20, 1), op(1, 0x70, 0xb),
		op(1, 0x30, 0), op(1, 0x38, 8), op(1, 0x80, 0x10000), op(1, 0x90, 0x10080), op(1, 0xa0, 0x100c0), op(1, 0x44, 1),
		op(1, 0x70, 0xf), op(3, 0, 1), op(1, 0x50, 0), op(1, 0x64, 3), op(1, 0x44, 0), op(1, 0x70, 0),
	}
	f.Add(bytes.Join(boot, nil))
	f.Add(bytes.Join(boot[:13], nil))
	f.Add(bytes.Join(append(boot[:13:13], op(1, 0x70, 0x8f), op(2, 0, 0), op(1, 0x70, 0)), nil))
	f.Add(bytes.Join(append(boot[:13:13], op(4, 0, 5), op(1, 0x50, 0), op(2, 0, 0)), nil))
	f.Fuzz(func(t *testing.T, script []byte) {
		mem := fuzzRAM(t)
		p := newProbe(8, 4)
		active := false
		p.onReset = func() { active = false }
		drv := virtiotest.NewWithMemory(t, p, mem, 0x11000)
		for ; len(script) >= 7; script = script[7:] {
			kind, reg, width, v := script[0]%5, uint64(script[1])*4, int(script[2]%9), le.Uint32(script[3:7])
			acts := p.activations.Load()
			switch kind {
			case 0:
				drv.MMIO.Read(reg+uint64(v%4), make([]byte, width))
			case 1:
				drv.Write32(reg, v)
			case 2:
				drv.MMIO.Write(reg+uint64(v%4), script[3:7][:min(width, 4)])
				drv.MMIO.NotifyQueue(int(int32(v)))
			case 3: // the driver writes memory and offers a buffer
				_ = mem.WriteAt(script[3:7], 0x10000+uint64(script[1])%0x100)
				_ = mem.StoreUint32(0x10080, v<<16)
			case 4: // the device works
				if active {
					for _, q := range p.queues {
						serveSoup(t, mem, q, max(1, int(q.Size())), 0)
						p.irq.Used(q)
					}
				}
			}
			active = active || p.activations.Load() > acts
			checkMMIO(t, drv, p, active)
		}
	})
}

func checkMMIO(t *testing.T, d *virtiotest.Driver, p *probe, active bool) {
	s := d.Status()
	running := s&virtio.StatusDriverOK != 0 && s&virtio.StatusFailed == 0
	if running != active {
		t.Fatalf("status %#x, device active: %v", s, active)
	}
	if s&virtio.StatusDriverOK != 0 && s&virtio.StatusFeaturesOK == 0 ||
		s&virtio.StatusFeaturesOK != 0 && s&virtio.StatusDriver == 0 ||
		s&virtio.StatusNeedsReset != 0 && s&virtio.StatusDriverOK == 0 {
		t.Fatalf("status %#x", s)
	}
	if is := d.Read32(virtiotest.InterruptStatus); is&^3 != 0 || is != 0 && s&virtio.StatusDriverOK == 0 {
		t.Fatalf("interrupt status %d, status %#x", is, s)
	}
	if n := p.activations.Load() - p.resets.Load(); n != 0 && n != 1 {
		t.Fatalf("%d activations, %d resets", p.activations.Load(), p.resets.Load())
	}
	m := virtio.NewMMIO(d.Mem, newProbe(8, 4), nil)
	if err := m.Restore(d.MMIO.State()); err != nil && !errors.Is(err, virtio.ErrBadState) {
		t.Fatalf("Restore: %v", err)
	}
}
