package kvm

import (
	"errors"
	"testing"
)

// find returns the entry of a leaf, or the zero entry.
func find(entries []CPUIDEntry, fn, index uint32) (CPUIDEntry, bool) {
	for _, e := range entries {
		if e.Function == fn && (e.Flags&CPUIDIndexed == 0 || e.Index == index) {
			return e, true
		}
	}
	return CPUIDEntry{}, false
}

// intelHost and amdHost are what KVM could answer, with everything a guest must not see.
func intelHost() []CPUIDEntry {
	const all = 0xffffffff
	return []CPUIDEntry{
		{Function: 0, EAX: 0x20, EBX: 0x756e6547, ECX: 0x6c65746e, EDX: 0x49656e69},
		{Function: 1, EAX: 0x50654, EBX: 0x07400800, ECX: all, EDX: all},
		{Function: 4, Index: 0, Flags: 1, EAX: 0xfc07c121, EBX: 0x01c0003f, ECX: 0x3f},
		{Function: 4, Index: 3, Flags: 1, EAX: 0xfc07c163, EBX: 0x0280003f, ECX: 0x7ff},
		{Function: 4, Index: 4, Flags: 1},
		{Function: 5, EAX: all, EBX: all}, {Function: 6, EAX: all, ECX: all},
		{Function: 7, Flags: 1, EBX: all, ECX: all, EDX: all}, {Function: 0xa, EAX: all},
		{Function: 0xb, Flags: 1, EDX: 7}, {Function: 0x12, Flags: 1, EAX: all}, {Function: 0x14, Flags: 1, EAX: all},
		{Function: 0x15, EAX: 2, EBX: 3, ECX: 4}, {Function: 0x16, EAX: 1}, {Function: 0x1f, Flags: 1, EDX: 7},
		{Function: 0x40000000, EAX: 0x40000001}, {Function: 0x40000001, EAX: all, EDX: all}, {Function: 0x40000100, EAX: 1},
		{Function: 0x80000001, ECX: all, EDX: all}, {Function: 0x80000008, EAX: 0x302e, ECX: 0},
	}
}

func amdHost() []CPUIDEntry {
	const all = 0xffffffff
	return []CPUIDEntry{
		{Function: 0, EAX: 0x10, EBX: 0x68747541, ECX: 0x444d4163, EDX: 0x69746e65},
		{Function: 1, EAX: 0xa00f11, EBX: 0x07400800, ECX: all, EDX: all},
		{Function: 0xb, Flags: 1, EDX: 7},
		{Function: 0x40000000, EAX: 0x40000001}, {Function: 0x40000001, EAX: 0x01000009},
		{Function: 0x80000001, ECX: all, EDX: all}, {Function: 0x80000008, EAX: 0x3030, ECX: 0x703f},
		{Function: 0x8000000a, EAX: 1, EBX: 8, EDX: all}, {Function: 0x8000001d, Index: 0, Flags: 1, EAX: 0x4121},
		{Function: 0x8000001d, Index: 3, Flags: 1, EAX: 0x3c163}, {Function: 0x8000001e, EAX: 7, EBX: 0x103, ECX: 0x100},
		{Function: 0x8000001f, EAX: all}, {Function: 0x80000022, EAX: all}, {Function: 0x80000026, Flags: 1, EAX: all},
	}
}

// bit is one CPUID bit with the value it has to have. reg: 'a' to 'd'.
type bit struct {
	fn   uint32
	reg  byte
	n    int
	want bool
	name string
}

func checkBits(t *testing.T, entries []CPUIDEntry, bits []bit) {
	t.Helper()
	for _, b := range bits {
		e, _ := find(entries, b.fn, 0)
		reg := map[byte]uint32{'a': e.EAX, 'b': e.EBX, 'c': e.ECX, 'd': e.EDX}[b.reg]
		if got := reg>>b.n&1 == 1; got != b.want {
			t.Errorf("%s is %v, want %v", b.name, got, b.want)
		}
	}
}

func TestCPUIDHidesWhatHasNothingBehindIt(t *testing.T) {
	g := guestCPU{id: 0, count: 2, tscKHz: 2_000_000, irqchip: true, tscDeadline: true}
	checkBits(t, guestCPUID(intelHost(), g), []bit{
		{1, 'c', 3, false, "MONITOR"}, {1, 'c', 5, false, "VMX"}, {1, 'c', 6, false, "SMX"}, {1, 'c', 15, false, "PDCM"},
		{1, 'c', 27, false, "OSXSAVE"}, {1, 'c', 26, true, "XSAVE"}, {1, 'c', 21, true, "x2APIC"},
		{1, 'c', 24, true, "TSC_DEADLINE"}, {1, 'c', 31, true, "HYPERVISOR"}, {1, 'd', 28, true, "HTT"}, {1, 'd', 25, true, "SSE"},
		{6, 'a', 2, true, "ARAT"}, {6, 'a', 1, false, "turbo"}, {6, 'c', 0, false, "APERF/MPERF"},
		{7, 'b', 2, false, "SGX"}, {7, 'b', 25, false, "PT"}, {7, 'b', 5, true, "AVX2"}, {7, 'c', 4, false, "OSPKE"},
		{7, 'd', 15, false, "hybrid"}, {0xa, 'a', 0, false, "PMU"}, {5, 'a', 0, false, "MONITOR leaf"}, {0x12, 'a', 0, false, "SGX leaf"},
		{0x14, 'a', 0, false, "PT leaf"},
	})
	checkBits(t, guestCPUID(amdHost(), g), []bit{
		{0x80000001, 'c', 2, false, "SVM"}, {0x80000001, 'c', 10, false, "IBS"}, {0x80000001, 'c', 23, false, "PerfCtrExtCore"},
		{0x80000001, 'c', 29, false, "MWAITX"}, {0x80000001, 'c', 1, true, "CmpLegacy"}, {0x80000001, 'c', 5, true, "ABM"},
		{0x80000001, 'd', 29, true, "long mode"}, {0x8000000a, 'a', 0, false, "SVM leaf"}, {0x8000001f, 'a', 0, false, "SEV leaf"},
		{0x80000022, 'a', 0, false, "PerfMonV2"}, {0x80000026, 'a', 0, false, "host topology"},
	})
}

func TestCPUIDWithoutIRQChipHasNoX2APIC(t *testing.T) {
	checkBits(t, guestCPUID(intelHost(), guestCPU{count: 1, tscDeadline: true}), []bit{
		{1, 'c', 21, false, "x2APIC"}, {1, 'c', 24, false, "TSC_DEADLINE"}, {1, 'd', 28, false, "HTT"},
	})
}

func TestCPUIDTopologyIsOnePackageOfCores(t *testing.T) {
	for _, count := range []int{1, 2, 3, 4, 8, 255} {
		for _, id := range []int{0, count - 1} {
			g := guestCPU{id: id, count: count, irqchip: true}
			idBits := uint32(0)
			for 1<<idBits < count {
				idBits++
			}
			for name, host := range map[string][]CPUIDEntry{"Intel": intelHost(), "AMD": amdHost()} {
				got := guestCPUID(host, g)
				if e, _ := find(got, 1, 0); e.EBX>>24 != uint32(id) || e.EBX>>16&0xff != uint32(count) || e.EBX&0xffff != 0x0800 {
					t.Errorf("%s %d/%d: leaf 1 EBX = %#x", name, id, count, e.EBX)
				}
				thread, _ := find(got, 0xb, 0)
				core, _ := find(got, 0xb, 1)
				end, _ := find(got, 0xb, 2)
				if thread.EAX != 0 || thread.EBX != 1 || thread.ECX != 0x100 || thread.EDX != uint32(id) ||
					core.EAX != idBits || core.EBX != uint32(count) || core.ECX != 0x201 || core.EDX != uint32(id) ||
					end.EAX|end.EBX != 0 || end.ECX != 2 {
					t.Errorf("%s %d/%d: leaf 0xB = %+v, %+v, %+v", name, id, count, thread, core, end)
				}
			}
			amd := guestCPUID(amdHost(), g)
			if e, _ := find(amd, 0x80000008, 0); e.ECX != uint32(count-1)|idBits<<12 || e.EAX != 0x3030 {
				t.Errorf("AMD %d/%d: leaf 0x80000008 = %+v", id, count, e)
			}
			if e, _ := find(amd, 0x8000001e, 0); e.EAX != uint32(id) || e.EBX != uint32(id) || e.ECX != 0 {
				t.Errorf("AMD %d/%d: leaf 0x8000001E = %+v", id, count, e)
			}
			shared := (uint32(1)<<idBits - 1) << 14
			intel := guestCPUID(intelHost(), g)
			l1, _ := find(intel, 4, 0)
			l3, _ := find(intel, 4, 3)
			none, _ := find(intel, 4, 4)
			if cores := uint32(count-1) & 0x3f << 26; l1.EAX != 0x121|cores || l3.EAX != 0x163|shared|cores || none.EAX != 0 {
				t.Errorf("Intel %d/%d: leaf 4 = %#x, %#x, %#x", id, count, l1.EAX, l3.EAX, none.EAX)
			}
			l1, _ = find(amd, 0x8000001d, 0)
			l3, _ = find(amd, 0x8000001d, 3)
			if l1.EAX != 0x121 || l3.EAX != 0x163|shared {
				t.Errorf("AMD %d/%d: leaf 0x8000001D = %#x, %#x", id, count, l1.EAX, l3.EAX)
			}
		}
	}
}

func TestCPUIDTellsClocksAndHypervisor(t *testing.T) {
	g := guestCPU{count: 1, tscKHz: 2_594_582, irqchip: true, tscDeadline: true}
	got := guestCPUID(intelHost(), g)
	if e, _ := find(got, 0x40000000, 0); e.EAX != 0x40000010 || vendorName(CPUIDEntry{EBX: e.EBX, EDX: e.ECX, ECX: e.EDX}) != "KVMKVMKVM\x00\x00\x00" {
		t.Errorf("leaf 0x40000000 = %+v", e)
	}
	e, _ := find(got, 0x40000001, 0)
	if e.EAX&(1<<3) == 0 || e.EAX&(1<<24) == 0 || e.EAX&(1<<16|1<<17|1<<15) != 0 || e.EDX != 0 {
		t.Errorf("paravirtual features %#x/%#x: want kvmclock and its stable bit, nothing that needs userspace", e.EAX, e.EDX)
	}
	if e, _ := find(got, 0x40000010, 0); e.EAX != 2_594_582 || e.EBX != 1_000_000 {
		t.Errorf("frequencies = %d, %d kHz; want 2594582, 1000000", e.EAX, e.EBX)
	}
	if e, _ := find(got, 0x15, 0); uint64(e.ECX)*uint64(e.EBX)/uint64(e.EAX) != 2_594_582_000 {
		t.Errorf("leaf 0x15 = %+v, want 2594582 kHz", e)
	}
	if _, ok := find(guestCPUID(amdHost(), g), 0x15, 0); ok {
		t.Error("an AMD guest has leaf 0x15")
	}
	if e, ok := find(guestCPUID(intelHost(), guestCPU{count: 1, irqchip: true}), 0x15, 0); ok {
		t.Errorf("leaf 0x15 = %+v although the frequency is unknown", e)
	}
	if _, ok := find(got, 0x40000100, 0); ok {
		t.Error("a second hypervisor's leaves are let through")
	}
}

func TestCPUIDLeavesTheInputAlone(t *testing.T) {
	host := intelHost()
	guestCPUID(host, guestCPU{id: 1, count: 2, tscKHz: 1, irqchip: true})
	for i, e := range intelHost() {
		if host[i] != e {
			t.Errorf("entry %d changed to %+v", i, host[i])
		}
	}
}

func TestCPUIDCountIsChecked(t *testing.T) {
	for _, c := range [][2]int{{0, 0}, {0, -1}, {1, 1}, {3, 2}, {0, 256}} {
		var e *ArgumentError
		if err := checkCount("Setup", c[0], c[1]); !errors.As(err, &e) || e.Name != "count" {
			t.Errorf("vCPU %d of %d: %v, want an *ArgumentError", c[0], c[1], err)
		}
	}
	if err := checkCount("Setup", 254, 255); err != nil {
		t.Error(err)
	}
}
