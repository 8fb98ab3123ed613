package devices

import (
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
)

// Device is a range of addresses on a Bus. off is relative to the base of the
// range, and the Bus guarantees off+len(p) <= size and len(p) > 0.
//
// Concurrency: called from all vCPU threads at once.
type Device interface {
	// Read must fill all of p; unknown registers read as zero.
	Read(off uint64, p []byte)
	// Write must not keep p.
	Write(off uint64, p []byte)
}

// Reasons of Bus.Add to refuse a range, wrapped in a *RangeError.
var (
	ErrEmptyRange = errors.New("the range is empty")
	ErrOverflow   = errors.New("the range wraps around the address space")
	ErrOverlap    = errors.New("the range overlaps another device")
	ErrNoDevice   = errors.New("there is no device")
)

// RangeError says which range a Bus refused, and why.
type RangeError struct {
	Name       string // device to be added
	Base, Size uint64
	Other      string // name of the device in the way, for ErrOverlap
	Err        error  // ErrEmptyRange, ErrOverflow, ErrOverlap or ErrNoDevice
}

func (e *RangeError) Error() string {
	s := fmt.Sprintf("devices: cannot add %q at %#x, size %#x: %v", e.Name, e.Base, e.Size, e.Err)
	if e.Other != "" {
		s += fmt.Sprintf(" (%q)", e.Other)
	}
	return s
}

func (e *RangeError) Unwrap() error { return e.Err }

// Bus maps addresses to devices. The zero value is an empty bus.
//
// Concurrency: Read, Write and the counters may be called from any goroutine at
// any time, Add as well. Accesses take no lock.
type Bus struct {
	mu     sync.Mutex // serialises Add
	ranges atomic.Pointer[[]busRange]
	misses atomic.Uint64
}

type busRange struct {
	base, last uint64 // last is inclusive, so that the top of the space fits
	name       string
	dev        Device
}

// Add gives d the addresses base to base+size-1. name is for errors only.
// Errors: *RangeError; the bus is unchanged then.
func (b *Bus) Add(name string, base, size uint64, d Device) error {
	fail := func(err error, other string) error {
		return &RangeError{Name: name, Base: base, Size: size, Other: other, Err: err}
	}
	switch {
	case d == nil:
		return fail(ErrNoDevice, "")
	case size == 0:
		return fail(ErrEmptyRange, "")
	case size-1 > ^uint64(0)-base:
		return fail(ErrOverflow, "")
	}
	r := busRange{base: base, last: base + (size - 1), name: name, dev: d}

	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.load()
	i := sort.Search(len(old), func(i int) bool { return old[i].last >= r.base })
	if i < len(old) && old[i].base <= r.last {
		return fail(ErrOverlap, old[i].name)
	}
	// Copied, so that accesses under way keep the list they have.
	ranges := make([]busRange, 0, len(old)+1)
	ranges = append(ranges, old[:i]...)
	ranges = append(ranges, r)
	ranges = append(ranges, old[i:]...)
	b.ranges.Store(&ranges)
	return nil
}

func (b *Bus) load() []busRange {
	if p := b.ranges.Load(); p != nil {
		return *p
	}
	return nil
}

// find returns the range that holds all n bytes at addr, or nil. n is small.
func (b *Bus) find(addr, n uint64) *busRange {
	ranges := b.load()
	lo, hi := 0, len(ranges)
	for lo < hi { // the first range that does not end before addr
		mid := int(uint(lo+hi) / 2)
		if ranges[mid].last < addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(ranges) {
		return nil
	}
	r := &ranges[lo]
	if n == 0 || addr < r.base || n-1 > r.last-addr {
		return nil
	}
	return r
}

// Read fills p from the device that holds all of addr..addr+len(p)-1. Without
// one it fills p with ones, as an open bus does, counts a miss and returns false.
func (b *Bus) Read(addr uint64, p []byte) (hit bool) {
	r := b.find(addr, uint64(len(p)))
	if r == nil {
		b.misses.Add(1)
		for i := range p {
			p[i] = 0xff
		}
		return false
	}
	r.dev.Read(addr-r.base, p)
	return true
}

// Write hands p to the device that holds all of addr..addr+len(p)-1. Without one
// it drops p, counts a miss and returns false.
func (b *Bus) Write(addr uint64, p []byte) (hit bool) {
	r := b.find(addr, uint64(len(p)))
	if r == nil {
		b.misses.Add(1)
		return false
	}
	r.dev.Write(addr-r.base, p)
	return true
}

// Misses counts the accesses that no device claimed.
func (b *Bus) Misses() uint64 { return b.misses.Load() }
