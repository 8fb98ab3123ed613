//go:build linux && amd64

package kvm

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
)

// TestStateMovesARunningGuest stops a counting guest, moves its state through an encoder
// into a second VM, and lets it count on there.
func TestStateMovesARunningGuest(t *testing.T) {
	count := []byte{0x66, 0x40, 0x66, 0xe7, 0x10, 0xeb, 0xf9} // l: inc eax; out 0x10, eax; jmp l
	a := newRig(t, true, count)
	if err := a.cpu.Setup(1); err != nil {
		t.Fatal(err)
	}
	stopAfter := func(c *VCPU, n int) *recorder {
		return &recorder{hook: func(access) {
			if n--; n == 0 {
				c.Stop()
			}
		}}
	}
	h := stopAfter(a.cpu, 5)
	a.runTo(t, h, ExitStopped)
	if got := h.accesses(); len(got) != 5 || got[4].data != "\x05\x00\x00\x00" {
		t.Fatalf("the guest counted %v, want to 5", got)
	}
	cpu, err := a.cpu.State()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := a.vm.State()
	if err != nil {
		t.Fatal(err)
	}
	if len(vm.IRQChips) != 3 || cpu.LAPIC == nil || len(cpu.MSRs) < 10 || len(cpu.XSAVE) < 4096 || len(cpu.CPUID) < 10 {
		t.Fatalf("incomplete: %d irqchips, LAPIC %v, %d MSRs, %d bytes of XSAVE, %d CPUID leaves",
			len(vm.IRQChips), cpu.LAPIC != nil, len(cpu.MSRs), len(cpu.XSAVE), len(cpu.CPUID))
	}
	var cpu2 VCPUState
	var vm2 VMState
	for _, v := range []struct{ from, to any }{{cpu, &cpu2}, {vm, &vm2}} {
		enc, err := json.Marshal(v.from)
		if err == nil {
			err = json.Unmarshal(enc, v.to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	b := newRig(t, true, count)
	if err := errors.Join(b.vm.SetState(vm2), b.cpu.SetState(cpu2)); err != nil {
		t.Fatal(err)
	}
	again, err := b.cpu.State()
	if err != nil {
		t.Fatal(err)
	}
	if again.Regs != cpu.Regs || again.Sregs != cpu.Sregs || again.XCRs != cpu.XCRs || !slices.Equal(again.XSAVE, cpu.XSAVE) {
		t.Errorf("registers changed on the way:\n%+v\n%+v", again.Regs, cpu.Regs)
	}
	h = stopAfter(b.cpu, 1)
	b.runTo(t, h, ExitStopped)
	if got := h.accesses(); got[0].data != "\x06\x00\x00\x00" {
		t.Errorf("the second machine goes on with %q, want 6", got[0].data)
	}
	clock, err := b.vm.Clock()
	if err != nil {
		t.Fatal(err)
	}
	if clock.Nanos < vm.Clock.Nanos {
		t.Errorf("kvmclock went back from %d to %d ns", vm.Clock.Nanos, clock.Nanos)
	}
}

func TestRegisterAccessRoundTrips(t *testing.T) {
	r := newRig(t, true, spin)
	regs := Regs{RAX: 1, RBX: 2, RCX: 3, RDX: 4, RSI: 5, RDI: 6, RSP: 7, RBP: 8, R8: 9, R9: 10, R10: 11, R11: 12,
		R12: 13, R13: 14, R14: 15, R15: 16, RIP: 17, RFLAGS: 2}
	if err := r.cpu.SetRegs(regs); err != nil {
		t.Fatal(err)
	}
	if got, err := r.cpu.Regs(); err != nil || got != regs {
		t.Errorf("Regs = %+v, %v; want %+v", got, err, regs)
	}
	fpu, err := r.cpu.FPU()
	if err != nil {
		t.Fatal(err)
	}
	fpu.XMM[3] = [16]byte{1, 2, 3}
	if err := r.cpu.SetFPU(fpu); err != nil {
		t.Fatal(err)
	}
	if got, err := r.cpu.FPU(); err != nil || got.XMM[3] != fpu.XMM[3] || got.MXCSR != fpu.MXCSR {
		t.Errorf("FPU = %+v, %v; want %+v", got, err, fpu)
	}
	const sysenterEIP, bogus = 0x176, 0xdeadbeef
	if err := r.cpu.SetMSRs([]MSR{{Index: sysenterEIP, Data: 0x1234}}); err != nil {
		t.Fatal(err)
	}
	got, err := r.cpu.MSRs([]uint32{bogus, sysenterEIP, bogus})
	if err != nil || len(got) != 1 || got[0].Index != sysenterEIP || got[0].Data != 0x1234 {
		t.Errorf("MSRs = %+v, %v; want SYSENTER_EIP = 0x1234 alone", got, err)
	}
}
