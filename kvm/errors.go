package kvm

import (
	"errors"
	"fmt"
	"syscall"
)

// The conditions a caller can test for with errors.Is. The error that carries one says
// what was tried and how to fix it.
var (
	// ErrNoKVM means this machine offers no usable /dev/kvm.
	ErrNoKVM = errors.New("KVM is not available")
	// ErrPermission means /dev/kvm is there but this user may not open it.
	ErrPermission = errors.New("no permission to use KVM")
	// ErrUnsupported means that hutch does not run on this operating system or
	// architecture, or that this kernel's KVM lacks something hutch needs.
	ErrUnsupported = errors.New("not supported")
	// ErrClosed means the System, VM, VCPU or RAM was closed.
	ErrClosed = errors.New("already closed")
	// ErrLimit means that the host refused memory, file descriptors or threads.
	ErrLimit = errors.New("host limit reached")
	// ErrInUse means that another hypervisor holds the processor's virtualisation.
	ErrInUse = errors.New("virtualisation is in use by another hypervisor")
	// ErrInRun means that Close was called by a Handler, on the thread that Close
	// would have to wait for. Call VCPU.Stop there and Close elsewhere.
	ErrInRun = errors.New("called from inside Run")
)

// Error is a failed system call of this package.
// errors.Is finds the condition (ErrNoKVM, …) as well as the errno.
type Error struct {
	Op    string        // "open /dev/kvm", or an ioctl by its kernel name: "KVM_CREATE_VM"
	Errno syscall.Errno // 0 if no system call failed
	Kind  error         // one of the conditions above; nil if none fits
	Hint  string        // what to do, or what the value was; may be empty
}

func (e *Error) Error() string {
	s := "kvm: " + e.Op
	switch {
	case e.Errno != 0:
		s += ": " + e.Errno.Error()
	case e.Kind != nil:
		s += ": " + e.Kind.Error()
	}
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

// Unwrap returns the condition and the errno, as far as they are set.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Kind != nil {
		errs = append(errs, e.Kind)
	}
	if e.Errno != 0 {
		errs = append(errs, e.Errno)
	}
	return errs
}

// ArgumentError is a value that this package refuses before it asks the kernel.
type ArgumentError struct {
	Op    string // the method: "SetMemory"
	Name  string // the argument: "gpa"
	Value any
	Want  string // what would be accepted
}

func (e *ArgumentError) Error() string {
	v := fmt.Sprint(e.Value)
	switch n := e.Value.(type) {
	case uint64, uintptr:
		v = fmt.Sprintf("%#x", n)
	}
	return fmt.Sprintf("kvm: %s: %s is %s, want %s", e.Op, e.Name, v, e.Want)
}

// CapabilityError lists what this kernel's KVM lacks. It is an ErrUnsupported.
type CapabilityError struct {
	Missing []string // KVM_CAP_… names
}

func (e *CapabilityError) Error() string {
	return fmt.Sprintf("kvm: this kernel's KVM lacks %v: a Linux kernel of 5.10 or later has them", e.Missing)
}

// Unwrap returns ErrUnsupported.
func (e *CapabilityError) Unwrap() error { return ErrUnsupported }

// ExitError is an exit that a vCPU cannot go on from: a guest or KVM state that has no
// meaning for this package. The registers are those at the exit, as far as KVM gave them.
type ExitError struct {
	Reason   Reason
	Hardware uint64   // hardware exit or entry failure reason (UNKNOWN, FAIL_ENTRY); exception number (EXCEPTION)
	Suberror uint32   // INTERNAL_ERROR: 1 emulation, 2 simultaneous exceptions, 3 event delivery, 4 unexpected exit
	Data     []uint64 // INTERNAL_ERROR: what KVM adds, at most 16 words
	Insn     []byte   // the instruction that KVM could not emulate, if it tells
	Detail   string   // what was wrong with the exit itself, if it was malformed
	Errno    syscall.Errno
	Regs     Regs
	Sregs    Sregs
}

func (e *ExitError) Error() string {
	var s string
	switch {
	case e.Errno != 0:
		s = fmt.Sprintf("kvm: KVM_RUN: %v", e.Errno)
		if e.Errno == syscall.EFAULT {
			s += ": the guest touched memory that the host could not provide"
		}
	case e.Reason == ExitInternalError:
		s = fmt.Sprintf("kvm: vCPU stopped with %v, suberror %d (%s)", e.Reason, e.Suberror, internalErrorName(e.Suberror))
		if len(e.Insn) > 0 {
			s += fmt.Sprintf(" at instruction % x", e.Insn)
		}
	case e.Reason == ExitFailEntry || e.Reason == ExitUnknown || e.Reason == ExitException:
		s = fmt.Sprintf("kvm: vCPU stopped with %v, hardware reason %#x", e.Reason, e.Hardware)
	default:
		s = fmt.Sprintf("kvm: vCPU stopped with %v", e.Reason)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s + fmt.Sprintf(" [rip %#x rsp %#x rflags %#x cs %#x cr0 %#x cr3 %#x cr4 %#x efer %#x]",
		e.Regs.RIP, e.Regs.RSP, e.Regs.RFLAGS, e.Sregs.CS.Selector, e.Sregs.CR0, e.Sregs.CR3, e.Sregs.CR4, e.Sregs.EFER)
}

// Unwrap returns the errno of KVM_RUN, or nil.
func (e *ExitError) Unwrap() error {
	if e.Errno != 0 {
		return e.Errno
	}
	return nil
}

// HandlerError is a panic of a Handler, a memory fault in guest RAM included: Run turns it
// into an error, so that one broken device ends one VM and not the process.
type HandlerError struct {
	Exit  Reason // what the Handler was called for
	Value any    // the panic value
	Stack []byte
}

func (e *HandlerError) Error() string {
	return fmt.Sprintf("kvm: handler of %v panicked: %v", e.Exit, e.Value)
}

// Unwrap returns the panic value if it is an error.
func (e *HandlerError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
