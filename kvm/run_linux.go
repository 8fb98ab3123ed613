//go:build amd64

package kvm

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// Run enters the guest and serves its exits with h until something ends it.
//
// Ends without an error: ExitStopped (Stop was called; the last access is complete, so the
// state may be saved, and Run may be called again), ExitHLT (only without an irqchip),
// ExitShutdown (triple fault), ExitSystemEvent, ExitDebug.
// Ends with an error: *ExitError for an exit there is no way on from, *HandlerError for a
// panic of h, *Error otherwise (ErrClosed).
// Concurrency: one Run at a time per vCPU; a second one waits. Run locks the goroutine to
// its thread while it lasts. A goroutine made for one vCPU should itself call
// runtime.LockOSThread and end without unlocking: then the thread ends with it.
// Source: api.rst, KVM_RUN.
func (c *VCPU) Run(h Handler) (exit Exit, err error) {
	c.running.Lock()
	defer c.running.Unlock()
	if c.closing.Load() {
		return Exit{}, &Error{Op: reqRun.name, Kind: ErrClosed}
	}
	n, err := c.fd.acquire(reqRun.name)
	if err != nil {
		return Exit{}, err
	}
	defer c.fd.release()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.tid.Store(int32(unix.Gettid()))
	defer c.tid.Store(0)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			exit, err = Exit{}, &HandlerError{Exit: Reason(c.run32(runExitReason)), Value: v, Stack: debug.Stack()}
		}
	}()

	for {
		c.phase.Add(1) // odd: stoppers signal the thread from here on
		// Not RawSyscall: the scheduler has to know that this thread may be away for long.
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), reqRun.nr, 0)
		c.phase.Add(1)
		switch errno {
		case 0:
		case unix.EINTR: // a stop, a kick, or a signal of the Go runtime
			if c.takeRequests()&wantStop != 0 {
				return Exit{Reason: ExitStopped}, nil
			}
			continue
		case unix.EAGAIN: // an application processor woke up from waiting for INIT or SIPI
			continue
		default: // EFAULT, ENOMEM, EINVAL, ENOEXEC, EIO, EPERM, …
			return Exit{}, c.exitError(&ExitError{Reason: Reason(c.run32(runExitReason)), Errno: errno})
		}

		switch reason := Reason(c.run32(runExitReason)); reason {
		case ExitIO:
			if err := c.serveIO(h); err != nil {
				return Exit{}, err
			}
		case ExitMMIO:
			if err := c.serveMMIO(h); err != nil {
				return Exit{}, err
			}
		case ExitIntr, ExitIRQWindowOpen, ExitSetTPR:
			// Nothing to do: the first comes with EINTR, the others only with an APIC in userspace.
		case ExitHLT, ExitShutdown, ExitDebug:
			return Exit{Reason: reason}, nil
		case ExitSystemEvent:
			return c.systemEvent(), nil
		default:
			return Exit{}, c.fatalExit(reason)
		}
	}
}

// serveIO hands a port access to h, one call per element of a string instruction.
// The numbers in kvm_run are the kernel's, yet they are checked: a mapping overrun would
// be the process's end.
func (c *VCPU) serveIO(h Handler) error {
	size := uint64(c.run[runIOSize])
	count := uint64(c.run32(runIOCount))
	off := c.run64(runIODataOffset)
	in := c.run[runIODirection] == 0
	port := c.run16(runIOPort)
	limit := uint64(len(c.run))
	if size != 1 && size != 2 && size != 4 || off < runUnion+runUnionSize || off > limit || count*size > limit-off {
		return c.exitError(&ExitError{Reason: ExitIO, Detail: fmt.Sprintf(
			"%d elements of %d bytes at offset %#x do not lie in the %d bytes of kvm_run", count, size, off, limit)})
	}
	for ; count > 0; count-- {
		p := c.run[off : off+size : off+size]
		if in {
			h.PortIn(port, p)
		} else {
			h.PortOut(port, p)
		}
		off += size
	}
	return nil
}

// serveMMIO hands a memory access outside RAM to h.
func (c *VCPU) serveMMIO(h Handler) error {
	n := c.run32(runMMIOLen)
	if n == 0 || n > runMMIODataLen {
		return c.exitError(&ExitError{Reason: ExitMMIO, Detail: fmt.Sprintf("length %d, want 1 to %d", n, runMMIODataLen)})
	}
	gpa := c.run64(runMMIOAddr)
	p := c.run[runMMIOData : runMMIOData+n : runMMIOData+n]
	if c.run[runMMIOIsWrite] != 0 {
		h.MMIOWrite(gpa, p)
	} else {
		h.MMIORead(gpa, p)
	}
	return nil
}

func (c *VCPU) systemEvent() Exit {
	return Exit{
		Reason: ExitSystemEvent,
		Event:  SystemEvent(c.run32(runEventType)),
		Data:   c.words(runEventCount, runEventData),
	}
}

// words reads a counted array of at most 16 words (system_event.data, internal.data).
func (c *VCPU) words(countOff, dataOff int) []uint64 {
	n := min(c.run32(countOff), 16)
	var w []uint64
	for i := range int(n) {
		w = append(w, c.run64(dataOff+8*i))
	}
	return w
}

// fatalExit describes an exit that Run does not go on from. Every reason that KVM knows is
// named here or in Run; a number beyond them is a newer kernel's.
func (c *VCPU) fatalExit(reason Reason) error {
	e := &ExitError{Reason: reason}
	switch reason {
	case ExitUnknown, ExitFailEntry:
		e.Hardware = c.run64(runHardwareReason)
	case ExitException:
		e.Hardware = uint64(c.run32(runHardwareReason))
	case ExitInternalError:
		e.Suberror = c.run32(runSuberror)
		e.Data = c.words(runInternalCount, runInternalData)
		// emulation_failure overlays data: flags, then length and bytes of the instruction.
		if e.Suberror == 1 && len(e.Data) >= 3 && c.run64(runInsnFlags)&1 != 0 {
			n := int(min(c.run[runInsnSize], runInsnMax))
			e.Insn = append([]byte(nil), c.run[runInsnBytes:runInsnBytes+n]...)
		}
	case ExitHypercall, ExitTPRAccess, ExitNMI, ExitWatchdog, ExitIOAPICEOI, ExitHyperV, ExitX86RDMSR,
		ExitX86WRMSR, ExitDirtyRingFull, ExitAPResetHold, ExitX86BusLock, ExitXen, ExitNotify, ExitMemoryFault:
		e.Detail = "hutch did not enable what leads to it"
	case ExitS390SIEIC, ExitS390Reset, ExitDCR, ExitOSI, ExitPAPRHCall, ExitS390UControl, ExitS390TSCH, ExitEPR,
		ExitS390STSI, ExitARMNISV, ExitRISCVSBI, ExitRISCVCSR, ExitLoongArchCSR:
		e.Detail = "it belongs to another architecture"
	default:
		e.Detail = "this exit is newer than hutch"
	}
	return c.exitError(e)
}

// exitError adds the registers, as far as KVM gives them.
func (c *VCPU) exitError(e *ExitError) error {
	if e.Errno == syscall.EBADF {
		return &Error{Op: reqRun.name, Errno: e.Errno, Kind: ErrClosed}
	}
	e.Regs, _ = c.Regs()
	e.Sregs, _ = c.Sregs()
	return e
}
