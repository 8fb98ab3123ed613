//go:build linux && amd64

package kvm

import (
	"bufio"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// readABI reads testdata/kvm_abi.tsv: rows of kind, name, number.
func readABI(t *testing.T) map[string]map[string]uintptr {
	t.Helper()
	f, err := os.Open("testdata/kvm_abi.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows := map[string]map[string]uintptr{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		col := strings.Split(sc.Text(), "\t")
		if len(col) != 3 {
			t.Fatalf("row %q has %d columns, want 3", sc.Text(), len(col))
		}
		n, err := strconv.ParseUint(col[2], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		if rows[col[0]] == nil {
			rows[col[0]] = map[string]uintptr{}
		}
		rows[col[0]][col[1]] = uintptr(n)
	}
	return rows
}

// same fails unless got and the rows of the table have the same names and numbers.
func same(t *testing.T, want, got map[string]uintptr) {
	t.Helper()
	for name, n := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%s: in the table, not in the package", name)
		} else if g != n {
			t.Errorf("%s = %#x, the kernel says %#x", name, g, n)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: in the package, not in the table: add it to testdata/abi.c", name)
		}
	}
}

func TestABIIoctlNumbersAreTheKernels(t *testing.T) {
	got := map[string]uintptr{}
	for _, r := range requests {
		got[r.name] = r.nr
	}
	same(t, readABI(t)["ioctl"], got)
}

func TestABICapabilitiesAreTheKernels(t *testing.T) {
	got := map[string]uintptr{}
	for c, name := range capNames {
		got[name] = uintptr(c)
	}
	same(t, readABI(t)["cap"], got)
}

func TestABIExitReasonsAreTheKernels(t *testing.T) {
	got := map[string]uintptr{}
	for i := range exitNames {
		got[Reason(i).String()] = uintptr(i)
	}
	// Newer than the header the table comes from.
	delete(got, "KVM_EXIT_LOONGARCH_IOCSR")
	delete(got, "KVM_EXIT_MEMORY_FAULT")
	same(t, readABI(t)["exit"], got)
	// The constants, typed once more from the header's text.
	for r, n := range map[Reason]uintptr{ExitUnknown: 0, ExitIO: 2, ExitDebug: 4, ExitHLT: 5, ExitMMIO: 6, ExitShutdown: 8,
		ExitFailEntry: 9, ExitIntr: 10, ExitInternalError: 17, ExitSystemEvent: 24, ExitX86RDMSR: 29, ExitNotify: 37, ExitMemoryFault: 39} {
		if uintptr(r) != n {
			t.Errorf("%v = %d, want %d", r, r, n)
		}
	}
	if got, want := Reason(99).String(), "KVM_EXIT_99"; got != want {
		t.Errorf("a reason beyond the table prints %q, want %q", got, want)
	}
}

func TestABIConstantsAreTheKernels(t *testing.T) {
	same(t, readABI(t)["const"], map[string]uintptr{
		"KVM_IRQFD_FLAG_DEASSIGN": irqFDDeassign, "KVM_IOEVENTFD_FLAG_DATAMATCH": ioEventFDDatamatch,
		"KVM_IOEVENTFD_FLAG_DEASSIGN": ioEventFDDeassign, "KVM_CPUID_FLAG_SIGNIFCANT_INDEX": CPUIDIndexed,
		"KVM_NR_IRQCHIPS": nrIRQChips, "KVM_EXIT_IO_IN": 0,
		"KVM_MP_STATE_RUNNABLE": uintptr(MPRunnable), "KVM_MP_STATE_UNINITIALIZED": uintptr(MPUninitialized),
		"KVM_MP_STATE_INIT_RECEIVED": uintptr(MPInitReceived), "KVM_MP_STATE_HALTED": uintptr(MPHalted),
		"KVM_MP_STATE_SIPI_RECEIVED": uintptr(MPSIPIReceived), "KVM_INTERNAL_ERROR_EMULATION": 1,
		"KVM_SYSTEM_EVENT_SHUTDOWN": uintptr(EventShutdown), "KVM_SYSTEM_EVENT_RESET": uintptr(EventReset),
		"KVM_SYSTEM_EVENT_CRASH": uintptr(EventCrash), "KVM_SYSTEM_EVENT_WAKEUP": uintptr(EventWakeup),
		"KVM_SYSTEM_EVENT_SUSPEND": uintptr(EventSuspend), "KVM_SYSTEM_EVENT_SEV_TERM": uintptr(EventSEVTerm),
	})
}

func TestABIStructSizesAreTheKernels(t *testing.T) {
	got := map[string]uintptr{"kvm_xsave": sizeofXSAVE, "kvm_cpuid2": sizeofCPUIDHeader,
		"kvm_msrs": sizeofMSRsHeader, "kvm_msr_list": sizeofMSRListHeader}
	for name, v := range abiStructs {
		got[name] = reflect.TypeOf(v).Size()
	}
	same(t, readABI(t)["sizeof"], got)
}

var abiStructs = map[string]any{
	"kvm_regs": Regs{}, "kvm_segment": Segment{}, "kvm_dtable": DTable{}, "kvm_sregs": Sregs{}, "kvm_fpu": FPU{},
	"kvm_msr_entry": MSR{}, "kvm_lapic_state": LAPIC{}, "kvm_mp_state": MPState(0), "kvm_xcr": XCR{}, "kvm_xcrs": XCRs{},
	"kvm_vcpu_events": VCPUEvents{}, "kvm_debugregs": DebugRegs{}, "kvm_clock_data": Clock{}, "kvm_cpuid_entry2": CPUIDEntry{},
	"kvm_userspace_memory_region": memoryRegion{}, "kvm_irq_level": irqLevel{}, "kvm_irqchip": IRQChipState{},
	"kvm_irqfd": irqFD{}, "kvm_ioeventfd": ioEventFD{},
}

// goField is the Go name of a kernel field where the rule (same letters, any case, no
// underscores) does not lead to it.
var goField = map[string]string{
	"kvm_clock_data.realtime": "Realtime", "kvm_userspace_memory_region.guest_phys_addr": "gpa",
	"kvm_userspace_memory_region.memory_size": "size", "kvm_userspace_memory_region.userspace_addr": "hva",
	"kvm_irqchip.chip": "Data", "kvm_ioeventfd.len": "length", "kvm_xcrs.xcrs": "Regs",
}

func TestABIFieldOffsetsAreTheKernels(t *testing.T) {
	got := map[string]uintptr{
		"kvm_run.immediate_exit": runRequests + 1, "kvm_run.exit_reason": runExitReason, "kvm_run.hw": runUnion,
		"kvm_run.kvm_valid_regs": runUnion + runUnionSize, "kvm_run.io.direction": runIODirection,
		"kvm_run.io.size": runIOSize, "kvm_run.io.port": runIOPort, "kvm_run.io.count": runIOCount,
		"kvm_run.io.data_offset": runIODataOffset, "kvm_run.mmio.phys_addr": runMMIOAddr, "kvm_run.mmio.data": runMMIOData,
		"kvm_run.mmio.len": runMMIOLen, "kvm_run.mmio.is_write": runMMIOIsWrite,
		"kvm_run.fail_entry.hardware_entry_failure_reason": runHardwareReason, "kvm_run.ex.exception": runHardwareReason,
		"kvm_run.internal.suberror": runSuberror, "kvm_run.internal.ndata": runInternalCount,
		"kvm_run.internal.data": runInternalData, "kvm_run.emulation_failure.flags": runInsnFlags,
		"kvm_run.emulation_failure.insn_size": runInsnSize, "kvm_run.emulation_failure.insn_bytes": runInsnBytes,
		"kvm_run.system_event.type": runEventType, "kvm_run.system_event.ndata": runEventCount,
		"kvm_run.system_event.data": runEventData,
	}
	want := readABI(t)["offset"]
	for name := range want {
		strct, field, _ := strings.Cut(name, ".")
		v, ok := abiStructs[strct]
		if !ok {
			continue
		}
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Name == goField[name] || goField[name] == "" && strings.EqualFold(f.Name, strings.ReplaceAll(field, "_", "")) {
				got[name] = f.Offset
			}
		}
	}
	same(t, want, got)
}
