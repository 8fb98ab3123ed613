package kvm

import "structs"

// The register structs below are plain data with the layout of the kernel's own
// (arch/x86/include/uapi/asm/kvm.h), so one value serves the ioctl, the boot code and a
// snapshot file. They carry no build constraint: code that only computes an entry state
// can be compiled and tested on any machine.

// Regs are the general-purpose registers of a vCPU. Mirrors struct kvm_regs.
// The zero value has RFLAGS 0; the CPU wants bit 1 set there, so use RFLAGS ≥ 2.
type Regs struct {
	_                                      structs.HostLayout
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// Segment is one segment register with its hidden part. Mirrors struct kvm_segment.
// Limit is in bytes whatever G says. Type is the 4-bit type of the descriptor, DPL is
// 0..3, the other single-byte fields are 0 or 1.
type Segment struct {
	_        structs.HostLayout
	Base     uint64
	Limit    uint32
	Selector uint16
	Type     uint8
	Present  uint8
	DPL      uint8
	DB       uint8
	S        uint8 // 1 for code and data, 0 for a system segment (TSS, LDT)
	L        uint8
	G        uint8
	AVL      uint8
	Unusable uint8
	_        uint8
}

// DTable is GDTR or IDTR. Mirrors struct kvm_dtable.
type DTable struct {
	_     structs.HostLayout
	Base  uint64
	Limit uint16 // bytes, minus one
	_     [3]uint16
}

// Sregs are the system registers of a vCPU. Mirrors struct kvm_sregs.
// Take them from VCPU.Sregs and change what is needed: APICBase and the bitmap have to
// stay as the kernel set them.
type Sregs struct {
	_                      structs.HostLayout
	CS, DS, ES, FS, GS, SS Segment
	TR, LDT                Segment
	GDT, IDT               DTable
	CR0, CR2, CR3, CR4     uint64
	CR8                    uint64
	EFER                   uint64
	APICBase               uint64
	InterruptBitmap        [4]uint64 // at most one bit: an external interrupt acknowledged but not yet injected
}

// FPU is the x87 and SSE state. Mirrors struct kvm_fpu.
type FPU struct {
	_          structs.HostLayout
	FPR        [8][16]byte
	FCW        uint16
	FSW        uint16
	FTWX       uint8 // abridged tag word, as in FXSAVE
	_          uint8
	LastOpcode uint16
	LastIP     uint64
	LastDP     uint64
	XMM        [16][16]byte
	MXCSR      uint32
	_          uint32
}

// MSR is one model-specific register and its value. Mirrors struct kvm_msr_entry.
type MSR struct {
	_     structs.HostLayout
	Index uint32
	_     uint32
	Data  uint64
}

// LAPIC is the register page of the local APIC. Mirrors struct kvm_lapic_state.
type LAPIC struct {
	_    structs.HostLayout
	Regs [1024]byte
}

// MPState says whether a vCPU runs, halts or waits for a start-up IPI.
// Mirrors struct kvm_mp_state.
type MPState uint32

// The states an x86 vCPU with an in-kernel APIC can be in (KVM_GET_MP_STATE).
const (
	MPRunnable      MPState = 0
	MPUninitialized MPState = 1 // an application processor that has seen no INIT
	MPInitReceived  MPState = 2
	MPHalted        MPState = 3
	MPSIPIReceived  MPState = 4
)

// XCR is one extended control register. Mirrors struct kvm_xcr.
type XCR struct {
	_     structs.HostLayout
	Index uint32
	_     uint32
	Value uint64
}

// XCRs are the extended control registers of a vCPU. Mirrors struct kvm_xcrs.
type XCRs struct {
	_     structs.HostLayout
	Count uint32 // how many of Regs are in use, at most 16
	Flags uint32
	Regs  [16]XCR
	_     [16]uint64
}

// VCPUEvents are exceptions, interrupts and NMIs under way. Mirrors struct kvm_vcpu_events.
type VCPUEvents struct {
	_         structs.HostLayout
	Exception struct {
		Injected, Nr, HasErrorCode, Pending uint8
		ErrorCode                           uint32
	}
	Interrupt struct {
		Injected, Nr, Soft, Shadow uint8
	}
	NMI struct {
		Injected, Pending, Masked, _ uint8
	}
	SIPIVector uint32
	Flags      uint32
	SMI        struct {
		SMM, Pending, InsideNMI, LatchedInit uint8
	}
	TripleFault struct {
		Pending uint8
	}
	_                   [26]uint8
	ExceptionHasPayload uint8
	ExceptionPayload    uint64
}

// DebugRegs are the hardware breakpoint registers. Mirrors struct kvm_debugregs.
type DebugRegs struct {
	_     structs.HostLayout
	DB    [4]uint64
	DR6   uint64
	DR7   uint64
	Flags uint64
	_     [9]uint64
}

// Clock is the guest's kvmclock. Mirrors struct kvm_clock_data.
// Units: nanoseconds for Nanos and Realtime, TSC ticks for HostTSC.
type Clock struct {
	_        structs.HostLayout
	Nanos    uint64
	Flags    uint32
	_        uint32
	Realtime uint64
	HostTSC  uint64
	_        [4]uint32
}

// CPUIDEntry is what CPUID answers for one leaf. Mirrors struct kvm_cpuid_entry2.
// Index counts only if Flags has CPUIDIndexed.
type CPUIDEntry struct {
	_                  structs.HostLayout
	Function           uint32
	Index              uint32
	Flags              uint32
	EAX, EBX, ECX, EDX uint32
	_                  [3]uint32
}

// CPUIDIndexed marks an entry that answers for one value of ECX only.
// It is KVM_CPUID_FLAG_SIGNIFCANT_INDEX (spelt so in the kernel).
const CPUIDIndexed = 1

// VCPUState is everything KVM keeps for one vCPU, as plain values that any encoder can
// store. The zero value is no valid state: take one with VCPU.State.
type VCPUState struct {
	CPUID     []CPUIDEntry
	MPState   MPState
	Regs      Regs
	Sregs     Sregs
	FPU       FPU    // used only when XSAVE is empty
	XSAVE     []byte // KVM_GET_XSAVE2 area: 4096 bytes or more
	XCRs      XCRs
	MSRs      []MSR
	LAPIC     *LAPIC // nil without an in-kernel irqchip
	Events    VCPUEvents
	DebugRegs DebugRegs
}
