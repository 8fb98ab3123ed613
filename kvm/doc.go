// Package kvm drives the Linux kernel's hypervisor, /dev/kvm, in Go without cgo: virtual
// machines, their memory, interrupts and processors, and the loop that runs a processor.
//
// # The domain in short
//
// KVM is a device file. An open /dev/kvm (System) makes VMs, a VM makes virtual processors
// (VCPU); each is a file descriptor, and everything is an ioctl on one of the three.
// Guest memory is ordinary memory of this process (RAM) that KVM is told about in slots:
// "guest-physical address gpa is host address hva". An access of the guest inside a slot
// never shows here. An access outside, or to an I/O port, is an exit: the ioctl KVM_RUN
// returns, struct kvm_run, shared with the kernel by mmap, says what the guest wants, Run
// asks a Handler, and the next KVM_RUN completes the access.
//
// Two exits need no KVM_RUN round trip. An eventfd bound by IOEventFD takes a guest's
// writes to an address, for queue notifications. An eventfd bound by IRQFD raises an
// interrupt line when it is written to. The interrupt controllers live in the kernel.
//
// A processor in the guest does not come back by itself: a guest may spin with interrupts
// off for ever. Stop and Kick make it: they set immediate_exit in kvm_run, which KVM_RUN
// looks at before it enters the guest, and send the thread a signal, which ends KVM_RUN
// when it is past that look.
//
// # Layout
//
//	errors.go, exit.go     the vocabulary: conditions, exit reasons, Handler
//	types_x86.go           register structs, plain and serialisable, on every platform
//	ioctl_linux.go, abi_*  ioctl numbers, capabilities, argument structs, kvm_run offsets
//	fd_linux.go            a file descriptor shared by goroutines; EINTR; errno → condition
//	system_linux.go        /dev/kvm and what to do when it does not open
//	vm_*, ram_unsafe.go    slots, irqchip, irqfd, ioeventfd; guest RAM
//	vcpu_linux.go          create, kick, close
//	run_linux.go           the run loop and the exits
//	regs_*, state_*        register access; all of it at once
//	cpuid_*, setup_*       what a guest sees of its processor
//	probe_*                is this KVM hardware, or an interpreter?
//	*_unsafe.go            the only files with package unsafe
//
// # Invariants
//
//   - Every ioctl retries EINTR: the Go runtime interrupts threads with SIGURG at any time,
//     and KVM lets that interrupt KVM_CREATE_VM too. Only Run looks at EINTR itself.
//   - No descriptor is closed, and no kvm_run unmapped, while a system call uses it.
//   - A request made with Stop or Kick is never lost: see VCPU.
//   - A constructor that fails leaves nothing behind; Close gives everything back.
//   - Whatever the guest does ends in a Handler call, an Exit or a typed error.
//
// # How to test
//
// The ABI, CPUID and error tests need nothing. The others run payloads of a few
// instructions on /dev/kvm; they are skipped without one, and fail instead if
// HUTCH_REQUIRE_KVM=1. They need no Linux guest, so they pass on an interpreting KVM too.
// In the lab use -short: an emulated hypervisor needs most of a second for a VM or a stop.
// testdata/kvm_abi.tsv is made by testdata/abi.c from <linux/kvm.h>; its first lines say how.
//
// Source of all that is said about ioctls: the kernel's Documentation/virt/kvm/api.rst,
// by ioctl name, as of Linux 6.1; struct layouts are those of include/uapi/linux/kvm.h.
package kvm
