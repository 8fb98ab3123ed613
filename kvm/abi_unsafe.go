//go:build linux && amd64

package kvm

import "unsafe"

// Sizes of the ABI structs, for the ioctl numbers. Variable-length tables count with
// their header only.
const (
	sizeofRegs         = unsafe.Sizeof(Regs{})
	sizeofSregs        = unsafe.Sizeof(Sregs{})
	sizeofFPU          = unsafe.Sizeof(FPU{})
	sizeofLAPIC        = unsafe.Sizeof(LAPIC{})
	sizeofXCRs         = unsafe.Sizeof(XCRs{})
	sizeofVCPUEvents   = unsafe.Sizeof(VCPUEvents{})
	sizeofDebugRegs    = unsafe.Sizeof(DebugRegs{})
	sizeofClock        = unsafe.Sizeof(Clock{})
	sizeofMemoryRegion = unsafe.Sizeof(memoryRegion{})
	sizeofIRQLevel     = unsafe.Sizeof(irqLevel{})
	sizeofIRQChip      = unsafe.Sizeof(IRQChipState{})
	sizeofIRQFD        = unsafe.Sizeof(irqFD{})
	sizeofIOEventFD    = unsafe.Sizeof(ioEventFD{})
	sizeofXSAVE        = 4096

	sizeofCPUIDHeader   = unsafe.Offsetof(cpuidTable{}.entries)
	sizeofMSRsHeader    = unsafe.Offsetof(msrTable{}.entries)
	sizeofMSRListHeader = unsafe.Offsetof(msrList{}.indices)
)

// Size pins: each line fails to compile if the struct is a byte too large or too small.
var (
	_ = [1]struct{}{}[sizeofRegs-144]
	_ = [1]struct{}{}[unsafe.Sizeof(Segment{})-24]
	_ = [1]struct{}{}[unsafe.Sizeof(DTable{})-16]
	_ = [1]struct{}{}[sizeofSregs-312]
	_ = [1]struct{}{}[sizeofFPU-416]
	_ = [1]struct{}{}[unsafe.Sizeof(MSR{})-16]
	_ = [1]struct{}{}[sizeofLAPIC-1024]
	_ = [1]struct{}{}[unsafe.Sizeof(XCR{})-16]
	_ = [1]struct{}{}[sizeofXCRs-392]
	_ = [1]struct{}{}[sizeofVCPUEvents-64]
	_ = [1]struct{}{}[sizeofDebugRegs-128]
	_ = [1]struct{}{}[sizeofClock-48]
	_ = [1]struct{}{}[unsafe.Sizeof(CPUIDEntry{})-40]
	_ = [1]struct{}{}[sizeofMemoryRegion-32]
	_ = [1]struct{}{}[sizeofIRQLevel-8]
	_ = [1]struct{}{}[sizeofIRQChip-520]
	_ = [1]struct{}{}[sizeofIRQFD-32]
	_ = [1]struct{}{}[sizeofIOEventFD-64]
	_ = [1]struct{}{}[sizeofCPUIDHeader-8]
	_ = [1]struct{}{}[sizeofMSRsHeader-8]
	_ = [1]struct{}{}[sizeofMSRListHeader-4]
)
