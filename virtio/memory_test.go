package virtio_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

func TestNewMemoryRejectsBadRegions(t *testing.T) {
	ram := virtiotest.RAM(t, 8192)
	for _, c := range []struct {
		name    string
		regions []virtio.Region
	}{
		{"empty", []virtio.Region{{GPA: 0}}},
		{"address not a multiple of 8", []virtio.Region{{GPA: 4, Bytes: ram}}},
		{"length not a multiple of 8", []virtio.Region{{GPA: 0, Bytes: ram[:12]}}},
		{"host address not a multiple of 8", []virtio.Region{{GPA: 0, Bytes: ram[4:4092]}}},
		{"wraps", []virtio.Region{{GPA: math.MaxUint64 - 4095, Bytes: ram}}},
		{"overlap", []virtio.Region{{GPA: 4088, Bytes: ram[:4096]}, {GPA: 0, Bytes: ram[4096:]}}},
	} {
		if m, err := virtio.NewMemory(c.regions...); !errors.Is(err, virtio.ErrBadRegion) {
			t.Errorf("%s: NewMemory() = %v, %v, want ErrBadRegion", c.name, m, err)
		}
	}
}

// twoRegions is RAM at 0x1000..0x3000 and 0x4000..0x5000: a hole between.
func twoRegions(t testing.TB) *virtio.Memory {
	m, err := virtio.NewMemory(
		virtio.Region{GPA: 0x4000, Bytes: virtiotest.RAM(t, 0x1000)},
		virtio.Region{GPA: 0x1000, Bytes: virtiotest.RAM(t, 0x2000)},
	)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// C25: overflow, hole, end and beyond.
func TestMemoryBounds(t *testing.T) {
	m := twoRegions(t)
	if m.Size() != 0x3000 {
		t.Errorf("Size() = %#x, want 0x3000", m.Size())
	}
	for _, c := range []struct {
		gpa, n uint64
		want   bool
	}{
		{0x1000, 1, true}, {0x1000, 0x2000, true}, {0x1000, 0x2001, false},
		{0x0fff, 1, false}, {0x0fff, 2, false}, {0x2fff, 1, true}, {0x2fff, 2, false},
		{0x3000, 0, true}, {0x3000, 1, false}, {0x3001, 0, false}, {0x3fff, 2, false},
		{0x2ff8, 0x1010, false}, // both ends in RAM, a hole between
		{0x4000, 0x1000, true}, {0x4fff, 1, true}, {0x5000, 1, false},
		{0, 0, false}, {0, math.MaxUint64, false}, {0x1000, math.MaxUint64, false},
		{0x1000, math.MaxUint64 - 0xfff, false}, // the sum wraps to 0
		{0x1008, math.MaxUint64 - 7, false},     // offset plus length wraps to 0
		{0x1008, math.MaxUint64 - 3, false},     // and to 4
		{math.MaxUint64, 1, false}, {math.MaxUint64 - 7, 16, false}, {math.MaxUint64, math.MaxUint64, false},
	} {
		if got := m.Contains(c.gpa, c.n); got != c.want {
			t.Errorf("Contains(%#x, %#x) = %v, want %v", c.gpa, c.n, got, c.want)
		}
	}
}

func TestMemoryAccessIsAllOrNothing(t *testing.T) {
	m := twoRegions(t)
	want := pattern(16)
	if err := m.WriteAt(want, 0x2ff0); err != nil {
		t.Fatal(err)
	}
	var me *virtio.MemoryError
	err := m.WriteAt(make([]byte, 17), 0x2ff0)
	if !errors.As(err, &me) || !errors.Is(err, virtio.ErrOutOfRange) || me.Op != "write" || me.GPA != 0x2ff0 || me.Len != 17 {
		t.Errorf("WriteAt over the end: %#v, want a *MemoryError of 17 bytes at 0x2ff0", err)
	}
	got := make([]byte, 16)
	if err := m.ReadAt(got, 0x2ff0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after the refused write: %x, %v, want %x", got, err, want)
	}
	short := pattern(17)
	if err := m.ReadAt(short, 0x2ff0); !errors.Is(err, virtio.ErrOutOfRange) || !bytes.Equal(short, pattern(17)) {
		t.Errorf("ReadAt over the end: %v, buffer %x, want ErrOutOfRange and no change", err, short)
	}
}

func TestMemoryWordAccess(t *testing.T) {
	m := twoRegions(t)
	last := uint64(0x3000 - 8) // the last 8 bytes before a guard page
	if err := m.WriteAt([]byte{1, 2, 3, 4, 5, 6, 7, 8}, last); err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint16{0x0201, 0x0403, 0x0605, 0x0807} {
		if v, err := m.LoadUint16(last + 2*uint64(i)); v != want || err != nil {
			t.Errorf("LoadUint16(+%d) = %#x, %v, want %#x", 2*i, v, err, want)
		}
	}
	if v, err := m.LoadUint32(last + 4); v != 0x08070605 || err != nil {
		t.Errorf("LoadUint32 = %#x, %v", v, err)
	}
	if v, err := m.LoadUint64(last); v != 0x0807060504030201 || err != nil {
		t.Errorf("LoadUint64 = %#x, %v", v, err)
	}
	// A 16-bit store must not touch its neighbours: the bytes behind
	// avail_event belong to the guest.
	if err := m.StoreUint16(last+2, 0xbbaa); err != nil {
		t.Fatal(err)
	}
	if err := m.StoreUint32(last+4, 0xffeeddcc); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if err := m.ReadAt(got, last); err != nil || !bytes.Equal(got, []byte{1, 2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}) {
		t.Errorf("after the stores: %x, %v", got, err)
	}
}

func TestMemoryWordAccessRejectsMisalignedOutside(t *testing.T) {
	m := twoRegions(t)
	load16 := func(a uint64) error { _, err := m.LoadUint16(a); return err }
	load32 := func(a uint64) error { _, err := m.LoadUint32(a); return err }
	load64 := func(a uint64) error { _, err := m.LoadUint64(a); return err }
	store16 := func(a uint64) error { return m.StoreUint16(a, 1) }
	store32 := func(a uint64) error { return m.StoreUint32(a, 1) }
	for _, c := range []struct {
		name string
		size uint64
		do   func(uint64) error
	}{
		{"load16", 2, load16}, {"load32", 4, load32}, {"load64", 8, load64}, {"store16", 2, store16}, {"store32", 4, store32},
	} {
		for off := uint64(1); off < c.size; off++ {
			if err := c.do(0x1000 + off); !errors.Is(err, virtio.ErrUnaligned) {
				t.Errorf("%s at +%d: %v, want ErrUnaligned", c.name, off, err)
			}
		}
		for _, gpa := range []uint64{0, 0xff8, 0x3000, 0x5000, math.MaxUint64 - 7} {
			if err := c.do(gpa); !errors.Is(err, virtio.ErrOutOfRange) {
				t.Errorf("%s at %#x: %v, want ErrOutOfRange", c.name, gpa, err)
			}
		}
	}
}
