//go:build linux && amd64

package kvm

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// expect runs code to HLT and compares what the Handler saw.
func expect(t *testing.T, code []byte, reply []byte, want []access) *rig {
	t.Helper()
	r := newRig(t, false, code)
	copy(r.ram.Bytes()[textGPA:], "hello")
	h := &recorder{reply: reply}
	r.runTo(t, h, ExitHLT)
	if got := h.accesses(); !slices.Equal(got, want) {
		t.Errorf("accesses\n got %v\nwant %v", got, want)
	}
	return r
}

func TestRunHandsOutAByte(t *testing.T) {
	expect(t, []byte{
		0xb0, 'A', //       mov al, 'A'
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee, //             out dx, al
		0xf4, //             hlt
	}, nil, []access{{"out", 0x3f8, "A"}})
}

func TestRunHandsOutWordAndDoubleWord(t *testing.T) {
	expect(t, []byte{
		0x66, 0xb8, 1, 2, 3, 4, // mov eax, 0x04030201
		0xe7, 0x10, //             out 0x10, ax
		0x66, 0xe7, 0x12, //       out 0x12, eax
		0xf4,
	}, nil, []access{{"out", 0x10, "\x01\x02"}, {"out", 0x12, "\x01\x02\x03\x04"}})
}

func TestRunGivesTheGuestWhatAReadAnswers(t *testing.T) {
	r := expect(t, []byte{
		0xe4, 0x60, // in al, 0x60
		0xe6, 0x61, // out 0x61, al
		0xf4,
	}, []byte{0x77}, []access{{"in", 0x60, "\x77"}, {"out", 0x61, "\x77"}})
	regs, err := r.cpu.Regs()
	if err != nil {
		t.Fatal(err)
	}
	if got := regs.RAX & 0xff; got != 0x77 {
		t.Errorf("al = %#x, want 0x77", got)
	}
}

func TestRunStepsThroughStringOutput(t *testing.T) {
	expect(t, []byte{
		0xfc,             // cld
		0xbe, 0x00, 0x20, // mov si, 0x2000
		0xb9, 0x05, 0x00, // mov cx, 5
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xf3, 0x6e, //       rep outsb
		0xf4,
	}, nil, []access{{"out", 0x3f8, "h"}, {"out", 0x3f8, "e"}, {"out", 0x3f8, "l"}, {"out", 0x3f8, "l"}, {"out", 0x3f8, "o"}})
}

func TestRunStepsThroughStringInput(t *testing.T) {
	r := expect(t, []byte{
		0xfc,             // cld
		0xbf, 0x00, 0x30, // mov di, 0x3000
		0xb9, 0x03, 0x00, // mov cx, 3
		0xba, 0x60, 0x00, // mov dx, 0x60
		0xf3, 0x6d, //       rep insw
		0xf4,
	}, []byte("abcdef"), []access{{"in", 0x60, "ab"}, {"in", 0x60, "cd"}, {"in", 0x60, "ef"}})
	if got := string(r.ram.Bytes()[0x3000:0x3006]); got != "abcdef" {
		t.Errorf("the guest read %q, want %q", got, "abcdef")
	}
}

func TestRunServesMMIO(t *testing.T) {
	expect(t, []byte{
		0xb8, 0x00, 0x80, //                   mov ax, 0x8000
		0x8e, 0xd8, //                         mov ds, ax
		0xc6, 0x06, 0x10, 0x00, 0x5a, //       mov byte [0x10], 0x5a
		0xc7, 0x06, 0x20, 0x00, 0x34, 0x12, // mov word [0x20], 0x1234
		0xa1, 0x40, 0x00, //                   mov ax, [0x40]
		0xe7, 0x10, //                         out 0x10, ax
		0xf4,
	}, []byte{0xcd, 0xab}, []access{
		{"store", mmioGPA + 0x10, "\x5a"}, {"store", mmioGPA + 0x20, "\x34\x12"},
		{"load", mmioGPA + 0x40, "\xcd\xab"}, {"out", 0x10, "\xcd\xab"},
	})
}

var (
	spin     = []byte{0xf3, 0x90, 0xeb, 0xfc} // l: pause; jmp l
	tight    = []byte{0xeb, 0xfe}             // jmp $
	pioStorm = []byte{0xe6, 0x80, 0xeb, 0xfc} // l: out 0x80, al; jmp l
	deadHLT  = []byte{0xfa, 0xf4}             // cli; hlt
)

// TestStopEndsAnyGuest stops guests that never end by themselves, at random moments:
// before Run, on its way in, inside the guest, in a Handler.
func TestStopEndsAnyGuest(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, c := range []struct {
		name    string
		code    []byte
		irqchip bool // HLT leaves the guest without one
		rounds  int
	}{{"tight loop", tight, false, 1000}, {"spin", spin, false, 300}, {"cli hlt", deadHLT, true, 300}, {"port storm", pioStorm, false, 300}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.irqchip, c.code)
			rounds := c.rounds
			if testing.Short() {
				rounds /= 10
			}
			var worst time.Duration
			for range rounds {
				done := start(r.cpu, noDevices{})
				for until := time.Now().Add(time.Duration(rnd.Int64N(int64(300 * time.Microsecond)))); time.Now().Before(until); {
					runtime.Gosched()
				}
				begin := time.Now()
				r.cpu.Stop()
				got := wait(t, done)
				worst = max(worst, time.Since(begin))
				if got.err != nil || got.exit.Reason != ExitStopped {
					t.Fatalf("Run = %v, %v; want stopped", got.exit.Reason, got.err)
				}
			}
			t.Logf("%d stops, the slowest took %v", rounds, worst)
		})
	}
}

func TestStopBeforeRunEndsTheNextRunOnly(t *testing.T) {
	r := newRig(t, false, []byte{0xe6, 0x80, 0xf4}) // out 0x80, al; hlt
	r.cpu.Stop()
	h := &recorder{}
	r.runTo(t, h, ExitStopped)
	if n := len(h.accesses()); n != 0 {
		t.Errorf("%d accesses before the stop, want 0", n)
	}
	r.runTo(t, h, ExitHLT)
	if n := len(h.accesses()); n != 1 {
		t.Errorf("%d accesses after the stop, want 1", n)
	}
}

// TestStopInAHandlerCompletesTheAccess pins what a snapshot needs: after ExitStopped the
// IN is done, with its answer in AL and RIP behind it.
func TestStopInAHandlerCompletesTheAccess(t *testing.T) {
	r := newRig(t, false, []byte{0xe4, 0x60, 0xf4}) // in al, 0x60; hlt
	h := &recorder{reply: []byte{0x42}, hook: func(access) { r.cpu.Stop() }}
	r.runTo(t, h, ExitStopped)
	regs, err := r.cpu.Regs()
	if err != nil {
		t.Fatal(err)
	}
	if regs.RAX&0xff != 0x42 || regs.RIP != codeGPA+2 {
		t.Errorf("al = %#x, rip = %#x; want 0x42, %#x", regs.RAX&0xff, regs.RIP, codeGPA+2)
	}
}

func TestKickLetsRunGoOn(t *testing.T) {
	r := newRig(t, false, pioStorm)
	seen := make(chan struct{}, 1)
	h := &recorder{hook: func(access) {
		select {
		case seen <- struct{}{}:
		default:
		}
	}}
	done := start(r.cpu, h)
	kicks := 100
	if testing.Short() {
		kicks /= 10
	}
	for range kicks {
		r.cpu.Kick()
		select {
		case <-seen:
		case got := <-done:
			t.Fatalf("Run returned after Kick: %v, %v", got.exit.Reason, got.err)
		case <-time.After(patience):
			t.Fatal("the guest does not go on after Kick")
		}
	}
	r.cpu.Stop()
	if got := wait(t, done); got.exit.Reason != ExitStopped {
		t.Fatalf("Run = %v, %v; want stopped", got.exit.Reason, got.err)
	}
}

// TestLeftoverImmediateExitCostsOneRound: a request can be taken before the one who made it
// has set immediate_exit. Run must not turn in circles then.
func TestLeftoverImmediateExitCostsOneRound(t *testing.T) {
	r := newRig(t, false, []byte{0xf4}) // hlt
	r.cpu.req.Or(immediateExit)
	r.runTo(t, noDevices{}, ExitHLT)
}

// TestConcurrentKicksAndStops: however requests of many goroutines fall together, each Run
// ends, and none ends without a Stop.
func TestConcurrentKicksAndStops(t *testing.T) {
	r := newRig(t, false, pioStorm)
	rounds := 100
	if testing.Short() {
		rounds /= 10
	}
	for range rounds {
		done := start(r.cpu, noDevices{})
		var askers sync.WaitGroup
		for range 4 {
			askers.Go(func() {
				for range 5 {
					r.cpu.Kick()
				}
			})
		}
		askers.Wait()
		select {
		case got := <-done:
			t.Fatalf("Run ended without a Stop: %v, %v", got.exit.Reason, got.err)
		default:
		}
		r.cpu.Stop()
		if got := wait(t, done); got.err != nil || got.exit.Reason != ExitStopped {
			t.Fatalf("Run = %v, %v; want stopped", got.exit.Reason, got.err)
		}
	}
}

func TestRunReportsTripleFaultAsShutdown(t *testing.T) {
	r := newRig(t, false, []byte{
		0xb8, 0xf8, 0xff, 0x00, 0x00, // mov eax, 0xfff8
		0x8e, 0xd8, //                   mov ds, ax: there is no such descriptor
	})
	s, err := r.cpu.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	// 32-bit protected mode without an IDT: the exception, its double fault and the
	// triple fault follow from one another.
	flat := Segment{Limit: 0xffffffff, Selector: 8, Type: 0xb, Present: 1, DB: 1, S: 1, G: 1}
	s.CS = flat
	flat.Selector, flat.Type = 16, 3
	s.DS, s.ES, s.SS, s.FS, s.GS = flat, flat, flat, flat, flat
	s.CR0 |= 1
	s.IDT = DTable{}
	s.GDT = DTable{}
	if err := r.cpu.SetSregs(s); err != nil {
		t.Fatal(err)
	}
	r.runTo(t, noDevices{}, ExitShutdown)
}

func TestRunReportsInternalErrorWithRegisters(t *testing.T) {
	r := newRig(t, false, []byte{
		0xb8, 0x34, 0x12, //             mov ax, 0x1234
		0xea, 0x00, 0x00, 0x00, 0x80, // jmp 0x8000:0, where no memory is
	})
	got := wait(t, start(r.cpu, noDevices{}))
	var e *ExitError
	if !errors.As(got.err, &e) {
		t.Fatalf("Run = %v, %v; want an *ExitError", got.exit.Reason, got.err)
	}
	if e.Reason != ExitInternalError || e.Suberror != 1 {
		t.Errorf("reason %v, suberror %d; want KVM_EXIT_INTERNAL_ERROR, 1", e.Reason, e.Suberror)
	}
	if e.Regs.RAX&0xffff != 0x1234 || e.Sregs.CS.Selector != 0x8000 {
		t.Errorf("ax = %#x, cs = %#x; want 0x1234, 0x8000", e.Regs.RAX&0xffff, e.Sregs.CS.Selector)
	}
	if msg := e.Error(); !strings.Contains(msg, "KVM_EXIT_INTERNAL_ERROR") || !strings.Contains(msg, "rip 0x0") {
		t.Errorf("message %q names neither the exit nor rip", msg)
	}
}

func TestHandlerPanicIsAnError(t *testing.T) {
	cause := errors.New("device is broken")
	r := newRig(t, false, pioStorm)
	h := &recorder{hook: func(access) { panic(cause) }}
	got := wait(t, start(r.cpu, h))
	var e *HandlerError
	if !errors.As(got.err, &e) {
		t.Fatalf("Run = %v, want a *HandlerError", got.err)
	}
	if e.Exit != ExitIO || !errors.Is(got.err, cause) || len(e.Stack) == 0 {
		t.Errorf("exit %v, error %v, %d bytes of stack; want KVM_EXIT_IO, the panic value, a stack", e.Exit, got.err, len(e.Stack))
	}
}

func TestHandlerFaultOnUnmappedMemoryIsAnError(t *testing.T) {
	r := newRig(t, false, pioStorm)
	gone, err := NewRAM(rigRAM)
	if err != nil {
		t.Fatal(err)
	}
	b := gone.Bytes()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	h := &recorder{hook: func(access) { b[0] = 1 }}
	got := wait(t, start(r.cpu, h))
	var fault runtime.Error
	if !errors.As(got.err, &fault) {
		t.Fatalf("Run = %v, want a *HandlerError with the runtime's error", got.err)
	}
}

func TestHandlerMayReadRegisters(t *testing.T) {
	r := newRig(t, false, []byte{0xe6, 0x80, 0xf4}) // out 0x80, al; hlt
	var regs Regs
	var err error
	h := &recorder{hook: func(access) { regs, err = r.cpu.Regs() }}
	r.runTo(t, h, ExitHLT)
	if err != nil || regs.RSP != 0x8000 {
		t.Errorf("Regs in a Handler = rsp %#x, %v; want 0x8000", regs.RSP, err)
	}
}

// TestMalformedExitDataIsRefused feeds the decoder what no kernel should write.
func TestMalformedExitDataIsRefused(t *testing.T) {
	type io struct {
		size   byte
		count  uint32
		offset uint64
	}
	for _, c := range []io{
		{0, 1, 0x1000}, {3, 1, 0x1000}, {8, 1, 0x1000}, {1, 1, 0}, {1, 1, 287}, {1, 1, 0x2000}, {1, 2, 0x1fff},
		{4, 0xffffffff, 0x1000}, {1, 1, ^uint64(0)}, {4, 1, ^uint64(3)}, {2, 0x801, 0x1000},
	} {
		cpu := fakeRun(0x2000)
		cpu.run[runIOSize] = c.size
		le32(cpu.run[runIOCount:], c.count)
		le32(cpu.run[runIODataOffset:], uint32(c.offset))
		le32(cpu.run[runIODataOffset+4:], uint32(c.offset>>32))
		var e *ExitError
		if err := cpu.serveIO(noDevices{}); !errors.As(err, &e) || e.Reason != ExitIO {
			t.Errorf("%+v: %v, want an *ExitError of KVM_EXIT_IO", c, err)
		}
	}
	for _, n := range []uint32{0, 9, 0xffffffff} {
		cpu := fakeRun(0x2000)
		le32(cpu.run[runMMIOLen:], n)
		var e *ExitError
		if err := cpu.serveMMIO(noDevices{}); !errors.As(err, &e) || e.Reason != ExitMMIO {
			t.Errorf("MMIO of %d bytes: %v, want an *ExitError of KVM_EXIT_MMIO", n, err)
		}
	}
	cpu := fakeRun(0x2000)
	cpu.run[runIOSize] = 2
	le32(cpu.run[runIOCount:], 0x800)
	le32(cpu.run[runIODataOffset:], 0x1000)
	if err := cpu.serveIO(noDevices{}); err != nil {
		t.Errorf("a whole page of data: %v, want no error", err)
	}
}

func TestFatalExitsNameWhatKVMTold(t *testing.T) {
	cpu := fakeRun(0x2000)
	le32(cpu.run[runSuberror:], 1)
	le32(cpu.run[runInternalCount:], 99) // more than the array holds
	cpu.run[runInsnFlags] = 1
	cpu.run[runInsnSize] = 200 // more than the array holds
	copy(cpu.run[runInsnBytes:], "\x0f\x0b")
	var e *ExitError
	if err := cpu.fatalExit(ExitInternalError); !errors.As(err, &e) {
		t.Fatal(err)
	}
	if len(e.Data) != 16 || len(e.Insn) != runInsnMax || e.Insn[1] != 0x0b {
		t.Errorf("%d words, instruction % x; want 16 words, 15 bytes from 0f 0b", len(e.Data), e.Insn)
	}
	for r := range Reason(len(exitNames) + 3) {
		if err := cpu.fatalExit(r); !errors.As(err, &e) || e.Reason != r || !strings.Contains(err.Error(), r.String()) {
			t.Errorf("exit %d: error %v does not name it", r, err)
		}
	}
}

// fakeRun is a vCPU that has nothing but a kvm_run area.
func fakeRun(size int) *VCPU {
	f := newFD(-1)
	_ = f.close()
	return &VCPU{fd: f, run: make([]byte, size)}
}

func le32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}
