package virtio

import (
	"errors"
	"fmt"
	"sort"
)

// Region is one contiguous block of guest RAM.
type Region struct {
	GPA   uint64 // guest physical address of Bytes[0]; a multiple of 8
	Bytes []byte // host view, 8-byte aligned, length a multiple of 8; shared with the running guest
}

// Errors of guest memory access, wrapped in a *MemoryError.
var (
	ErrOutOfRange = errors.New("not wholly inside one region of guest RAM")
	ErrUnaligned  = errors.New("address is not a multiple of the access size")
)

// MemoryError is the error of every failed access through a Memory.
type MemoryError struct {
	Op  string // "read", "write", "load", "store"
	GPA uint64 // guest physical address asked for
	Len uint64 // bytes asked for
	Err error  // ErrOutOfRange or ErrUnaligned
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("virtio: %s of %d bytes at guest address %#x: %v", e.Op, e.Len, e.GPA, e.Err)
}

func (e *MemoryError) Unwrap() error { return e.Err }

// ErrBadRegion is wrapped by the errors of NewMemory.
var ErrBadRegion = errors.New("virtio: bad memory region")

// Memory is the checked view of guest RAM that all devices use.
//
// The guest runs while the host reads, so two reads of one address may differ:
// read a value once, check the copy, use the copy.
//
// Concurrency: immutable after NewMemory, safe for any number of goroutines.
type Memory struct {
	regions []Region // sorted by GPA, disjoint
	size    uint64
}

// NewMemory makes a view of the given regions, in any order. Adjacent regions
// stay separate: no access and no virtqueue crosses from one into the next.
//
// Errors: ErrBadRegion for an empty, misaligned, overlapping or wrapping region.
func NewMemory(regions ...Region) (*Memory, error) {
	m := &Memory{regions: append([]Region(nil), regions...)}
	sort.Slice(m.regions, func(i, j int) bool { return m.regions[i].GPA < m.regions[j].GPA })
	for i, r := range m.regions {
		n := uint64(len(r.Bytes))
		switch {
		case n == 0:
			return nil, fmt.Errorf("%w at %#x: it is empty", ErrBadRegion, r.GPA)
		case r.GPA%8 != 0 || n%8 != 0 || !hostAligned(r.Bytes):
			return nil, fmt.Errorf("%w at %#x, %#x bytes: address, length and host address must be multiples of 8", ErrBadRegion, r.GPA, n)
		case r.GPA+n < r.GPA:
			return nil, fmt.Errorf("%w at %#x, %#x bytes: it wraps around the address space", ErrBadRegion, r.GPA, n)
		}
		if i > 0 {
			prev := m.regions[i-1]
			if r.GPA-prev.GPA < uint64(len(prev.Bytes)) {
				return nil, fmt.Errorf("%w at %#x: it overlaps the region at %#x", ErrBadRegion, r.GPA, prev.GPA)
			}
		}
		m.size += n
	}
	return m, nil
}

// Size is the number of bytes of guest RAM, without the holes.
func (m *Memory) Size() uint64 { return m.size }

// Contains says whether the n bytes at gpa lie wholly within one region. No
// bytes at all (n = 0) lie within a region from its first address to its end.
func (m *Memory) Contains(gpa, n uint64) bool {
	_, ok := m.slice(gpa, n)
	return ok
}

// slice is the one place where a guest address becomes host memory. The result
// has no spare capacity, so that it cannot be grown into its neighbour.
func (m *Memory) slice(gpa, n uint64) ([]byte, bool) {
	for i := range m.regions {
		r := &m.regions[i]
		size := uint64(len(r.Bytes))
		if gpa < r.GPA {
			return nil, false
		}
		off := gpa - r.GPA
		if off < size || (off == size && n == 0) {
			// n > size-off and not off+n > size: the sum may wrap.
			if n > size-off {
				return nil, false
			}
			return r.Bytes[off : off+n : off+n], true
		}
	}
	return nil, false
}

// access is slice with the error of an exported method.
func (m *Memory) access(op string, gpa, n, align uint64) ([]byte, error) {
	if gpa%align != 0 {
		return nil, &MemoryError{Op: op, GPA: gpa, Len: n, Err: ErrUnaligned}
	}
	b, ok := m.slice(gpa, n)
	if !ok {
		return nil, &MemoryError{Op: op, GPA: gpa, Len: n, Err: ErrOutOfRange}
	}
	return b, nil
}

// ReadAt copies len(p) bytes at gpa into p: all of them or none.
// Errors: *MemoryError. The copy is not atomic against the guest.
func (m *Memory) ReadAt(p []byte, gpa uint64) error {
	b, err := m.access("read", gpa, uint64(len(p)), 1)
	if err != nil {
		return err
	}
	copy(p, b)
	return nil
}

// WriteAt copies p to gpa: all of it or nothing. Errors: *MemoryError.
func (m *Memory) WriteAt(p []byte, gpa uint64) error {
	b, err := m.access("write", gpa, uint64(len(p)), 1)
	if err != nil {
		return err
	}
	copy(b, p)
	return nil
}

// LoadUint16 loads a little-endian word atomically, with acquire order.
// gpa must be a multiple of 2. Errors: *MemoryError.
func (m *Memory) LoadUint16(gpa uint64) (uint16, error) {
	if gpa%2 != 0 {
		return 0, &MemoryError{Op: "load", GPA: gpa, Len: 2, Err: ErrUnaligned}
	}
	// Regions begin and end at multiples of 8: the enclosing word is inside.
	b, ok := m.slice(gpa&^3, 4)
	if !ok {
		return 0, &MemoryError{Op: "load", GPA: gpa, Len: 2, Err: ErrOutOfRange}
	}
	return load16(b, int(gpa&2)), nil
}

// LoadUint32 loads a little-endian word atomically, with acquire order.
// gpa must be a multiple of 4. Errors: *MemoryError.
func (m *Memory) LoadUint32(gpa uint64) (uint32, error) {
	b, err := m.access("load", gpa, 4, 4)
	if err != nil {
		return 0, err
	}
	return load32(b, 0), nil
}

// LoadUint64 loads a little-endian word atomically, with acquire order.
// gpa must be a multiple of 8. Errors: *MemoryError.
func (m *Memory) LoadUint64(gpa uint64) (uint64, error) {
	b, err := m.access("load", gpa, 8, 8)
	if err != nil {
		return 0, err
	}
	return load64(b, 0), nil
}

// StoreUint16 stores a little-endian word with one 16-bit store, which touches
// no neighbour byte. gpa must be a multiple of 2. Errors: *MemoryError.
//
// Go has no atomic 16-bit store: the store is single but unordered. Follow it
// with an atomic operation where the order matters.
func (m *Memory) StoreUint16(gpa uint64, v uint16) error {
	b, err := m.access("store", gpa, 2, 2)
	if err != nil {
		return err
	}
	store16(b, 0, v)
	return nil
}

// StoreUint32 stores a little-endian word atomically, with release order.
// gpa must be a multiple of 4. Errors: *MemoryError.
func (m *Memory) StoreUint32(gpa uint64, v uint32) error {
	b, err := m.access("store", gpa, 4, 4)
	if err != nil {
		return err
	}
	store32(b, 0, v)
	return nil
}
