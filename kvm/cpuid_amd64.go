package kvm

import (
	"fmt"
	"math/bits"
	"slices"
)

// What a guest sees of its processor starts from what KVM can give on this host
// (KVM_GET_SUPPORTED_CPUID). That answer is about the host: it names the host's topology
// and features that need help from userspace. The rules below make one package of `count`
// cores out of it, one thread each, numbered by APIC id 0, 1, 2, …
// Leaf and bit names: Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E;
// Documentation/virt/kvm/x86/cpuid.rst for 0x4000_0000.

const (
	leafVendor       = 0x0
	leafFeatures     = 0x1
	leafCaches       = 0x4 // Intel
	leafMonitor      = 0x5
	leafPower        = 0x6
	leafFeatures7    = 0x7
	leafPMU          = 0xA
	leafTopology     = 0xB
	leafSGX          = 0x12
	leafPT           = 0x14
	leafTSC          = 0x15
	leafFrequency    = 0x16
	leafSoC          = 0x17
	leafTopologyV2   = 0x1F
	leafKVM          = 0x40000000
	leafKVMFeatures  = 0x40000001
	leafKVMFrequency = 0x40000010
	leafHypervisors  = 0x40000100 // up to here: leaves of hypervisors
	leafExtFeatures  = 0x80000001
	leafExtPower     = 0x80000007
	leafExtSizes     = 0x80000008
	leafSVM          = 0x8000000A
	leafAMDIBS       = 0x8000001B
	leafAMDLWP       = 0x8000001C
	leafAMDCaches    = 0x8000001D
	leafAMDTopology  = 0x8000001E
	leafSEV          = 0x8000001F
	leafAMDPerfMon   = 0x80000022
	leafAMDTopoV2    = 0x80000026
	leafCentaur      = 0xC0000000
)

// Feature bits of leaf 1.
const (
	f1cDTES64      = 1 << 2
	f1cMonitor     = 1 << 3
	f1cDSCPL       = 1 << 4
	f1cVMX         = 1 << 5
	f1cSMX         = 1 << 6
	f1cEIST        = 1 << 7
	f1cTM2         = 1 << 8
	f1cPDCM        = 1 << 15
	f1cX2APIC      = 1 << 21
	f1cTSCDeadline = 1 << 24
	f1cOSXSAVE     = 1 << 27 // KVM sets it from CR4
	f1cHypervisor  = 1 << 31
	f1dDS          = 1 << 21
	f1dACPI        = 1 << 22
	f1dHTT         = 1 << 28
	f1dTM          = 1 << 29
)

// Feature bits of leaf 7, subleaf 0.
const (
	f7bSGX    = 1 << 2
	f7bPQM    = 1 << 12
	f7bPQE    = 1 << 15
	f7bPT     = 1 << 25
	f7cOSPKE  = 1 << 4 // KVM sets it from CR4
	f7cSGXLC  = 1 << 30
	f7dHybrid = 1 << 15
	f7dLBR    = 1 << 19
)

// Feature bits of leaf 0x8000_0001.
const (
	xcCmpLegacy   = 1 << 1
	xcSVM         = 1 << 2
	xcExtAPIC     = 1 << 3
	xcIBS         = 1 << 10
	xcSKINIT      = 1 << 12
	xcWDT         = 1 << 13
	xcLWP         = 1 << 15
	xcNodeID      = 1 << 19
	xcTopoExt     = 1 << 22
	xcPerfCore    = 1 << 23
	xcPerfNB      = 1 << 24
	xcDataBP      = 1 << 26
	xcPerfTSC     = 1 << 27
	xcPerfLLC     = 1 << 28
	xcMWAITX      = 1 << 29
	xcHideForever = xcSVM | xcExtAPIC | xcIBS | xcSKINIT | xcWDT | xcLWP | xcNodeID | xcPerfCore |
		xcPerfNB | xcDataBP | xcPerfTSC | xcPerfLLC | xcMWAITX
)

// kvmFeatures are the paravirtual features we let through: those KVM serves without
// userspace. Bit numbers of cpuid.rst: clocksource, no I/O delay, clocksource2, async page
// fault, steal time, PV EOI, unhalt, TLB flush, async page fault VM exit, send IPI, poll
// control, sched yield, async page fault interrupt, stable clocksource.
const kvmFeatures = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<9 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<24

// guestCPU is what the CPUID of one vCPU depends on besides the host.
type guestCPU struct {
	id          int  // APIC id
	count       int  // vCPUs of the VM, 1 to 255
	tscKHz      int  // 0: unknown
	irqchip     bool // the local APIC is KVM's
	tscDeadline bool // KVM_CAP_TSC_DEADLINE_TIMER
}

// guestCPUID turns KVM's supported CPUID into that of one vCPU. The input is not changed.
func guestCPUID(supported []CPUIDEntry, g guestCPU) []CPUIDEntry {
	vendor, maxBasic := "", uint32(0)
	for _, e := range supported {
		if e.Function == leafVendor {
			vendor, maxBasic = vendorName(e), e.EAX
		}
	}
	intel := vendor == "GenuineIntel"
	var out []CPUIDEntry
	for _, e := range supported {
		if dropLeaf(e.Function) {
			continue
		}
		adjustBasic(&e, g)
		adjustExtended(&e, g, intel)
		out = append(out, e)
	}
	out = append(out, kvmLeaves(supported, g)...)
	if maxBasic >= leafTopology {
		out = append(out, topologyLeaves(leafTopology, g)...)
	}
	if intel && maxBasic >= leafTopologyV2 {
		out = append(out, topologyLeaves(leafTopologyV2, g)...)
	}
	if intel && maxBasic >= leafTSC && g.tscKHz > 0 && g.irqchip {
		// TSC = crystal × EBX/EAX. The crystal drives the APIC timer too, which KVM runs at 1 GHz.
		out = append(out, CPUIDEntry{Function: leafTSC, EAX: 1e6, EBX: uint32(g.tscKHz), ECX: apicTimerHz})
	}
	slices.SortStableFunc(out, func(a, b CPUIDEntry) int {
		switch {
		case a.Function != b.Function:
			if a.Function < b.Function {
				return -1
			}
			return 1
		case a.Index < b.Index:
			return -1
		case a.Index > b.Index:
			return 1
		}
		return 0
	})
	return out
}

// apicTimerHz is the frequency of KVM's APIC timer (APIC_BUS_CYCLE_NS is 1).
const apicTimerHz = 1e9

func vendorName(e CPUIDEntry) string {
	var b []byte
	for _, r := range []uint32{e.EBX, e.EDX, e.ECX} {
		b = append(b, byte(r), byte(r>>8), byte(r>>16), byte(r>>24))
	}
	return string(b)
}

// dropLeaf names the leaves that are left out, which reads as "not there", or built anew.
func dropLeaf(fn uint32) bool {
	switch fn {
	case leafMonitor, leafPMU, leafSGX, leafPT, leafFrequency, leafSoC, leafSVM, leafAMDIBS, leafAMDLWP,
		leafSEV, leafAMDPerfMon, leafAMDTopoV2:
		return true // nothing behind them
	case leafTopology, leafTopologyV2, leafTSC:
		return true // rebuilt
	}
	return fn >= leafKVM && fn < leafHypervisors || // rebuilt
		fn >= leafHypervisors && fn < 0x80000000 || fn >= leafCentaur
}

func adjustBasic(e *CPUIDEntry, g guestCPU) {
	switch {
	case e.Function == leafFeatures:
		e.EBX = e.EBX&0xff00 | uint32(g.count)<<16 | uint32(g.id)<<24 // keep the CLFLUSH size
		e.ECX &^= f1cDTES64 | f1cMonitor | f1cDSCPL | f1cVMX | f1cSMX | f1cEIST | f1cTM2 | f1cPDCM | f1cOSXSAVE
		e.ECX |= f1cHypervisor
		e.ECX &^= f1cTSCDeadline
		if g.irqchip && g.tscDeadline {
			e.ECX |= f1cTSCDeadline // KVM leaves it out, since it cannot know where the APIC is
		}
		if !g.irqchip {
			e.ECX &^= f1cX2APIC
		}
		e.EDX &^= f1dDS | f1dACPI | f1dHTT | f1dTM
		if g.count > 1 {
			e.EDX |= f1dHTT
		}
	case e.Function == leafCaches:
		e.EAX = shareCache(e.EAX, g)
		if e.EAX&0x1f != 0 {
			e.EAX |= uint32(g.count-1) & 0x3f << 26 // cores in the package, minus one
		}
	case e.Function == leafPower:
		e.EAX &= 1 << 2 // ARAT: the APIC timer never stops
		e.EBX, e.ECX, e.EDX = 0, 0, 0
	case e.Function == leafFeatures7 && e.Index == 0:
		e.EBX &^= f7bSGX | f7bPQM | f7bPQE | f7bPT
		e.ECX &^= f7cOSPKE | f7cSGXLC
		e.EDX &^= f7dHybrid | f7dLBR
	}
}

// shareCache makes L1 and L2 private to a core and L3 shared by all: EAX of leaf 4 and
// 0x8000_001D, bits 4:0 type (0: no cache), 7:5 level, 25:14 sharers minus one.
func shareCache(eax uint32, g guestCPU) uint32 {
	if eax&0x1f == 0 {
		return eax
	}
	const sharers, cores = 0xfff << 14, 0x3f << 26
	level := eax >> 5 & 7
	eax &^= sharers | cores
	if level >= 3 {
		eax |= (1<<idBits(g.count) - 1) << 14
	}
	return eax
}

// idBits is how many bits of the APIC id number the cores of the package.
func idBits(count int) uint32 { return uint32(bits.Len(uint(count - 1))) }

func adjustExtended(e *CPUIDEntry, g guestCPU, intel bool) {
	switch e.Function {
	case leafExtFeatures:
		e.ECX &^= xcHideForever
		if !intel {
			e.ECX &^= xcCmpLegacy
			if g.count > 1 {
				e.ECX |= xcCmpLegacy // the ids number cores, not threads
			}
		}
	case leafExtSizes:
		if !intel {
			e.ECX = uint32(g.count-1)&0xff | idBits(g.count)<<12
		}
	case leafAMDCaches:
		e.EAX = shareCache(e.EAX, g)
	case leafAMDTopology:
		e.EAX = uint32(g.id)        // extended APIC id
		e.EBX = uint32(g.id) & 0xff // core id; one thread per core
		e.ECX = 0                   // one node, number 0
		e.EDX = 0
	}
}

// kvmLeaves are the hypervisor's own: signature, paravirtual features, frequencies.
func kvmLeaves(supported []CPUIDEntry, g guestCPU) []CPUIDEntry {
	const k, v, m = 0x4b4d564b, 0x564b4d56, 0x4d // "KVMK", "VMKV", "M"
	out := []CPUIDEntry{{Function: leafKVM, EAX: leafKVMFeatures, EBX: k, ECX: v, EDX: m}}
	for _, e := range supported {
		if e.Function == leafKVMFeatures {
			out = append(out, CPUIDEntry{Function: leafKVMFeatures, EAX: e.EAX & kvmFeatures})
		}
	}
	if g.tscKHz > 0 && g.irqchip {
		// Not KVM's own but the common convention for telling a guest its frequencies, in kHz.
		out[0].EAX = leafKVMFrequency
		out = append(out, CPUIDEntry{Function: leafKVMFrequency, EAX: uint32(g.tscKHz), EBX: apicTimerHz / 1000})
	}
	return out
}

// topologyLeaves are leaf 0xB or 0x1F: one thread per core, count cores per package.
// EAX: how far to shift the x2APIC id to get the next level's; ECX: index and level type
// (1 thread, 2 core, 0 end); EDX: the x2APIC id.
func topologyLeaves(fn uint32, g guestCPU) []CPUIDEntry {
	id := uint32(g.id)
	return []CPUIDEntry{
		{Function: fn, Index: 0, Flags: CPUIDIndexed, EAX: 0, EBX: 1, ECX: 0 | 1<<8, EDX: id},
		{Function: fn, Index: 1, Flags: CPUIDIndexed, EAX: idBits(g.count), EBX: uint32(g.count), ECX: 1 | 2<<8, EDX: id},
		{Function: fn, Index: 2, Flags: CPUIDIndexed, ECX: 2, EDX: id},
	}
}

func checkCount(op string, id, count int) error {
	if count < 1 || count > maxGuestCPUs || id >= count {
		return &ArgumentError{op, "count", count, fmt.Sprintf("%d to %d, the number of vCPUs of the VM", id+1, maxGuestCPUs)}
	}
	return nil
}

// maxGuestCPUs is bounded by the 8 bits of the APIC id.
const maxGuestCPUs = 255
