//go:build linux && amd64

package kvm

import (
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func eventFD(tb testing.TB) int {
	tb.Helper()
	n, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(n) })
	return n
}

// takeEvents reads and clears the eventfd's counter.
func takeEvents(t *testing.T, fd int) uint64 {
	t.Helper()
	var b [8]byte
	if _, err := unix.Read(fd, b[:]); err == unix.EAGAIN {
		return 0
	} else if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

func signal(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestIOEventFDTakesTheWriteAndMatchesTheValue(t *testing.T) {
	r := newRig(t, false, []byte{
		0xb8, 0x00, 0x80, //                   mov ax, 0x8000
		0x8e, 0xd8, //                         mov ds, ax
		0xc7, 0x06, 0x50, 0x00, 0x01, 0x00, // mov word [0x50], 1
		0xc7, 0x06, 0x50, 0x00, 0x02, 0x00, // mov word [0x50], 2
		0xc7, 0x06, 0x50, 0x00, 0x01, 0x00, // mov word [0x50], 1
		0xf4,
	})
	fd, any := eventFD(t), eventFD(t)
	one := uint64(1)
	if err := r.vm.IOEventFD(mmioGPA+0x50, 2, &one, fd); err != nil {
		t.Fatal(err)
	}
	h := &recorder{}
	r.runTo(t, h, ExitHLT)
	if n := takeEvents(t, fd); n != 2 {
		t.Errorf("%d events for the value 1, want 2", n)
	}
	if got := h.accesses(); len(got) != 1 || got[0].data != "\x02\x00" {
		t.Errorf("the Handler saw %v, want the write of 2 only", got)
	}
	if err := r.vm.RemoveIOEventFD(mmioGPA+0x50, 2, &one, fd); err != nil {
		t.Fatal(err)
	}
	if err := r.vm.IOEventFD(mmioGPA+0x50, 0, nil, any); err != nil {
		t.Fatal(err)
	}
	if err := r.cpu.setRealMode(Regs{RIP: codeGPA, RFLAGS: 2}); err != nil {
		t.Fatal(err)
	}
	r.runTo(t, h, ExitHLT)
	if n, m := takeEvents(t, fd), takeEvents(t, any); n != 0 || m != 3 {
		t.Errorf("%d events on the removed eventfd, %d on the one for any value; want 0, 3", n, m)
	}
}

// irqEcho programs the PIC, then reports every interrupt of line 5 as a write of 'I' to port 0x10.
var irqEcho = []byte{
	0xfa,                               //       cli
	0xc7, 0x06, 0x94, 0x00, 0x35, 0x10, //                   mov word [0x25*4], handler
	0xc7, 0x06, 0x96, 0x00, 0x00, 0x00, //                   mov word [0x25*4+2], 0
	0xb0, 0x11, 0xe6, 0x20, //                               ICW1: edge-triggered, cascade, ICW4 follows
	0xb0, 0x20, 0xe6, 0x21, //                               ICW2: vectors from 0x20
	0xb0, 0x04, 0xe6, 0x21, //                               ICW3: slave on line 2
	0xb0, 0x01, 0xe6, 0x21, //                               ICW4: 8086 mode
	0xb0, 0xdf, 0xe6, 0x21, //                               all masked but line 5
	0xb0, 'R', 0xe6, 0x10, //                                mov al, 'R'; out 0x10, al
	0xfb,       //                                     1025: sti
	0xf4,       //                                           hlt
	0xeb, 0xfd, //                                           jmp to the hlt
	0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // padding up to 1035
	0xb0, 0x20, 0xe6, 0x20, //                         1035: end of interrupt
	0xb0, 'I', 0xe6, 0x10, //                                mov al, 'I'; out 0x10, al
	0xcf, //                                                 iret
}

func TestIRQFDInterruptsTheGuest(t *testing.T) {
	r := newRig(t, true, irqEcho)
	fd := eventFD(t)
	if err := r.vm.IRQFD(5, fd); err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 16)
	h := &recorder{hook: func(a access) { seen <- a.data }}
	done := start(r.cpu, h)
	next := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Fatalf("the guest reports %q, want %q", got, want)
			}
		case got := <-done:
			t.Fatalf("Run ended early: %v, %v", got.exit.Reason, got.err)
		case <-time.After(patience):
			t.Fatalf("the guest does not report %q", want)
		}
	}
	next("R")
	for range 10 {
		signal(t, fd)
		next("I")
	}
	// The same line by hand.
	if err := errors.Join(r.vm.IRQLine(5, true), r.vm.IRQLine(5, false)); err != nil {
		t.Fatal(err)
	}
	next("I")
	if err := r.vm.RemoveIRQFD(5, fd); err != nil {
		t.Fatal(err)
	}
	signal(t, fd)
	if err := errors.Join(r.vm.IRQLine(5, true), r.vm.IRQLine(5, false)); err != nil {
		t.Fatal(err)
	}
	next("I") // from the line; the removed eventfd adds none
	r.cpu.Stop()
	if got := wait(t, done); got.exit.Reason != ExitStopped {
		t.Fatalf("Run = %v, %v; want stopped", got.exit.Reason, got.err)
	}
	if n := len(seen); n != 0 {
		t.Errorf("%d interrupts of the removed eventfd", n)
	}
}

// TestSecondVCPUStartsByIPI: the application processor waits inside Run for INIT and SIPI
// of the first one, and can be stopped before as well as after.
func TestSecondVCPUStartsByIPI(t *testing.T) {
	r := newRig(t, true, []byte{
		0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00, // mov dword [0xf0], 0x1ff: the APIC sends only if it is on
		0x66, 0xc7, 0x06, 0x10, 0x03, 0, 0, 0, 1, //             mov dword [0x310], 1<<24: to APIC 1
		0x66, 0xc7, 0x06, 0x00, 0x03, 0x00, 0x45, 0x00, 0x00, // mov dword [0x300], 0x4500: INIT
		0x66, 0xc7, 0x06, 0x00, 0x03, 0x02, 0x46, 0x00, 0x00, // mov dword [0x300], 0x4602: SIPI to 0x2000
		0xf4, 0xeb, 0xfd, //                                      l: hlt; jmp l
	})
	copy(r.ram.Bytes()[textGPA:], []byte{0xb0, 'P', 0xe6, 0x10, 0xf4, 0xeb, 0xfd}) // out 0x10, 'P'; l: hlt; jmp l
	ap, err := r.vm.CreateVCPU(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*VCPU{r.cpu, ap} {
		if err := c.Setup(2); err != nil {
			t.Fatal(err)
		}
	}
	s, err := r.cpu.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	s.DS.Base = 0xfee00000 // real mode does not reach the APIC otherwise
	if err := r.cpu.SetSregs(s); err != nil {
		t.Fatal(err)
	}
	if m, err := ap.MPState(); err != nil || m != MPUninitialized {
		t.Fatalf("the second vCPU starts in state %d, %v; want %d", m, err, MPUninitialized)
	}

	seen := make(chan string, 4)
	h := &recorder{hook: func(a access) { seen <- a.data }}
	done := start(ap, h)
	ap.Stop()
	if got := wait(t, done); got.err != nil || got.exit.Reason != ExitStopped {
		t.Fatalf("a waiting vCPU: Run = %v, %v; want stopped", got.exit.Reason, got.err)
	}
	done = start(ap, h)
	bsp := start(r.cpu, h)
	select {
	case got := <-seen:
		if got != "P" {
			t.Fatalf("the second vCPU says %q, want P", got)
		}
	case got := <-done:
		t.Fatalf("its Run ended early: %v, %v", got.exit.Reason, got.err)
	case got := <-bsp:
		t.Fatalf("the first vCPU's Run ended early: %v, %v", got.exit.Reason, got.err)
	case <-time.After(patience):
		t.Fatal("the second vCPU does not start")
	}
	if err := r.vm.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []<-chan result{done, bsp} {
		if got := wait(t, d); got.err != nil || got.exit.Reason != ExitStopped {
			t.Errorf("Run after VM.Close = %v, %v; want stopped", got.exit.Reason, got.err)
		}
	}
}

func TestBadArgumentsAreNamed(t *testing.T) {
	r := newRig(t, true, spin)
	b := r.ram.Bytes()
	match := uint64(1)
	for name, err := range map[string]error{
		"gpa":              r.vm.SetMemory(1, 0x100001, b),
		"length of host":   r.vm.SetMemory(1, 0x100000, b[:4095]),
		"address of host":  r.vm.SetMemory(1, 0x100000, b[1:4097]),
		"fd":               r.vm.IRQFD(5, -1),
		"length":           r.vm.IOEventFD(mmioGPA, 3, nil, 0),
		"number of":        r.cpu.SetCPUID(make([]CPUIDEntry, 257)),
		"id":               func() error { _, err := r.vm.CreateVCPU(255); return err }(),
		"count":            r.cpu.Setup(0),
		"MSR":              r.cpu.SetMSRs([]MSR{{Index: 0xffffffff}}),
		"length is 5":      r.cpu.SetXSAVE(make([]byte, 5)),
		"with a value":     r.vm.IOEventFD(mmioGPA, 0, &match, 0),
		"gpa is 0xfffffff": r.vm.SetMemory(1, 0xfffffffffffff000, b),
	} {
		var e *ArgumentError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: got %v, want an *ArgumentError that says so", name, err)
		}
	}
	if err := r.vm.SetMemory(1, 0x1000, b); !errors.Is(err, unix.EEXIST) {
		t.Errorf("overlapping slots: %v, want EEXIST in an *Error", err)
	}
	if err := r.vm.IRQFD(5, 1<<20); !errors.Is(err, unix.EBADF) {
		t.Errorf("IRQFD with a closed fd: %v, want EBADF", err)
	}
}

func TestMemorySlotCanBeRemoved(t *testing.T) {
	r := newRig(t, false, []byte{0xa0, 0x00, 0x20, 0xe6, 0x10, 0xf4}) // mov al, [0x2000]; out 0x10, al; hlt
	extra, err := NewRAM(rigRAM)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	if err := r.vm.SetMemory(1, 0x100000, extra.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := r.vm.SetMemory(1, 0x100000, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.vm.SetMemory(1, 0x100000, extra.Bytes()); err != nil {
		t.Fatalf("the slot is not free again: %v", err)
	}
	r.runTo(t, noDevices{}, ExitHLT)
}

func TestCloseEndsARunningVM(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		r := newRig(t, false, spin)
		done := start(r.cpu, noDevices{})
		runtime.Gosched()
		if err := r.vm.Close(); err != nil {
			t.Fatal(err)
		}
		got := wait(t, done)
		if got.exit.Reason != ExitStopped && !errors.Is(got.err, ErrClosed) {
			t.Fatalf("Run = %v, %v; want stopped or ErrClosed", got.exit.Reason, got.err)
		}
	}
}

func TestUseAfterCloseIsErrClosed(t *testing.T) {
	r := newRig(t, true, spin)
	sys := r.vm.sys
	for range 2 {
		if err := errors.Join(r.vm.Close(), r.cpu.Close()); err != nil {
			t.Fatal(err)
		}
	}
	_, runErr := r.cpu.Run(noDevices{})
	_, regsErr := r.cpu.Regs()
	_, cpuErr := r.vm.CreateVCPU(1)
	r.cpu.Stop()
	r.cpu.Kick()
	if err := sys.Close(); err != nil {
		t.Fatal(err)
	}
	_, vmErr := sys.CreateVM()
	for name, err := range map[string]error{
		"Run": runErr, "Regs": regsErr, "CreateVCPU": cpuErr, "CreateVM": vmErr, "SetMemory": r.vm.SetMemory(0, 0, nil),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
}

func TestCloseInAHandlerIsRefused(t *testing.T) {
	r := newRig(t, false, pioStorm)
	var vmErr, cpuErr error
	h := &recorder{hook: func(access) {
		vmErr, cpuErr = r.vm.Close(), r.cpu.Close()
		r.cpu.Stop()
	}}
	if got := wait(t, start(r.cpu, h)); got.exit.Reason != ExitStopped {
		t.Fatalf("Run = %v, %v; want stopped", got.exit.Reason, got.err)
	}
	if !errors.Is(vmErr, ErrInRun) || !errors.Is(cpuErr, ErrInRun) {
		t.Errorf("Close in a Handler: VM %v, vCPU %v; want ErrInRun", vmErr, cpuErr)
	}
}
