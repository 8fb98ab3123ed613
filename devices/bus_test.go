package devices_test

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/hutchvm/hutch/devices"
)

// recorder is a device that remembers its last access and reads as its value.
type recorder struct {
	value byte
	off   uint64
	n     int
	op    string
}

func (r *recorder) Read(off uint64, p []byte) {
	r.op, r.off, r.n = "read", off, len(p)
	for i := range p {
		p[i] = r.value
	}
}

func (r *recorder) Write(off uint64, p []byte) { r.op, r.off, r.n = "write", off, len(p) }

func TestBusRoutesWholeAccesses(t *testing.T) {
	var b devices.Bus
	lo, mid, top := &recorder{value: 1}, &recorder{value: 2}, &recorder{value: 3}
	for _, r := range []struct {
		name       string
		base, size uint64
		dev        devices.Device
	}{{"mid", 0x2000, 0x1000, mid}, {"top", math.MaxUint64 - 7, 8, top}, {"lo", 0x10, 8, lo}} {
		if err := b.Add(r.name, r.base, r.size, r.dev); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		addr uint64
		n    int
		dev  *recorder
		off  uint64
	}{
		{0x10, 1, lo, 0}, {0x17, 1, lo, 7}, {0x10, 8, lo, 0}, {0x14, 4, lo, 4},
		{0x0f, 1, nil, 0}, {0x0f, 2, nil, 0}, {0x17, 2, nil, 0}, {0x10, 9, nil, 0}, {0x18, 1, nil, 0},
		{0x2000, 4, mid, 0}, {0x2ffc, 4, mid, 0xffc}, {0x2ffd, 4, nil, 0}, {0x1fff, 2, nil, 0}, {0x3000, 1, nil, 0},
		{math.MaxUint64, 1, top, 7}, {math.MaxUint64 - 7, 8, top, 0}, {math.MaxUint64, 2, nil, 0}, {math.MaxUint64 - 8, 2, nil, 0},
		{0x10, 0, nil, 0},
	} {
		misses := b.Misses()
		p := make([]byte, c.n)
		for _, op := range []string{"read", "write"} {
			if c.dev != nil {
				*c.dev = recorder{value: c.dev.value}
			}
			var hit bool
			if op == "read" {
				hit = b.Read(c.addr, p)
			} else {
				hit = b.Write(c.addr, p)
			}
			if hit != (c.dev != nil) {
				t.Errorf("%s of %d at %#x: hit %v", op, c.n, c.addr, hit)
			}
			if c.dev != nil && (c.dev.op != op || c.dev.off != c.off || c.dev.n != c.n) {
				t.Errorf("%s of %d at %#x: device saw %+v, want offset %#x", op, c.n, c.addr, *c.dev, c.off)
			}
		}
		want := byte(0xff) // B22: an open bus reads all ones
		if c.dev != nil {
			want = c.dev.value
		} else if got := b.Misses() - misses; got != 2 {
			t.Errorf("%d at %#x: %d misses counted, want 2", c.n, c.addr, got)
		}
		if !bytes.Equal(p, bytes.Repeat([]byte{want}, c.n)) {
			t.Errorf("read of %d at %#x: %x, want all %#x", c.n, c.addr, p, want)
		}
	}
}

func TestBusRefusesBadRanges(t *testing.T) {
	var b devices.Bus
	dev := &recorder{}
	if err := b.Add("first", 0x100, 0x10, dev); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		base, size uint64
		dev        devices.Device
		want       error
	}{
		{"empty", 0x200, 0, dev, devices.ErrEmptyRange},
		{"wraps", math.MaxUint64 - 7, 9, dev, devices.ErrOverflow},
		{"wraps wholly", 1, math.MaxUint64, dev, devices.ErrOverlap}, // exactly to the top: no wrap
		{"wraps by one", 2, math.MaxUint64, dev, devices.ErrOverflow},
		{"same", 0x100, 0x10, dev, devices.ErrOverlap},
		{"inside", 0x104, 1, dev, devices.ErrOverlap},
		{"around", 0xff, 0x12, dev, devices.ErrOverlap},
		{"first byte", 0xf0, 0x11, dev, devices.ErrOverlap},
		{"last byte", 0x10f, 1, dev, devices.ErrOverlap},
		{"no device", 0x200, 1, nil, devices.ErrNoDevice},
	} {
		err := b.Add(c.name, c.base, c.size, c.dev)
		var re *devices.RangeError
		if !errors.Is(err, c.want) || !errors.As(err, &re) || re.Name != c.name || re.Base != c.base || re.Size != c.size {
			t.Errorf("%s: Add(%#x, %#x) = %v, want %v", c.name, c.base, c.size, err, c.want)
		}
		if c.want == devices.ErrOverlap && !strings.Contains(err.Error(), "first") {
			t.Errorf("%s: %q does not name the device in the way", c.name, err)
		}
	}
	for _, base := range []uint64{0xff, 0x110} { // neighbours are fine
		if err := b.Add("neighbour", base, 1, dev); err != nil {
			t.Error(err)
		}
	}
}

// The bus agrees with a plain list for random ranges and accesses, while other
// goroutines use it.
func TestBusAgreesWithLinearSearch(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	type rng struct{ base, size uint64 }
	var b devices.Bus
	var list []rng
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				b.Read(0x80000, make([]byte, 4))
			}
		}
	})
	for range 500 {
		n := rng{r.Uint64N(4096), 1 + r.Uint64N(32)}
		free := true
		for _, x := range list {
			free = free && (n.base >= x.base+x.size || x.base >= n.base+n.size)
		}
		dev := &recorder{}
		if err := b.Add("x", n.base, n.size, dev); (err == nil) != free {
			t.Fatalf("Add(%v) = %v, free %v", n, err, free)
		}
		if free {
			list = append(list, n)
		}
		addr, w := r.Uint64N(4200), uint64(1)<<r.IntN(4)
		want := false
		for _, x := range list {
			want = want || (addr >= x.base && addr+w <= x.base+x.size)
		}
		if got := b.Read(addr, make([]byte, w)); got != want {
			t.Fatalf("Read(%#x, %d) = %v, want %v", addr, w, got, want)
		}
	}
	close(stop)
	wg.Wait()
}

func BenchmarkBusRead(b *testing.B) {
	var bus devices.Bus
	for i := range uint64(32) {
		if err := bus.Add("x", i*0x1000, 0x1000, &recorder{}); err != nil {
			b.Fatal(err)
		}
	}
	p := make([]byte, 4)
	b.ReportAllocs()
	for b.Loop() {
		bus.Read(0x7004, p)
	}
}
