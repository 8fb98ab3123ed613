//go:build amd64

package kvm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// VM is one virtual machine: memory slots, interrupt controllers, vCPUs.
// All methods may be called from several goroutines.
//
// Order of set-up: SetMemory for all RAM, then SetTSSAddr, SetIdentityMapAddr and
// CreateIRQChip, then the vCPUs, then irqfds and ioeventfds. Memory before the irqchip is
// worth milliseconds: the irqchip's registration leaves work behind that a later slot waits for.
type VM struct {
	sys *System
	fd  *fd

	mu      sync.Mutex
	vcpus   []*VCPU
	irqchip bool
	closed  bool
}

// CreateVM makes an empty VM of the default type.
// Errors: ErrLimit, ErrInUse, ErrClosed, in an *Error. Source: api.rst, KVM_CREATE_VM.
func (s *System) CreateVM() (*VM, error) {
	n, err := ioctl(s.fd, reqCreateVM, 0)
	if err != nil {
		return nil, err
	}
	return &VM{sys: s, fd: newFD(n)}, nil
}

// CheckExtension is System.CheckExtension for this VM: some answers depend on it.
func (v *VM) CheckExtension(c Cap) (int, error) {
	return ioctl(v.fd, reqCheckExtension, uintptr(c))
}

// SetMemory backs guest-physical memory at gpa with host. An empty host removes the slot.
// Shape: gpa, the address of host and its length are multiples of the page size; slots
// must not overlap. host must not come from the Go heap (take RAM.Bytes) and must stay
// mapped until the VM is closed or the slot removed.
// Errors: *ArgumentError; *Error. Source: api.rst, KVM_SET_USER_MEMORY_REGION.
func (v *VM) SetMemory(slot uint32, gpa uint64, host []byte) error {
	page := uint64(os.Getpagesize())
	size := uint64(len(host))
	r := memoryRegion{slot: slot, gpa: gpa, size: size}
	if size > 0 {
		r.hva = hostAddress(host)
	}
	switch {
	case gpa%page != 0:
		return &ArgumentError{"SetMemory", "gpa", gpa, "a multiple of the page size"}
	case size%page != 0:
		return &ArgumentError{"SetMemory", "length of host", size, "a multiple of the page size"}
	case r.hva%page != 0:
		return &ArgumentError{"SetMemory", "address of host", r.hva, "a multiple of the page size"}
	case gpa+size < gpa:
		return &ArgumentError{"SetMemory", "gpa", gpa, fmt.Sprintf("at most 2^64-%#x", size)}
	}
	return ioctlPtr(v.fd, reqSetUserMemory, &r)
}

// IRQFD makes each write to the eventfd fd an edge on interrupt line gsi.
// The fd stays the caller's. Needs CreateIRQChip. Source: api.rst, KVM_IRQFD.
func (v *VM) IRQFD(gsi uint32, fd int) error {
	return v.irqFD("IRQFD", irqFD{fd: uint32(fd), gsi: gsi}, fd)
}

// RemoveIRQFD undoes IRQFD. When it returns, no interrupt of fd is under way any more.
func (v *VM) RemoveIRQFD(gsi uint32, fd int) error {
	return v.irqFD("RemoveIRQFD", irqFD{fd: uint32(fd), gsi: gsi, flags: irqFDDeassign}, fd)
}

func (v *VM) irqFD(op string, arg irqFD, fd int) error {
	if fd < 0 {
		return &ArgumentError{op, "fd", fd, "an open eventfd"}
	}
	return ioctlPtr(v.fd, reqIRQFD, &arg)
}

// IRQLine sets interrupt line gsi high or low. A level-triggered source needs both; for
// edges IRQFD is cheaper. Source: api.rst, KVM_IRQ_LINE.
func (v *VM) IRQLine(gsi uint32, high bool) error {
	arg := irqLevel{irq: gsi}
	if high {
		arg.level = 1
	}
	return ioctlPtr(v.fd, reqIRQLine, &arg)
}

// IOEventFD makes a guest write to gpa signal the eventfd fd instead of leaving the guest.
// Shape: length is 1, 2, 4 or 8 bytes, or 0 for any (then match must be nil). With match,
// only writes of that value count; nil is any value.
// The fd stays the caller's. Source: api.rst, KVM_IOEVENTFD.
func (v *VM) IOEventFD(gpa uint64, length uint32, match *uint64, fd int) error {
	return v.ioEventFD("IOEventFD", 0, gpa, length, match, fd)
}

// RemoveIOEventFD undoes an IOEventFD of the same arguments.
func (v *VM) RemoveIOEventFD(gpa uint64, length uint32, match *uint64, fd int) error {
	return v.ioEventFD("RemoveIOEventFD", ioEventFDDeassign, gpa, length, match, fd)
}

func (v *VM) ioEventFD(op string, flags uint32, gpa uint64, length uint32, match *uint64, fd int) error {
	arg := ioEventFD{addr: gpa, length: length, fd: int32(fd), flags: flags}
	switch {
	case fd < 0:
		return &ArgumentError{op, "fd", fd, "an open eventfd"}
	case !slices.Contains([]uint32{0, 1, 2, 4, 8}, length):
		return &ArgumentError{op, "length", length, "0, 1, 2, 4 or 8"}
	case match != nil && length == 0:
		return &ArgumentError{op, "length", length, "1, 2, 4 or 8 with a value to match"}
	}
	if match != nil {
		arg.datamatch = *match
		arg.flags |= ioEventFDDatamatch
	}
	return ioctlPtr(v.fd, reqIOEventFD, &arg)
}

// Close stops all vCPUs, waits until their Run has returned and releases everything the VM
// owns. Memory given to SetMemory stays the caller's and may be unmapped afterwards.
// Idempotent; a second caller waits for the first.
// Errors: ErrInRun if a Handler of this VM calls it; then nothing was closed.
func (v *VM) Close() error {
	v.mu.Lock()
	vcpus := slices.Clone(v.vcpus)
	if slices.ContainsFunc(vcpus, (*VCPU).onRunThread) {
		v.mu.Unlock()
		return &Error{Op: "close VM", Kind: ErrInRun}
	}
	v.closed = true // no new vCPU from here on
	v.mu.Unlock()
	for _, c := range vcpus {
		c.Stop() // all first, so that they end side by side
	}
	var errs []error
	for _, c := range vcpus {
		errs = append(errs, c.Close())
	}
	errs = append(errs, v.fd.close())
	return errors.Join(errs...)
}
