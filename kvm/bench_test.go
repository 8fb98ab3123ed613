//go:build linux && amd64

package kvm

import (
	"runtime"
	"testing"
)

// BenchmarkPortExit is a round trip guest → Run → Handler → guest.
func BenchmarkPortExit(b *testing.B) {
	loop(b, []byte{0xe6, 0x80, 0x66, 0x49, 0x75, 0xfa, 0xf4}) // l: out 0x80, al; dec ecx; jnz l; hlt
}

// BenchmarkMMIOExit is the same for memory.
func BenchmarkMMIOExit(b *testing.B) {
	loop(b, storeLoop)
}

// BenchmarkIOEventFDExit is an exit that the kernel serves by itself: what a queue notification costs.
func BenchmarkIOEventFDExit(b *testing.B) {
	loop(b, storeLoop, func(r *rig) error { return r.vm.IOEventFD(mmioGPA+0x50, 0, nil, eventFD(b)) })
}

var storeLoop = []byte{
	0xb8, 0x00, 0x80, // mov ax, 0x8000
	0x8e, 0xd8, //       mov ds, ax
	0xa2, 0x50, 0x00, // l: mov [0x50], al
	0x66, 0x49, //       dec ecx
	0x75, 0xf9, //       jnz l
	0xf4,
}

// loop runs a guest that does something ECX times and halts.
func loop(b *testing.B, code []byte, prepare ...func(*rig) error) {
	r := newRig(b, false, code)
	for _, p := range prepare {
		if err := p(r); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.cpu.setRealMode(Regs{RIP: codeGPA, RCX: uint64(b.N), RFLAGS: 2}); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	exit, err := r.cpu.Run(noDevices{})
	b.StopTimer()
	if err != nil || exit.Reason != ExitHLT {
		b.Fatalf("Run = %v, %v", exit.Reason, err)
	}
}

// BenchmarkStop is the time from Stop to the return of Run, for a guest that spins.
func BenchmarkStop(b *testing.B) {
	r := newRig(b, false, spin)
	for b.Loop() {
		b.StopTimer()
		done := start(r.cpu, noDevices{})
		for r.cpu.phase.Load()%2 == 0 {
			runtime.Gosched()
		}
		b.StartTimer()
		r.cpu.Stop()
		<-done
	}
}

// BenchmarkCreateClose is a VM with RAM, irqchip and one vCPU, from nothing to nothing.
func BenchmarkCreateClose(b *testing.B) {
	s := open(b)
	for b.Loop() {
		r, err := buildRig(s, true, spin)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.close(); err != nil {
			b.Fatal(err)
		}
	}
}
