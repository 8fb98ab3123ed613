//go:build linux && amd64

package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlPtr is ioctl with a pointer argument. p is kept alive and in place by the call
// itself: the conversion to uintptr stands in the argument list of the system call.
func ioctlPtr[T any](f *fd, r request, p *T) error {
	n, err := f.acquire(r.name)
	if err != nil {
		return err
	}
	defer f.release()
	for {
		if err := injected(r.name); err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), r.nr, uintptr(unsafe.Pointer(p)))
		if errno == unix.EINTR {
			continue // Go preempts threads with a signal; KVM lets it interrupt even KVM_CREATE_VM
		}
		if errno != 0 {
			return ioctlError(r, errno)
		}
		return nil
	}
}

// ioctlBytes is ioctlPtr for a buffer whose size the kernel decides (XSAVE).
func ioctlBytes(f *fd, r request, p []byte) error {
	return ioctlPtr(f, r, unsafe.SliceData(p))
}

// ioctlCount is ioctlPtr for the ioctls that answer with a number (KVM_GET_MSRS).
func ioctlCount[T any](f *fd, r request, p *T) (int, error) {
	n, err := f.acquire(r.name)
	if err != nil {
		return 0, err
	}
	defer f.release()
	for {
		if err := injected(r.name); err != nil {
			return 0, err
		}
		v, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), r.nr, uintptr(unsafe.Pointer(p)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, ioctlError(r, errno)
		}
		return int(v), nil
	}
}

// requestWord is the first word of kvm_run as an atomic: stoppers on other threads set
// immediate_exit in it. Userspace alone writes these four bytes, so a 32-bit access is safe.
// Preconditions: run is a live mapping of at least 4 bytes (page-aligned, hence aligned).
func requestWord(run []byte) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(unsafe.SliceData(run[runRequests : runRequests+4])))
}

// hostAddress is the address KVM is told for a slice that lies outside the Go heap.
func hostAddress(p []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p))))
}

// mapFixed maps size bytes of fd, shared and writable, at addr inside a reservation that
// the caller made.
func mapFixed(fd int, addr unsafe.Pointer, size uintptr) error {
	if err := injected("mmap"); err != nil {
		return err
	}
	_, err := unix.MmapPtr(fd, 0, addr, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	return err
}

// reserve takes size bytes of address space that fault on any access.
func reserve(size uintptr) (unsafe.Pointer, error) {
	if err := injected("mmap"); err != nil {
		return nil, err
	}
	return unix.MmapPtr(-1, 0, nil, size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
}

// unreserve gives back what reserve took, and all that was mapped over it.
func unreserve(addr unsafe.Pointer, size uintptr) error {
	return unix.MunmapPtr(addr, size)
}

// mapGuarded maps all of fd between two PROT_NONE guards. The data starts on a multiple of
// align, so that the host can back it with large pages. The whole area is returned for unreserve.
//
//	area:  | guard … up to the alignment | data (size bytes) | guard … |
func mapGuarded(fd int, size, guard, align uintptr) (data []byte, area unsafe.Pointer, areaSize uintptr, err error) {
	areaSize = size + 2*guard + align
	area, err = reserve(areaSize)
	if err != nil {
		return nil, nil, 0, err
	}
	skip := guard
	if rest := (uintptr(area) + guard) % align; rest != 0 {
		skip += align - rest
	}
	start := unsafe.Add(area, skip)
	if err := mapFixed(fd, start, size); err != nil {
		_ = unreserve(area, areaSize)
		return nil, nil, 0, err
	}
	return unsafe.Slice((*byte)(start), size), area, areaSize, nil
}
