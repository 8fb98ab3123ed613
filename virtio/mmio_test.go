package virtio_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

func equalState(a, b virtio.MMIOState) bool { return reflect.DeepEqual(a, b) }

// registers is table 4.1 of §4.2.2, typed from the specification. value is what
// a fresh probe with 3 queues reads.
var registers = []struct {
	name  string
	off   uint64
	rw    string
	value uint32
}{
	{"MagicValue", 0x000, "R", 0x74726976},
	{"Version", 0x004, "R", 2},
	{"DeviceID", 0x008, "R", 19},
	{"VendorID", 0x00c, "R", 0x48435448},
	{"DeviceFeatures", 0x010, "R", 1<<3 | 1<<28 | 1<<29},
	{"DeviceFeaturesSel", 0x014, "W", 0},
	{"DriverFeatures", 0x020, "W", 0},
	{"DriverFeaturesSel", 0x024, "W", 0},
	{"QueueSel", 0x030, "W", 0},
	{"QueueSizeMax", 0x034, "R", 256},
	{"QueueSize", 0x038, "W", 0},
	{"QueueReady", 0x044, "RW", 0},
	{"QueueNotify", 0x050, "W", 0},
	{"InterruptStatus", 0x060, "R", 0},
	{"InterruptACK", 0x064, "W", 0},
	{"Status", 0x070, "RW", 0},
	{"QueueDescLow", 0x080, "W", 0},
	{"QueueDescHigh", 0x084, "W", 0},
	{"QueueDriverLow", 0x090, "W", 0},
	{"QueueDriverHigh", 0x094, "W", 0},
	{"QueueDeviceLow", 0x0a0, "W", 0},
	{"QueueDeviceHigh", 0x0a4, "W", 0},
	{"SHMSel", 0x0ac, "W", 0},
	{"SHMLenLow", 0x0b0, "R", 0xffffffff},
	{"SHMLenHigh", 0x0b4, "R", 0xffffffff},
	{"SHMBaseLow", 0x0b8, "R", 0xffffffff},
	{"SHMBaseHigh", 0x0bc, "R", 0xffffffff},
	{"QueueReset", 0x0c0, "RW", 0},
	{"ConfigGeneration", 0x0fc, "R", 0},
	{"Config", 0x100, "RW", 0x44332211},
	{"Config+4", 0x104, "RW", 0x88776655},
}

// writable are the offsets whose 32-bit writes may change something.
func writable(off uint64) bool {
	for _, r := range registers {
		if r.off == off && off < 0x100 {
			return r.rw != "R"
		}
	}
	return false
}

// lifecycle brings a driver with a 3-queue probe into each state of interest.
var lifecycle = []struct {
	name string
	do   func(d *virtiotest.Driver, p *probe)
}{
	{"power-on", func(*virtiotest.Driver, *probe) {}},
	{"DRIVER", func(d *virtiotest.Driver, _ *probe) { d.Write32(0x70, 1); d.Write32(0x70, 3) }},
	{"FEATURES_OK", func(d *virtiotest.Driver, _ *probe) { d.Negotiate(0) }},
	{"queues ready", func(d *virtiotest.Driver, _ *probe) {
		d.Negotiate(0)
		for i := range 3 {
			d.SetupQueue(i, 16)
		}
	}},
	{"DRIVER_OK", func(d *virtiotest.Driver, _ *probe) { d.StartSized(0, 16) }},
	{"NEEDS_RESET", func(d *virtiotest.Driver, p *probe) {
		d.StartSized(0, 16)
		p.irq.NeedsReset(errors.New("test"))
	}},
	{"FAILED", func(d *virtiotest.Driver, _ *probe) { d.StartSized(0, 16); d.Write32(0x70, 0x8f) }},
	{"after reset", func(d *virtiotest.Driver, _ *probe) { d.StartSized(0, 16); d.Reset() }},
}

// B1, B2, B17, B20: what each register reads at power-on, and that the offsets
// between them read 0.
func TestRegistersAtPowerOn(t *testing.T) {
	d := virtiotest.New(t, newProbe(256, 256, 4))
	want := map[uint64]uint32{}
	for _, r := range registers {
		want[r.off] = r.value
		if got := d.Read32(r.off); got != r.value {
			t.Errorf("%s (%#x) reads %#x, want %#x", r.name, r.off, got, r.value)
		}
	}
	for off := uint64(0); off < 0x1000; off += 4 {
		if got := d.Read32(off); got != want[off] {
			t.Errorf("offset %#x reads %#x, want %#x", off, got, want[off])
		}
	}
}

// B15, B16, B17, B18: every offset, width and lifecycle state. Reads never
// change anything; write-only registers read 0; writes that are not aligned
// 32-bit writes of a writable register change nothing.
func TestEveryOffsetWidthState(t *testing.T) {
	for _, state := range lifecycle {
		p := newProbe(16, 16, 16)
		d := virtiotest.New(t, p)
		state.do(d, p)
		before, status := d.MMIO.State(), d.Status()
		ones := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		for off := uint64(0); off < 0x1000; off++ {
			for _, width := range []int{1, 2, 4, 8} {
				b := append([]byte(nil), ones[:width]...)
				d.MMIO.Read(off, b)
				zero := off < 0x100 && (width != 4 || off%4 != 0)
				for _, r := range registers {
					zero = zero || off < 0x100 && r.off == off && r.rw == "W"
				}
				if zero && string(b) != string(make([]byte, width)) {
					t.Errorf("%s: %d bytes at %#x read %x, want 0", state.name, width, off, b)
				}
				if off >= 0x100 {
					want := make([]byte, width)
					if off-0x100 < 8 {
						copy(want, p.config[off-0x100:])
					}
					if string(b) != string(want) {
						t.Errorf("%s: %d bytes of config at %#x read %x, want %x", state.name, width, off, b, want)
					}
				}
				if width == 4 && writable(off) {
					continue
				}
				d.MMIO.Write(off, ones[:width])
			}
		}
		for _, n := range []int{0, 3, 5, 7, 9, 16, 4096} {
			d.MMIO.Write(0x70, make([]byte, n))
			d.MMIO.Read(0x70, make([]byte, n))
			d.MMIO.Read(0xffe, make([]byte, n))
			d.MMIO.Read(^uint64(0)-1, make([]byte, n))
			d.MMIO.Write(^uint64(0)-1, make([]byte, n))
		}
		if after := d.MMIO.State(); !equalState(before, after) || d.Status() != status {
			t.Errorf("%s: state %+v, was %+v", state.name, after, before)
		}
	}
}

// B2, B3: only selectors 0 and 1 exist.
func TestFeatureSelectorsBeyondOne(t *testing.T) {
	d := virtiotest.New(t, newProbe(16))
	d.Negotiate(0)
	d.Reset()
	d.Write32(0x70, 1)
	d.Write32(0x70, 3)
	for _, sel := range []uint32{2, 3, 31, 32, 0x80000000, 0xffffffff} {
		d.Write32(virtiotest.DeviceFeaturesSel, sel)
		if v := d.Read32(virtiotest.DeviceFeatures); v != 0 {
			t.Errorf("DeviceFeatures with selector %#x reads %#x", sel, v)
		}
		d.Write32(virtiotest.DriverFeaturesSel, sel)
		d.Write32(virtiotest.DriverFeatures, 0xffffffff)
		if f := d.MMIO.State().DriverFeatures; f != 0 {
			t.Errorf("DriverFeatures with selector %#x gives %#x", sel, f)
		}
	}
}

// A6: exactly the device's bits, the ring bits it asks for and VERSION_1; no
// reserved bit that is not implemented.
func TestOfferedFeatures(t *testing.T) {
	p := newProbe(16)
	d := virtiotest.New(t, p)
	if got, want := d.DeviceFeatures(), uint64(1<<3|1<<28|1<<29|1<<32); got != want {
		t.Errorf("offered %#x, want %#x", got, want)
	}
	p.features = ^uint64(0)
	if got, want := virtiotest.New(t, p).DeviceFeatures(), uint64(0xfffc000000ffffff|1<<28|1<<29|1<<32); got != want {
		t.Errorf("a device that wants everything offers %#x, want %#x", got, want)
	}
}

// A7, A9: FEATURES_OK stays clear for each unoffered bit and without VERSION_1.
func TestFeaturesOKRefusesUnofferedBits(t *testing.T) {
	d := virtiotest.New(t, newProbe(16))
	offered := d.DeviceFeatures()
	for bit := range 64 {
		d.Reset()
		d.Write32(0x70, 1)
		d.Write32(0x70, 3)
		f := uint64(1)<<bit | virtio.FeatureVersion1
		err := d.AcceptFeatures(f)
		if accepted := err == nil; accepted != (f&^offered == 0) {
			t.Errorf("features %#x of %#x: accepted %v", f, offered, accepted)
		}
	}
	d.Reset()
	d.Write32(0x70, 3)
	if err := d.AcceptFeatures(1 << 29); err == nil {
		t.Error("features without VERSION_1 were accepted")
	}
	if err := d.AcceptFeatures(1 << 32); err != nil { // a second try is allowed
		t.Error(err)
	}
}

// A8, §3.1.1: no new features after FEATURES_OK.
func TestFeaturesAreFixedAfterFeaturesOK(t *testing.T) {
	p := newProbe(16)
	d := virtiotest.New(t, p)
	d.Negotiate(1 << 3)
	d.Write32(virtiotest.DriverFeaturesSel, 0)
	d.Write32(virtiotest.DriverFeatures, 0)
	d.SetupQueue(0, 16)
	d.DriverOK()
	if want := uint64(1<<3 | 1<<32); p.accepted != want {
		t.Errorf("the device was activated with %#x, want %#x", p.accepted, want)
	}
}

// B4, B19, C28: queues that do not exist, in full 32-bit compare.
func TestQueueIndicesBeyondTheDevice(t *testing.T) {
	p := newProbe(16, 16, 16)
	d := virtiotest.New(t, p)
	d.Negotiate(0)
	for _, i := range []uint32{3, 4, 255, 256, 0x10000, 0x10001, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff} {
		d.Write32(virtiotest.QueueSel, i)
		if n := d.Read32(virtiotest.QueueSizeMax); n != 0 {
			t.Errorf("queue %#x has QueueSizeMax %d", i, n)
		}
		before := d.MMIO.State().Queues
		d.ProgramQueue(int(i), 16, ok, ok+0x1000, ok+0x2000)
		if d.Read32(virtiotest.QueueReady) != 0 || !reflect.DeepEqual(before, d.MMIO.State().Queues) {
			t.Errorf("queue %#x took writes", i)
		}
	}
	d.StartSized(0, 16)
	for _, i := range []uint32{3, 0x10000, 0x80000000, 0xffffffff} {
		d.Write32(virtiotest.QueueNotify, i)
	}
	for _, i := range []int{-1, 3, 1 << 32, -1 << 63} {
		d.MMIO.NotifyQueue(i)
	}
	if n := p.notified.Load(); n != 0 {
		t.Errorf("%d notifications of missing queues arrived", n)
	}
	d.Write32(virtiotest.QueueNotify, 2)
	d.MMIO.NotifyQueue(0)
	if n := p.notified.Load(); n != 2 {
		t.Errorf("%d notifications arrived, want 2", n)
	}
}

// B5, C1: only powers of two up to QueueSizeMax, compared before truncation.
func TestQueueSizes(t *testing.T) {
	d := virtiotest.New(t, newProbe(128))
	sizes := []uint32{0, 1, 2, 3, 4, 64, 127, 128, 129, 255, 256, 512, 32768, 65535, 0x10000, 0x10001, 0x10080, 0x80000000, 0xffffffff}
	for _, n := range sizes {
		d.Negotiate(0)
		d.ProgramQueue(0, n, ok, ok+0x1000, ok+0x2000)
		want := uint32(0)
		if n != 0 && n <= 128 && n&(n-1) == 0 {
			want = 1
		}
		if got := d.Read32(virtiotest.QueueReady); got != want {
			t.Errorf("size %#x: QueueReady = %d, want %d", n, got, want)
		}
		// An unacceptable size after a good one does not leave the good one.
		d.Negotiate(0)
		d.Write32(virtiotest.QueueSize, 16)
		d.ProgramQueue(0, n, ok, ok+0x1000, ok+0x2000)
		if got := d.Read32(virtiotest.QueueReady); got != want {
			t.Errorf("size 16, then %#x: QueueReady = %d, want %d", n, got, want)
		}
	}
}

// B6: alignment 16/2/4 and each area wholly inside one region.
func TestQueueAreasMustBeAlignedInsideRAM(t *testing.T) {
	for _, c := range []struct {
		name              string
		desc, avail, used uint64
		want              uint32
	}{
		{"good", ok, ok + 0x1000, ok + 0x2000, 1},
		{"driver area at 2 mod 4", ok, ok + 0x1002, ok + 0x2000, 1},
		{"device area at 4 mod 8", ok, ok + 0x1000, ok + 0x2004, 1},
		{"descriptors at 8 mod 16", ok + 8, ok + 0x1000, ok + 0x2000, 0},
		{"driver area odd", ok, ok + 0x1001, ok + 0x2000, 0},
		{"device area at 2 mod 4", ok, ok + 0x1000, ok + 0x2002, 0},
		{"descriptors end at the end", ramEnd - 256, ok + 0x1000, ok + 0x2000, 1},
		{"descriptors over the end", ramEnd - 240, ok + 0x1000, ok + 0x2000, 0},
		{"driver area ends at the end", ok, ramEnd - 38, ok + 0x2000, 1},
		{"driver area over the end", ok, ramEnd - 36, ok + 0x2000, 0},
		{"device area near the end", ok, ok + 0x1000, ramEnd - 136, 1},
		{"device area over the end", ok, ok + 0x1000, ramEnd - 132, 0},
		{"descriptors wrap", ^uint64(0) - 15, ok + 0x1000, ok + 0x2000, 0},
		{"driver area wraps", ok, ^uint64(0) - 1, ok + 0x2000, 0},
		{"device area wraps", ok, ok + 0x1000, ^uint64(0) - 3, 0},
		{"descriptors below RAM", 0xfff0, ok + 0x1000, ok + 0x2000, 0},
		{"address 0", 0, 0, 0, 0},
	} {
		d := virtiotest.New(t, newProbe(16))
		d.Negotiate(0)
		d.ProgramQueue(0, 16, c.desc, c.avail, c.used)
		if got := d.Read32(virtiotest.QueueReady); got != c.want {
			t.Errorf("%s: QueueReady = %d, want %d", c.name, got, c.want)
		}
	}
	// A hole: each area must be inside one region.
	for _, bad := range []uint64{0x2ff0, 0x2f10} {
		d := virtiotest.NewWithMemory(t, newProbe(16), twoRegions(t), 0x1000)
		d.Negotiate(0)
		d.ProgramQueue(0, 16, bad, 0x4000, 0x4100)
		if got := d.Read32(virtiotest.QueueReady); got != 0 {
			t.Errorf("descriptor table at %#x runs into a hole: QueueReady = %d", bad, got)
		}
	}
}

// B7: nothing changes a live ring, in any lifecycle state with ready queues.
func TestLiveQueueCannotBeReconfigured(t *testing.T) {
	for _, running := range []bool{false, true} {
		p := newProbe(16)
		d := virtiotest.New(t, p)
		d.Negotiate(0)
		dq := d.SetupQueue(0, 16)
		if running {
			d.DriverOK()
		}
		before := d.MMIO.State()
		d.ProgramQueue(0, 1, 0, ^uint64(0), 7)
		d.ProgramQueue(0, 0x10000, ok, ok, ok)
		if after := d.MMIO.State(); !equalState(before, after) {
			t.Errorf("running %v: state %+v, was %+v", running, after, before)
		}
		if !running {
			d.DriverOK()
		}
		dq.Post(virtiotest.Out(ok, 4))
		if q := p.queues[0]; q.Size() != 16 || pop(t, q).ReadableLen() != 4 {
			t.Errorf("running %v: the ring is not the one that was set up", running)
		}
		// Once running, a queue that was taken back does not come again.
		d.Write32(virtiotest.QueueReady, 0)
		d.ProgramQueue(0, 16, dq.Desc, dq.Avail, dq.Used)
		if d.Read32(virtiotest.QueueReady) != 0 {
			t.Error("a queue became ready after DRIVER_OK")
		}
	}
}

// B21: an empty slot has DeviceID 0 and takes no writes.
func TestEmptySlot(t *testing.T) {
	m := virtio.NewMMIO(virtiotest.Memory(t, 0, 4096), nil, nil)
	read := func(off uint64) uint32 {
		b := []byte{9, 9, 9, 9}
		m.Read(off, b)
		return le.Uint32(b)
	}
	for off := uint64(0); off < 0x1000; off += 4 {
		m.Write(off, []byte{1, 0, 0, 0})
	}
	m.NotifyQueue(0)
	if read(0) != 0x74726976 || read(4) != 2 || read(8) != 0 || read(0x70) != 0 || read(0x34) != 0 || read(0x100) != 0 {
		t.Errorf("magic %#x, version %d, id %d, status %#x", read(0), read(4), read(8), read(0x70))
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
