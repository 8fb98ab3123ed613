package kvm

import "strconv"

// Handler serves the accesses of a vCPU that leave the guest. Run calls it on the vCPU's
// own thread: while it works, the guest's CPU stands still, so it must not block.
//
// Shape: p is 1, 2 or 4 bytes for ports, 1 to 8 for MMIO, little-endian as the guest sees
// it; it is valid only during the call. A read fills p. A string instruction (REP OUTS) is
// one call per element. Two vCPUs call at the same time: a Handler shared between them
// needs its own lock.
// A Handler that wants the loop to end calls VCPU.Stop. A panic becomes a *HandlerError.
type Handler interface {
	PortIn(port uint16, p []byte)
	PortOut(port uint16, p []byte)
	MMIORead(gpa uint64, p []byte)
	MMIOWrite(gpa uint64, p []byte)
}

// Exit says why Run returned without an error.
type Exit struct {
	Reason Reason
	Event  SystemEvent // only for ExitSystemEvent
	Data   []uint64    // only for ExitSystemEvent: what the event carries
}

// SystemEvent is what the guest asked for through a firmware call.
type SystemEvent uint32

// The system events (Documentation/virt/kvm/api.rst, KVM_EXIT_SYSTEM_EVENT).
const (
	EventShutdown SystemEvent = 1
	EventReset    SystemEvent = 2
	EventCrash    SystemEvent = 3
	EventWakeup   SystemEvent = 4
	EventSuspend  SystemEvent = 5
	EventSEVTerm  SystemEvent = 6
)

// Reason is why a vCPU left the guest: exit_reason of struct kvm_run, or ExitStopped.
type Reason uint32

// The exit reasons of KVM, by their kernel numbers (KVM_EXIT_…).
const (
	ExitUnknown       Reason = 0
	ExitException     Reason = 1
	ExitIO            Reason = 2
	ExitHypercall     Reason = 3
	ExitDebug         Reason = 4
	ExitHLT           Reason = 5
	ExitMMIO          Reason = 6
	ExitIRQWindowOpen Reason = 7
	ExitShutdown      Reason = 8
	ExitFailEntry     Reason = 9
	ExitIntr          Reason = 10
	ExitSetTPR        Reason = 11
	ExitTPRAccess     Reason = 12
	ExitS390SIEIC     Reason = 13
	ExitS390Reset     Reason = 14
	ExitDCR           Reason = 15
	ExitNMI           Reason = 16
	ExitInternalError Reason = 17
	ExitOSI           Reason = 18
	ExitPAPRHCall     Reason = 19
	ExitS390UControl  Reason = 20
	ExitWatchdog      Reason = 21
	ExitS390TSCH      Reason = 22
	ExitEPR           Reason = 23
	ExitSystemEvent   Reason = 24
	ExitS390STSI      Reason = 25
	ExitIOAPICEOI     Reason = 26
	ExitHyperV        Reason = 27
	ExitARMNISV       Reason = 28
	ExitX86RDMSR      Reason = 29
	ExitX86WRMSR      Reason = 30
	ExitDirtyRingFull Reason = 31
	ExitAPResetHold   Reason = 32
	ExitX86BusLock    Reason = 33
	ExitXen           Reason = 34
	ExitRISCVSBI      Reason = 35
	ExitRISCVCSR      Reason = 36
	ExitNotify        Reason = 37
	ExitLoongArchCSR  Reason = 38
	ExitMemoryFault   Reason = 39

	// ExitStopped is no exit of the kernel: Run returned because of Stop.
	ExitStopped Reason = 1 << 31
)

// exitNames is indexed by Reason. The names are the kernel's, so that they can be searched for.
var exitNames = [...]string{
	"KVM_EXIT_UNKNOWN", "KVM_EXIT_EXCEPTION", "KVM_EXIT_IO", "KVM_EXIT_HYPERCALL",
	"KVM_EXIT_DEBUG", "KVM_EXIT_HLT", "KVM_EXIT_MMIO", "KVM_EXIT_IRQ_WINDOW_OPEN",
	"KVM_EXIT_SHUTDOWN", "KVM_EXIT_FAIL_ENTRY", "KVM_EXIT_INTR", "KVM_EXIT_SET_TPR",
	"KVM_EXIT_TPR_ACCESS", "KVM_EXIT_S390_SIEIC", "KVM_EXIT_S390_RESET", "KVM_EXIT_DCR",
	"KVM_EXIT_NMI", "KVM_EXIT_INTERNAL_ERROR", "KVM_EXIT_OSI", "KVM_EXIT_PAPR_HCALL",
	"KVM_EXIT_S390_UCONTROL", "KVM_EXIT_WATCHDOG", "KVM_EXIT_S390_TSCH", "KVM_EXIT_EPR",
	"KVM_EXIT_SYSTEM_EVENT", "KVM_EXIT_S390_STSI", "KVM_EXIT_IOAPIC_EOI", "KVM_EXIT_HYPERV",
	"KVM_EXIT_ARM_NISV", "KVM_EXIT_X86_RDMSR", "KVM_EXIT_X86_WRMSR", "KVM_EXIT_DIRTY_RING_FULL",
	"KVM_EXIT_AP_RESET_HOLD", "KVM_EXIT_X86_BUS_LOCK", "KVM_EXIT_XEN", "KVM_EXIT_RISCV_SBI",
	"KVM_EXIT_RISCV_CSR", "KVM_EXIT_NOTIFY", "KVM_EXIT_LOONGARCH_IOCSR", "KVM_EXIT_MEMORY_FAULT",
}

// String returns the kernel's name, or the number of a reason newer than this package.
func (r Reason) String() string {
	if r == ExitStopped {
		return "stopped"
	}
	if int(r) < len(exitNames) {
		return exitNames[r]
	}
	return "KVM_EXIT_" + strconv.FormatUint(uint64(r), 10)
}

// internalErrorName names a KVM_INTERNAL_ERROR_… suberror.
func internalErrorName(suberror uint32) string {
	switch suberror {
	case 1:
		return "instruction emulation failed"
	case 2:
		return "simultaneous exceptions"
	case 3:
		return "exit while an event was delivered"
	case 4:
		return "unexpected hardware exit"
	}
	return "unknown"
}
