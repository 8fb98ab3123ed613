//go:build linux && amd64

package kvm

import (
	"bytes"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what normally takes well under a millisecond:
// the tests also run in a VM whose hypervisor is itself emulated.
const patience = 5 * time.Minute

// open returns the host's KVM. Without one the test is skipped, or fails if
// HUTCH_REQUIRE_KVM=1 says that there has to be one.
func open(tb testing.TB) *System {
	tb.Helper()
	s, err := Open()
	if err != nil {
		if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
			tb.Fatalf("HUTCH_REQUIRE_KVM=1: %v", err)
		}
		tb.Skipf("needs KVM; run it in the lab (go run ./cmd/kvmlab -- go test ./kvm) or fix this: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Guest-physical layout of the payload machine: 64 KiB of RAM at 0, code at codeGPA. What
// lies above the RAM is MMIO.
const (
	rigRAM  = 64 << 10
	codeGPA = 0x1000
	textGPA = 0x2000
	mmioGPA = 0x80000
)

// rig is a machine of a few instructions in real mode, all segments at 0.
type rig struct {
	vm  *VM
	cpu *VCPU
	ram *RAM
}

func newRig(tb testing.TB, irqchip bool, code []byte) *rig {
	tb.Helper()
	s := open(tb)
	r, err := buildRig(s, irqchip, code)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// buildRig leaves nothing behind when it fails.
func buildRig(s *System, irqchip bool, code []byte) (r *rig, err error) {
	r = &rig{}
	defer func() {
		if err != nil {
			_ = r.close()
			r = nil
		}
	}()
	if r.ram, err = NewRAM(rigRAM); err != nil {
		return r, err
	}
	copy(r.ram.Bytes()[codeGPA:], code)
	if r.vm, err = s.CreateVM(); err != nil {
		return r, err
	}
	if err = r.vm.SetMemory(0, 0, r.ram.Bytes()); err != nil {
		return r, err
	}
	if err = r.vm.SetTSSAddr(probeTSS); err != nil {
		return r, err
	}
	if err = r.vm.SetIdentityMapAddr(probeTSS - 0x1000); err != nil {
		return r, err
	}
	if irqchip {
		if err = r.vm.CreateIRQChip(); err != nil {
			return r, err
		}
	}
	if r.cpu, err = r.vm.CreateVCPU(0); err != nil {
		return r, err
	}
	return r, r.cpu.setRealMode(Regs{RIP: codeGPA, RSP: 0x8000, RFLAGS: 2})
}

func (r *rig) close() error {
	if r.vm != nil {
		if err := r.vm.Close(); err != nil {
			return err
		}
	}
	if r.ram != nil {
		return r.ram.Close()
	}
	return nil
}

// result is what Run returned.
type result struct {
	exit Exit
	err  error
}

// start runs c on a thread of its own, which ends with the goroutine.
func start(c *VCPU, h Handler) <-chan result {
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		exit, err := c.Run(h)
		done <- result{exit, err}
	}()
	return done
}

// wait returns the result, or fails the test when it does not come.
func wait(tb testing.TB, done <-chan result) result {
	tb.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		tb.Fatal("Run did not return")
		return result{}
	}
}

// runTo runs the rig until it ends by itself with the wanted reason.
func (r *rig) runTo(tb testing.TB, h Handler, want Reason) {
	tb.Helper()
	got := wait(tb, start(r.cpu, h))
	if got.err != nil || got.exit.Reason != want {
		tb.Fatalf("Run = %v, %v; want %v", got.exit.Reason, got.err, want)
	}
}

// access is one call of a Handler.
type access struct {
	op   string
	addr uint64
	data string
}

// recorder notes all accesses, answers reads from reply (0xff when it is empty) and calls
// hook, if set, before it returns.
type recorder struct {
	mu    sync.Mutex
	log   []access
	reply []byte
	hook  func(access)
}

func (r *recorder) note(op string, addr uint64, p []byte, read bool) {
	r.mu.Lock()
	if read {
		fill(p)
		r.reply = r.reply[copy(p, r.reply):]
	}
	a := access{op, addr, string(bytes.Clone(p))}
	r.log = append(r.log, a)
	hook := r.hook
	r.mu.Unlock()
	if hook != nil {
		hook(a)
	}
}

func (r *recorder) PortIn(port uint16, p []byte)   { r.note("in", uint64(port), p, true) }
func (r *recorder) PortOut(port uint16, p []byte)  { r.note("out", uint64(port), p, false) }
func (r *recorder) MMIORead(gpa uint64, p []byte)  { r.note("load", gpa, p, true) }
func (r *recorder) MMIOWrite(gpa uint64, p []byte) { r.note("store", gpa, p, false) }

func (r *recorder) accesses() []access {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]access(nil), r.log...)
}
