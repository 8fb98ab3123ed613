//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holdings is what a process has of the things a VM takes.
type holdings struct {
	fds     int
	maps    int // mappings of guest RAM and kvm_run
	helpers int // KVM's own tasks in our thread group (kvm-nx-lpage-re, one per VM)
	threads int
}

func held(tb testing.TB) holdings {
	tb.Helper()
	// A pipe makes the Go runtime open its epoll descriptors, if it has not yet.
	pr, pw, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(pr.Close(), pw.Close()); err != nil {
		tb.Fatal(err)
	}
	var h holdings
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	h.fds = len(fds)
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "memfd:hutch-ram") || strings.Contains(line, "kvm-vcpu") {
			h.maps++
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil {
		tb.Fatal(err)
	}
	h.threads = len(tasks)
	for _, t := range tasks {
		if b, err := os.ReadFile(t); err == nil && strings.HasPrefix(string(b), "kvm-") {
			h.helpers++
		}
	}
	return h
}

// expectHeld waits for what the kernel gives back late (tasks end after the VM's fd is closed).
func expectHeld(t *testing.T, want holdings, slackThreads int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // nothing tells when a task of the kernel is gone
		got := held(t)
		if got.fds == want.fds && got.maps == want.maps && got.helpers == want.helpers && got.threads <= want.threads+slackThreads {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("holds %+v, held %+v before (up to %d more threads are the Go runtime's)", got, want, slackThreads)
		}
	}
}

func TestCreateAndCloseLeavesNothing(t *testing.T) {
	s := open(t)
	cycle := func() {
		r, err := buildRig(s, true, deadHLT)
		if err != nil {
			t.Fatal(err)
		}
		ap, err := r.vm.CreateVCPU(1)
		if err != nil {
			t.Fatal(err)
		}
		first, second := start(r.cpu, noDevices{}), start(ap, noDevices{})
		if err := r.close(); err != nil {
			t.Fatal(err)
		}
		wait(t, first)
		wait(t, second)
	}
	cycle() // the runtime's own threads and descriptors come into being
	before := held(t)
	cycles := 200
	if testing.Short() {
		cycles = 20
	}
	for range cycles {
		cycle()
	}
	expectHeld(t, before, 6)
}

func TestManyVMsAtOnceLeaveNothing(t *testing.T) {
	s := open(t)
	before := held(t)
	n := 16
	if testing.Short() {
		n = 4
	}
	var rigs []*rig
	var done []<-chan result
	for range n {
		r, err := buildRig(s, false, spin)
		if err != nil {
			t.Fatal(err)
		}
		rigs = append(rigs, r)
		done = append(done, start(r.cpu, noDevices{}))
	}
	for i, r := range rigs {
		if err := r.close(); err != nil {
			t.Fatal(err)
		}
		wait(t, done[i])
	}
	expectHeld(t, before, 8)
}

// TestFailedSetUpLeavesNothing lets each system call of the set-up fail in turn.
func TestFailedSetUpLeavesNothing(t *testing.T) {
	open(t)
	setUp := func() error {
		s, err := Open()
		if err != nil {
			return err
		}
		r, err := buildRig(s, true, spin)
		if err == nil {
			err = errors.Join(r.cpu.Setup(1), r.close())
		}
		return errors.Join(err, s.Close())
	}
	var calls atomic.Int64
	var failAt int64
	hook := func(op string) error {
		if calls.Add(1) == failAt {
			return &Error{Op: op, Errno: unix.ENOMEM, Kind: ErrLimit}
		}
		return nil
	}
	faultHook.Store(&hook)
	defer faultHook.Store(nil)
	if err := setUp(); err != nil {
		t.Fatal(err)
	}
	total := calls.Load()
	if total < 25 {
		t.Fatalf("only %d system calls pass the hook", total)
	}
	before := held(t)
	for failAt = 1; failAt <= total; failAt++ {
		calls.Store(0)
		err := setUp()
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrLimit) && !errors.Is(err, ErrNoKVM) {
			t.Errorf("system call %d of %d fails: %v, want an *Error", failAt, total, err)
		}
	}
	faultHook.Store(nil)
	expectHeld(t, before, 6)
}

func TestSignalsDoNotDisturbSetUp(t *testing.T) {
	s := open(t)
	vms := 100
	if testing.Short() {
		vms = 10
	}
	for i := range vms {
		// A burst, not a storm without end: where KVM_CREATE_VM is slow, it would never get through that.
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for range 100 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGURG)
				runtime.Gosched()
			}
		}()
		r, err := buildRig(s, true, spin)
		if err == nil {
			err = errors.Join(r.cpu.Setup(1), r.close())
		}
		<-sent
		if err != nil {
			t.Fatalf("VM %d: %v", i, err)
		}
	}
}

func TestRAMIsSealedGuardedAndOutOfCoreDumps(t *testing.T) {
	r, err := NewRAM(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := r.Bytes()
	if len(b) != 4<<20 || b[0] != 0 || b[len(b)-1] != 0 {
		t.Fatalf("%d bytes, want %d zeros", len(b), 4<<20)
	}
	start := hostAddress(b)
	if start%ramAlign != 0 {
		t.Errorf("mapped at %#x, want a multiple of 2 MiB", start)
	}
	for _, size := range []int64{0, 4096, 8 << 20} {
		if err := unix.Ftruncate(r.fd, size); !errors.Is(err, unix.EPERM) {
			t.Errorf("ftruncate to %d: %v, want EPERM", size, err)
		}
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	var low, high, flags string
	inRAM := false
	for line := range strings.Lines(string(smaps)) {
		var from, to uint64
		var perms string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perms); n == 3 && strings.Contains(line, "-") && len(perms) == 4 {
			inRAM = from == start
			if to == start && to-from >= ramGuard {
				low = perms
			}
			if from == start+4<<20 && to-from >= ramGuard {
				high = perms
			}
		}
		if inRAM && strings.HasPrefix(line, "VmFlags:") {
			flags = line
		}
	}
	if low != "---p" || high != "---p" {
		t.Errorf("guards have permissions %q and %q, want ---p", low, high)
	}
	if !strings.Contains(flags, " dd") {
		t.Errorf("flags %q lack dd (not in core dumps)", flags)
	}
}

func TestRAMRefusesBadSizes(t *testing.T) {
	before := held(t)
	for _, size := range []uint64{0, 1, 4095, 4097, maxRAM + 4096, ^uint64(0), ^uint64(4095)} {
		_, err := NewRAM(size)
		var e *ArgumentError
		if !errors.As(err, &e) || e.Value != size {
			t.Errorf("NewRAM(%#x) = %v, want an *ArgumentError with the size", size, err)
		}
	}
	// The largest size is the host's to grant or to refuse.
	if r, err := NewRAM(maxRAM); err == nil {
		err = r.Close()
		if err != nil {
			t.Error(err)
		}
	} else if !errors.Is(err, ErrLimit) {
		t.Errorf("NewRAM(64 TiB) = %v, want ErrLimit or success", err)
	}
	if got := held(t); got.fds != before.fds || got.maps != before.maps {
		t.Errorf("holds %+v, held %+v before", got, before)
	}
}

func TestRAMCloseIsIdempotent(t *testing.T) {
	r, err := NewRAM(4096)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if r.Bytes() != nil {
		t.Error("Bytes after Close is not nil")
	}
}
