package virtio

import (
	"sync/atomic"
	"unsafe"
)

// The functions here turn a bounds-checked position in a slice into one machine
// access. The slice expression does the check (it panics on our own mistakes,
// never on a guest's number, since callers check those first). Alignment is the
// caller's: regions are 8-byte aligned and ring areas are checked at set-up.
//
// Hosts are little-endian (amd64, arm64), as the ring fields are (§2.7).

// hostAligned says whether b starts at a multiple of 8 in host memory.
func hostAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%8 == 0
}

// load16 loads the 16-bit word at b[off:]. Go has no 16-bit atomics, so it loads
// the aligned 32-bit word around it and takes the half: a halfword at an even
// address never straddles it. off counts from a 4-byte aligned b[0].
func load16(b []byte, off int) uint16 {
	w := load32(b, off&^3)
	return uint16(w >> (uint(off&2) * 8))
}

// load32 loads the aligned 32-bit word at b[off:], with acquire order.
func load32(b []byte, off int) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&b[off : off+4][0])))
}

// load64 loads the aligned 64-bit word at b[off:], with acquire order.
func load64(b []byte, off int) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&b[off : off+8][0])))
}

// store16 stores the 16-bit word at b[off:] with one plain store. A wider store
// would overwrite the guest's bytes behind avail_event (§2.7.8).
func store16(b []byte, off int, v uint16) {
	*(*uint16)(unsafe.Pointer(&b[off : off+2][0])) = v
}

// store32 stores the aligned 32-bit word at b[off:] and is a full barrier, which
// what follows in the notification protocol needs (§2.7.7, §2.7.10). That is why
// it is a swap: the race detector's plain atomic store is a release only, and a
// wake-up was lost now and then with it. On amd64 both are one XCHG.
func store32(b []byte, off int, v uint32) {
	atomic.SwapUint32((*uint32)(unsafe.Pointer(&b[off : off+4][0])), v)
}
