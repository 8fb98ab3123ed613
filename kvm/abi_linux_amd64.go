package kvm

import "structs"

// The ioctls in use, by the fd they belong to (include/uapi/linux/kvm.h). Directions are
// the kernel's, oddities included: KVM_SET_IRQCHIP is _IOR, and 0x9f/0xa0 each name two
// ioctls that differ in size only.
var (
	reqGetAPIVersion     = io("KVM_GET_API_VERSION", 0x00)
	reqCreateVM          = io("KVM_CREATE_VM", 0x01)
	reqGetMSRIndexList   = iowr("KVM_GET_MSR_INDEX_LIST", 0x02, sizeofMSRListHeader)
	reqCheckExtension    = io("KVM_CHECK_EXTENSION", 0x03)
	reqGetVCPUMmapSize   = io("KVM_GET_VCPU_MMAP_SIZE", 0x04)
	reqGetSupportedCPUID = iowr("KVM_GET_SUPPORTED_CPUID", 0x05, sizeofCPUIDHeader)

	reqCreateVCPU     = io("KVM_CREATE_VCPU", 0x41)
	reqSetUserMemory  = iow("KVM_SET_USER_MEMORY_REGION", 0x46, sizeofMemoryRegion)
	reqSetTSSAddr     = io("KVM_SET_TSS_ADDR", 0x47)
	reqSetIdentityMap = iow("KVM_SET_IDENTITY_MAP_ADDR", 0x48, 8)
	reqCreateIRQChip  = io("KVM_CREATE_IRQCHIP", 0x60)
	reqIRQLine        = iow("KVM_IRQ_LINE", 0x61, sizeofIRQLevel)
	reqGetIRQChip     = iowr("KVM_GET_IRQCHIP", 0x62, sizeofIRQChip)
	reqSetIRQChip     = ior("KVM_SET_IRQCHIP", 0x63, sizeofIRQChip)
	reqIRQFD          = iow("KVM_IRQFD", 0x76, sizeofIRQFD)
	reqIOEventFD      = iow("KVM_IOEVENTFD", 0x79, sizeofIOEventFD)
	reqSetClock       = iow("KVM_SET_CLOCK", 0x7b, sizeofClock)
	reqGetClock       = ior("KVM_GET_CLOCK", 0x7c, sizeofClock)

	reqRun           = io("KVM_RUN", 0x80)
	reqGetRegs       = ior("KVM_GET_REGS", 0x81, sizeofRegs)
	reqSetRegs       = iow("KVM_SET_REGS", 0x82, sizeofRegs)
	reqGetSregs      = ior("KVM_GET_SREGS", 0x83, sizeofSregs)
	reqSetSregs      = iow("KVM_SET_SREGS", 0x84, sizeofSregs)
	reqGetMSRs       = iowr("KVM_GET_MSRS", 0x88, sizeofMSRsHeader)
	reqSetMSRs       = iow("KVM_SET_MSRS", 0x89, sizeofMSRsHeader)
	reqGetFPU        = ior("KVM_GET_FPU", 0x8c, sizeofFPU)
	reqSetFPU        = iow("KVM_SET_FPU", 0x8d, sizeofFPU)
	reqGetLAPIC      = ior("KVM_GET_LAPIC", 0x8e, sizeofLAPIC)
	reqSetLAPIC      = iow("KVM_SET_LAPIC", 0x8f, sizeofLAPIC)
	reqSetCPUID2     = iow("KVM_SET_CPUID2", 0x90, sizeofCPUIDHeader)
	reqGetCPUID2     = iowr("KVM_GET_CPUID2", 0x91, sizeofCPUIDHeader)
	reqGetMPState    = ior("KVM_GET_MP_STATE", 0x98, 4)
	reqSetMPState    = iow("KVM_SET_MP_STATE", 0x99, 4)
	reqGetVCPUEvents = ior("KVM_GET_VCPU_EVENTS", 0x9f, sizeofVCPUEvents)
	reqSetVCPUEvents = iow("KVM_SET_VCPU_EVENTS", 0xa0, sizeofVCPUEvents)
	reqGetDebugRegs  = ior("KVM_GET_DEBUGREGS", 0xa1, sizeofDebugRegs)
	reqSetDebugRegs  = iow("KVM_SET_DEBUGREGS", 0xa2, sizeofDebugRegs)
	reqSetTSCKHz     = io("KVM_SET_TSC_KHZ", 0xa2)
	reqGetTSCKHz     = io("KVM_GET_TSC_KHZ", 0xa3)
	reqGetXSAVE      = ior("KVM_GET_XSAVE", 0xa4, sizeofXSAVE)
	reqSetXSAVE      = iow("KVM_SET_XSAVE", 0xa5, sizeofXSAVE)
	reqGetXCRs       = ior("KVM_GET_XCRS", 0xa6, sizeofXCRs)
	reqSetXCRs       = iow("KVM_SET_XCRS", 0xa7, sizeofXCRs)
	reqKVMClockCtrl  = io("KVM_KVMCLOCK_CTRL", 0xad)
	reqGetXSAVE2     = ior("KVM_GET_XSAVE2", 0xcf, sizeofXSAVE)
)

// requests is every ioctl above, for the pin test.
var requests = []request{
	reqGetAPIVersion, reqCreateVM, reqGetMSRIndexList, reqCheckExtension, reqGetVCPUMmapSize, reqGetSupportedCPUID,
	reqCreateVCPU, reqSetUserMemory, reqSetTSSAddr, reqSetIdentityMap, reqCreateIRQChip, reqIRQLine, reqGetIRQChip,
	reqSetIRQChip, reqIRQFD, reqIOEventFD, reqSetClock, reqGetClock, reqRun, reqGetRegs, reqSetRegs, reqGetSregs,
	reqSetSregs, reqGetMSRs, reqSetMSRs, reqGetFPU, reqSetFPU, reqGetLAPIC, reqSetLAPIC, reqSetCPUID2, reqGetCPUID2,
	reqGetMPState, reqSetMPState, reqGetVCPUEvents, reqSetVCPUEvents, reqGetDebugRegs, reqSetDebugRegs, reqSetTSCKHz,
	reqGetTSCKHz, reqGetXSAVE, reqSetXSAVE, reqGetXCRs, reqSetXCRs, reqKVMClockCtrl, reqGetXSAVE2,
}

// Cap is a KVM extension number (KVM_CAP_…), for CheckExtension.
type Cap int

// The extensions this package asks about.
const (
	CapIRQChip          Cap = 0
	CapUserMemory       Cap = 3
	CapSetTSSAddr       Cap = 4
	CapExtCPUID         Cap = 7
	CapNrVCPUs          Cap = 9 // answer: the recommended number
	CapNrMemslots       Cap = 10
	CapMPState          Cap = 14
	CapIRQFD            Cap = 32
	CapIOEventFD        Cap = 36
	CapSetIdentityMap   Cap = 37
	CapAdjustClock      Cap = 39
	CapVCPUEvents       Cap = 41
	CapDebugRegs        Cap = 50
	CapXSAVE            Cap = 55
	CapXCRs             Cap = 56
	CapGetTSCKHz        Cap = 61
	CapMaxVCPUs         Cap = 66
	CapTSCDeadlineTimer Cap = 72
	CapImmediateExit    Cap = 136
	CapXSAVE2           Cap = 208 // answer on a VM: the size of the area in bytes
)

// capNames serves errors and the pin test.
var capNames = map[Cap]string{
	CapIRQChip: "KVM_CAP_IRQCHIP", CapUserMemory: "KVM_CAP_USER_MEMORY", CapSetTSSAddr: "KVM_CAP_SET_TSS_ADDR",
	CapExtCPUID: "KVM_CAP_EXT_CPUID", CapNrVCPUs: "KVM_CAP_NR_VCPUS", CapNrMemslots: "KVM_CAP_NR_MEMSLOTS",
	CapMPState: "KVM_CAP_MP_STATE", CapIRQFD: "KVM_CAP_IRQFD", CapIOEventFD: "KVM_CAP_IOEVENTFD",
	CapSetIdentityMap: "KVM_CAP_SET_IDENTITY_MAP_ADDR", CapAdjustClock: "KVM_CAP_ADJUST_CLOCK",
	CapVCPUEvents: "KVM_CAP_VCPU_EVENTS", CapDebugRegs: "KVM_CAP_DEBUGREGS", CapXSAVE: "KVM_CAP_XSAVE",
	CapXCRs: "KVM_CAP_XCRS", CapGetTSCKHz: "KVM_CAP_GET_TSC_KHZ", CapMaxVCPUs: "KVM_CAP_MAX_VCPUS",
	CapTSCDeadlineTimer: "KVM_CAP_TSC_DEADLINE_TIMER", CapImmediateExit: "KVM_CAP_IMMEDIATE_EXIT",
	CapXSAVE2: "KVM_CAP_XSAVE2",
}

// requiredCaps are the extensions without which no VM of ours works.
var requiredCaps = []Cap{
	CapIRQChip, CapUserMemory, CapSetTSSAddr, CapExtCPUID, CapMPState, CapIRQFD, CapIOEventFD,
	CapSetIdentityMap, CapVCPUEvents, CapImmediateExit,
}

// The argument structs that never leave the package.

// memoryRegion mirrors struct kvm_userspace_memory_region.
type memoryRegion struct {
	_     structs.HostLayout
	slot  uint32
	flags uint32
	gpa   uint64
	size  uint64
	hva   uint64
}

// irqLevel mirrors struct kvm_irq_level.
type irqLevel struct {
	_     structs.HostLayout
	irq   uint32
	level uint32
}

// irqFD mirrors struct kvm_irqfd.
type irqFD struct {
	_          structs.HostLayout
	fd         uint32
	gsi        uint32
	flags      uint32
	resampleFD uint32
	_          [16]uint8
}

// irqFDDeassign is KVM_IRQFD_FLAG_DEASSIGN.
const irqFDDeassign = 1 << 0

// ioEventFD mirrors struct kvm_ioeventfd.
type ioEventFD struct {
	_         structs.HostLayout
	datamatch uint64
	addr      uint64
	length    uint32
	fd        int32
	flags     uint32
	_         [36]uint8
}

// KVM_IOEVENTFD_FLAG_…
const (
	ioEventFDDatamatch = 1 << 0
	ioEventFDDeassign  = 1 << 2
)

// IRQChipState is one of the interrupt controllers: 0 and 1 are the PICs, 2 the IOAPIC.
// Mirrors struct kvm_irqchip.
type IRQChipState struct {
	_    structs.HostLayout
	Chip uint32
	_    uint32
	Data [512]byte
}

// The tables of variable length are passed in fixed arrays: the headers are what counts
// in the ioctl number.

// maxCPUIDEntries is KVM_MAX_CPUID_ENTRIES (arch/x86/include/asm/kvm_host.h).
const maxCPUIDEntries = 256

// cpuidTable mirrors struct kvm_cpuid2.
type cpuidTable struct {
	_       structs.HostLayout
	count   uint32
	_       uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

// maxMSRs bounds our tables of MSRs. The kernel takes up to 4096 at a time (MAX_IO_MSRS)
// and lists about 350 to save.
const maxMSRs = 1024

// msrTable mirrors struct kvm_msrs.
type msrTable struct {
	_       structs.HostLayout
	count   uint32
	_       uint32
	entries [maxMSRs]MSR
}

// msrList mirrors struct kvm_msr_list.
type msrList struct {
	_       structs.HostLayout
	count   uint32
	indices [maxMSRs]uint32
}

// Offsets in struct kvm_run. The union of exit data starts at 32.
const (
	runRequests   = 0 // u8 request_interrupt_window, u8 immediate_exit, then padding
	runExitReason = 8
	runUnion      = 32
	runUnionSize  = 256

	runIODirection  = 32 // u8: 0 in, 1 out
	runIOSize       = 33 // u8: bytes per element
	runIOPort       = 34
	runIOCount      = 36
	runIODataOffset = 40

	runMMIOAddr    = 32
	runMMIOData    = 40
	runMMIODataLen = 8
	runMMIOLen     = 48
	runMMIOIsWrite = 52

	runHardwareReason = 32 // hw, fail_entry and ex alike
	runSuberror       = 32
	runInternalCount  = 36
	runInternalData   = 40 // u64[16]
	runInsnFlags      = 40 // emulation_failure overlays internal
	runInsnSize       = 48
	runInsnBytes      = 49
	runInsnMax        = 15

	runEventType  = 32
	runEventCount = 36
	runEventData  = 40 // u64[16]
)

// immediateExit is the immediate_exit byte within the 32-bit word at runRequests.
const immediateExit = 1 << 8
