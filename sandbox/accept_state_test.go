//go:build linux && amd64

package sandbox

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limitLines are the names of the resource limits in /proc/PID/limits.
var limitLines = map[string]string{
	"as": "Max address space", "core": "Max core file size", "cpu": "Max cpu time", "data": "Max data size", "fsize": "Max file size",
	"locks": "Max file locks", "memlock": "Max locked memory", "msgqueue": "Max msgqueue size", "nice": "Max nice priority",
	"nofile": "Max open files", "nproc": "Max processes", "rss": "Max resident set", "rtprio": "Max realtime priority",
	"rttime": "Max realtime timeout", "sigpending": "Max pending signals", "stack": "Max stack size",
}

// acceptRlimitValues: all limits at once, seen from inside.
func acceptRlimitValues(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	var opts []ExecOption
	want := make(map[string]string)
	for i, name := range rlimitNames {
		soft, hard := uint64(4096+i), uint64(8192+i)
		switch name {
		case "nice", "rtprio":
			soft, hard = 0, 0 // the only value that needs no privilege anywhere
		case "nofile", "nproc", "locks", "sigpending":
			soft, hard = uint64(16+i), uint64(48+i)
		case "as", "data", "stack", "fsize", "rss":
			soft, hard = uint64(i+1)<<24, uint64(i+2)<<24
		}
		opts = append(opts, WithExecRlimit(name, soft, hard))
		want[name] = fmt.Sprint(soft, " ", hard)
	}
	for _, tty := range []bool{false, true} {
		if tty {
			opts = append(opts, WithExecTTY(24, 80))
		}
		h, err := sb.ExecStream(ctx, install(t, sb, "wait"), nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		res, err := sb.Exec(ctx, "cat", []string{fmt.Sprintf("/proc/%d/limits", h.PID())})
		h.Close()
		if err != nil || !res.Success() {
			t.Fatalf("%+v, %v", res, err)
		}
		for name, line := range limitLines {
			_, rest, found := strings.Cut(res.Stdout(), line)
			f := strings.Fields(rest)
			if !found || len(f) < 2 || f[0]+" "+f[1] != want[name] {
				t.Errorf("tty %v: %s is %.2q, want %s", tty, name, f[:min(2, len(f))], want[name])
			}
		}
	}
}

// Whether a core is dumped is the guest kernel's and the limit's to say, and is told either way.
func TestAcceptCoreDumpIsToldInAGuest(t *testing.T) {
	sb, ctx := shared.get(t), testContext(t)
	path := install(t, sb, "wait")
	if res, err := sb.Exec(ctx, "cat", []string{"/proc/sys/kernel/core_pattern"}); err != nil || strings.TrimSpace(res.Stdout()) != "core" {
		t.Fatalf("this test needs the kernel's default core_pattern: %+v, %v", res, err)
	}
	for _, tc := range []struct {
		limit uint64
		sig   syscall.Signal
		core  bool
	}{
		{RlimitInfinity, syscall.SIGQUIT, true}, {RlimitInfinity, syscall.SIGSEGV, true}, {RlimitInfinity, syscall.SIGTERM, false}, {RlimitInfinity, syscall.SIGKILL, false}, {0, syscall.SIGQUIT, false},
	} {
		h, err := sb.ExecStream(ctx, path, nil, WithExecRlimit("core", tc.limit, tc.limit), WithExecCwd("/tmp"))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Signal(ctx, tc.sig, SignalProcess); err != nil {
			t.Fatal(err)
		}
		res, err := h.Wait(ctx)
		if err != nil || res.State().Signal() != tc.sig || res.State().CoreDump() != tc.core || res.ShellExitCode() != 128+int(tc.sig) || strings.Contains(res.State().String(), "core dumped") != tc.core {
			t.Errorf("%v with core=%d: %v, core %v, %v; want core %v", tc.sig, tc.limit, res.State(), res.State().CoreDump(), err, tc.core)
		}
		h.Close()
		res, err = sb.Shell(ctx, "head -c 4 /tmp/core; rm /tmp/core")
		if got := "\x7fELF"; err != nil || (res.Stdout() == got) != tc.core {
			t.Errorf("%v with core=%d: the core begins with %q, %v", tc.sig, tc.limit, res.Stdout(), err)
		}
	}
}

// The numbers of what a command used are its own: a command that touches 64 MiB has them, one that does nothing has not.
func TestAcceptMemoryAndTimesArePlausibleInAGuest(t *testing.T) {
	sb, ctx := shared.get(t), testContext(t)
	big, err := sb.Exec(ctx, install(t, sb, "hog"), nil)
	if err != nil || !big.Success() {
		t.Fatalf("%v, %v", big.State(), err)
	}
	small, err := sb.Exec(ctx, install(t, sb, "hi"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if rss := big.State().Usage().MaxRSS; rss < 64<<20 || rss > 72<<20 {
		t.Errorf("64 MiB touched: MaxRSS %d", rss)
	}
	if rss := small.State().Usage().MaxRSS; rss > 8<<20 {
		t.Errorf("nothing touched: MaxRSS %d", rss)
	}
	if big.State().Usage().MinFlt < 64<<20>>12 {
		t.Errorf("64 MiB touched: %d page faults", big.State().Usage().MinFlt)
	}
	begin := time.Now()
	res, err := sb.Exec(ctx, install(t, sb, "wait"), nil, WithExecTimeout(time.Second))
	if err == nil || res.State() == nil {
		t.Fatal(res, err)
	}
	if s := res.State(); s.WallTime() < time.Second || s.WallTime() > time.Since(begin)+100*time.Millisecond || s.UserTime()+s.SystemTime() > s.WallTime()/2 {
		t.Errorf("asleep for a second: wall %v of %v, user %v, system %v", s.WallTime(), time.Since(begin), s.UserTime(), s.SystemTime())
	}
}

// A SIGKILL of the command's own making within a memory limit is no lack of memory, and a child's death for want of memory is told.
func TestAcceptLackOfMemoryIsToldApartInAGuest(t *testing.T) {
	sb, ctx := shared.get(t), testContext(t)
	limit := WithExecLimits(Limits{Memory: 48 << 20})
	h, err := sb.ExecStream(ctx, install(t, sb, "wait"), nil, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Signal(ctx, syscall.SIGKILL, SignalProcess); err != nil {
		t.Fatal(err)
	}
	if res, err := h.Wait(ctx); err != nil || res.State().OOMKilled() || res.State().Signal() != syscall.SIGKILL || res.State().String() != "signal: killed" {
		t.Errorf("killed within its memory: %v, OOM %v, %v", res.State(), res.State().OOMKilled(), err)
	}
	// The shell itself has enough; which of the two is killed is the kernel's choice.
	res, err := sb.Shell(ctx, install(t, sb, "hog")+"; exit 3", limit)
	if err != nil || !res.State().OOMKilled() || res.Success() {
		t.Errorf("a child beyond the memory: %v, OOM %v, %v", res.State(), res.State().OOMKilled(), err)
	}
}
