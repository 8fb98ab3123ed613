//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RAM is memory for a guest, outside the Go heap: a memfd mapped between two guards.
//
//	| ≥ 2 MiB no access | Bytes(), 2 MiB-aligned | ≥ 2 MiB no access |
//
// The memfd is sealed, so nobody can shrink it under the mapping (a guest access would be
// SIGBUS). The contents stay out of core dumps. An access that slips past the bounds hits
// a guard instead of foreign memory; under debug.SetPanicOnFault it is a panic that can be
// recovered, and Run does so.
type RAM struct {
	mu    sync.Mutex
	fd    int
	data  []byte
	area  unsafe.Pointer
	total uintptr
}

const (
	ramGuard = 2 << 20
	ramAlign = 2 << 20 // the x86 large page
	// maxRAM keeps size arithmetic far from overflow; more than any x86 guest can address.
	maxRAM = 1 << 46
)

// NewRAM makes size bytes of zeroed guest RAM, which take host memory only when touched.
// Shape: size is a positive multiple of the page size.
// Errors: *ArgumentError; ErrLimit in an *Error if the host refuses. Nothing is left behind.
func NewRAM(size uint64) (*RAM, error) {
	if size == 0 || size > maxRAM || size%uint64(os.Getpagesize()) != 0 {
		return nil, &ArgumentError{"NewRAM", "size", size, "a positive multiple of the page size, at most 64 TiB"}
	}
	n, err := memfd(size)
	if err != nil {
		return nil, err
	}
	r := &RAM{fd: n}
	r.data, r.area, r.total, err = mapGuarded(n, uintptr(size), ramGuard, ramAlign)
	if err == nil {
		if err = injected("madvise"); err == nil {
			err = unix.Madvise(r.data, unix.MADV_DONTDUMP)
		}
	}
	if err != nil {
		_ = r.Close()
		e := sysError("mmap guest RAM", err)
		var known *Error
		if errors.As(e, &known) && known.Kind == ErrLimit {
			known.Hint = fmt.Sprintf("%d KiB of guest RAM: %s", size>>10, here.memoryHint())
		}
		return nil, e
	}
	// A wish, not a need: hosts may have large pages switched off for shared memory.
	_ = unix.Madvise(r.data, unix.MADV_HUGEPAGE)
	return r, nil
}

// mfdNoExecSeal is MFD_NOEXEC_SEAL (Linux 6.3): the file can never be executed.
const mfdNoExecSeal = 0x8

// memfd makes a sealed file of size bytes without a name in any directory.
func memfd(size uint64) (int, error) {
	if err := injected("memfd_create"); err != nil {
		return -1, err
	}
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	n, err := unix.MemfdCreate("hutch-ram", flags|mfdNoExecSeal)
	if err == unix.EINVAL { //nolint:errorlint // x/sys returns a bare errno
		n, err = unix.MemfdCreate("hutch-ram", flags)
	}
	if err != nil {
		return -1, sysError("memfd_create", err)
	}
	if err = injected("ftruncate"); err == nil {
		err = unix.Ftruncate(n, int64(size))
	}
	if err != nil {
		_ = unix.Close(n)
		return -1, sysError("ftruncate guest RAM", err)
	}
	if err = injected("fcntl"); err == nil {
		_, err = unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = unix.Close(n)
		return -1, sysError("seal guest RAM", err)
	}
	return n, nil
}

// Bytes is the memory. The guest may change it at any time: read every word once. It is
// nil after Close, and slices taken before fault then.
func (r *RAM) Bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data
}

// Close unmaps the memory. Close the VM that uses it first. Idempotent.
func (r *RAM) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if r.area != nil {
		errs = append(errs, unreserve(r.area, r.total))
		r.area, r.data = nil, nil
	}
	if r.fd >= 0 {
		errs = append(errs, unix.Close(r.fd))
		r.fd = -1
	}
	if err := errors.Join(errs...); err != nil {
		return sysError("unmap guest RAM", err)
	}
	return nil
}
