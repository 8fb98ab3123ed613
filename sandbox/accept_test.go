//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// acceptTests is the acceptance list of the exec contract. Each runs against an agent in this process and, where a guest can run, in a guest.
var acceptTests = []struct {
	name string
	run  func(*testing.T, *Sandbox)
}{
	{"NilStdinIsEndOfFileAtOnce", acceptNilStdin},
	{"StdinThatIsNotReadDisturbsNobody", acceptUnreadStdin},
	{"EverySizeIsExactBothWays", acceptSizes},
	{"EveryByteValueIsExact", acceptBytes},
	{"ShortCommandsInParallelAreExact", acceptShort},
	{"OrphanHoldsThePipeAndTheExitIsToldAtOnce", acceptOrphan},
	{"KillReachesWhoLeftTheSession", acceptKillTree},
	{"DeafCommandIsKilledAfterGraceWithItsOutput", acceptDeaf},
	{"StartFailuresAreTheSameOnATerminal", acceptStartFailures},
	{"SignalDeathIsTold", acceptSignals},
	{"EveryRlimitNameIsTaken", acceptRlimits},
	{"BlockedWriterHoldsOnlyItself", acceptBlockedWriter},
	{"OrphanedChildrenLeaveNoZombies", acceptNoZombies},
	{"UsageAndTotalsAreTold", acceptUsage},
	{"TerminalHasItsSizeAtTheFirstInstruction", acceptTTYSize},
	{"TerminalKeysSignal", acceptTTYKeys},
	{"TerminalNeverLosesTheLastLine", acceptTTYLastLine},
	{"SlowFollowerHoldsNobody", acceptSlowFollower},
	{"EveryStartFailureHasItsOwnError", acceptDistinctFailures},
	{"EveryRlimitIsSetAsAsked", acceptRlimitValues},
	{"ClosingAHandleKillsTheOrphanThatHoldsItsOutput", acceptOrphanOfAClosedHandle},
	{"ManyBlockedWritersAreBoundedAndHoldNobody", acceptBlockedWriters},
	{"TerminalStopsAndContinuesAJob", acceptTTYStop},
	{"TerminalEndOfFileEndsOneReader", acceptTTYEndOfFile},
	{"TenMebibytesWhileDetachedAreExact", acceptDetachedOutput},
	{"OneSlowFollowerOfFive", acceptFiveFollowers},
	{"TerminalIsLeftAndComesBackWithItsScreenAndSize", acceptTTYSession},
}

func TestAcceptance(t *testing.T) {
	for _, tc := range acceptTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, agentSandbox(t)) })
	}
}

func TestAcceptanceInAGuest(t *testing.T) {
	sb := shared.get(t)
	for _, tc := range acceptTests {
		t.Run(tc.name, func(t *testing.T) {
			begin := time.Now()
			tc.run(t, sb)
			t.Logf("%v", time.Since(begin))
		})
	}
}

// inParallel calls f with 0 to n-1 from a number of goroutines, and returns when all calls have.
func inParallel(goroutines, n int, f func(i int)) {
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range jobs {
				f(i)
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
}

func acceptNilStdin(t *testing.T, sb *Sandbox) {
	res, err := sb.Exec(testContext(t), "cat", nil)
	if err != nil || res.Stdout() != "" || res.ExitCode() != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
}

func acceptUnreadStdin(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	c := sb.Command(ctx, install(t, sb, "wait"))
	c.Stdin = bytes.NewReader(make([]byte, 10<<20))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if res, err := sb.Exec(ctx, "cat", nil, WithExecStdin(strings.NewReader(fmt.Sprint(i)))); err != nil || res.Stdout() != fmt.Sprint(i) {
			t.Fatalf("beside it: %+v, %v", res, err)
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var ee *ExitError
	if err := c.Wait(); !errors.As(err, &ee) || ee.Signal() != syscall.SIGKILL {
		t.Fatalf("Wait = %v", err)
	}
}

// pattern is a reader of n bytes that repeat after a prime number of them.
type pattern struct {
	n, at int64
	h     hash.Hash
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.n-p.at))
	for i := range n {
		b[i] = byte((p.at + int64(i)) % 251)
	}
	p.at += int64(n)
	p.h.Write(b[:n])
	return n, nil
}

func acceptSizes(t *testing.T, sb *Sandbox) {
	for _, n := range []int64{0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, 4<<20 - 1, 4 << 20, 4<<20 + 1} {
		in, out := &pattern{n: n, h: sha256.New()}, sha256.New()
		c := sb.Command(testContext(t), "cat")
		c.Stdin, c.Stdout = in, out
		if err := c.Run(); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got := c.ProcessState.Totals(); got.Stdin != n || got.Stdout != n || !bytes.Equal(in.h.Sum(nil), out.Sum(nil)) {
			t.Errorf("%d bytes: totals %+v, sums %x and %x", n, got, in.h.Sum(nil), out.Sum(nil))
		}
	}
}

func acceptBytes(t *testing.T, sb *Sandbox) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	res, err := sb.Exec(testContext(t), "cat", nil, WithExecStdin(bytes.NewReader(all)))
	if err != nil || !bytes.Equal(res.StdoutBytes(), all) || res.Stdout() != string(all) {
		t.Errorf("%q, %v", res.StdoutBytes(), err)
	}
	// In the arguments and the environment too, all but NUL, and as the terminal's raw output.
	arg := string(all[1:])
	res, err = sb.Exec(testContext(t), "printenv", []string{"X"}, WithExecEnv(map[string]string{"X": arg}))
	if err != nil || res.Stdout() != arg+"\n" {
		t.Errorf("environment: %q, %v", res.Stdout(), err)
	}
}

func acceptShort(t *testing.T, sb *Sandbox) {
	path, ctx := install(t, sb, "hi"), testContext(t)
	inParallel(64, soak(1000, 5000), func(i int) {
		if res, err := sb.Exec(ctx, path, nil); err != nil || res.Stdout() != "hi\n" || res.Stderr() != "" || res.ExitCode() != 5 {
			t.Errorf("command %d: %+v, %v", i, res, err)
		}
	})
}

func acceptOrphan(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	for _, args := range [][]string{{"sh", "-c", "echo hi; sleep 300 & echo; exit 0"}, {install(t, sb, "holder")}} {
		c := sb.Command(ctx, args[0], args[1:]...)
		c.WaitDelay = 300 * time.Millisecond
		var out bytes.Buffer
		c.Stdout = &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.proc.p.Exited():
		case <-ctx.Done():
			t.Fatal("the exit is not told")
		}
		// The guest's shell takes its background jobs with it: then nobody holds the pipe.
		if err := c.Wait(); err != ErrWaitDelay && (err != nil || args[0] != "sh") || !strings.HasPrefix(out.String(), "hi\n") || !c.ProcessState.Success() {
			t.Errorf("%q: %q, %v", args, out.String(), err)
		}
	}
}

func acceptKillTree(t *testing.T, sb *Sandbox) {
	needCgroups(t, sb)
	path, ctx := install(t, sb, "deaf"), testContext(t)
	h, err := sb.ExecStream(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	untilOutput(t, h, "deaf\n")
	if n := running(t, sb, path); n != 2 {
		t.Fatalf("%d processes run, want 2", n)
	}
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "nobody runs", func() bool { return running(t, sb, path) == 0 })
}

// needCgroups skips the test where the agent is this process and has no control groups. A guest's always has.
func needCgroups(t *testing.T, sb *Sandbox) {
	t.Helper()
	if ownsCgroups(sb) {
		return
	}
	if _, guest := sb.host.(*machine); guest {
		t.Fatal("the guest's agent has no control groups")
	}
	t.Skip("the agent has no control groups here, and kills a process group only: run it in a guest")
}

// ownsCgroups says whether the agent puts commands into control groups.
func ownsCgroups(sb *Sandbox) bool {
	_, err := sb.Exec(context.Background(), "true", nil, WithExecLimits(Limits{Pids: 100}))
	return err == nil
}

// running counts the processes of the program at path.
func running(t *testing.T, sb *Sandbox, path string) int {
	t.Helper()
	res, err := sb.Shell(testContext(t), "cat /proc/[0-9]*/cmdline 2>/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(res.Stdout(), path+"\x00")
}

func waitUntil(t *testing.T, what string, f func() bool) {
	t.Helper()
	for ctx := testContext(t); !f(); time.Sleep(20 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("never: %s", what)
		}
	}
}

func acceptDeaf(t *testing.T, sb *Sandbox) {
	path := install(t, sb, "deaf")
	res, err := sb.Exec(testContext(t), path, nil, WithExecTimeout(time.Second))
	if !errors.Is(err, context.DeadlineExceeded) || res == nil || !strings.Contains(res.Stdout(), "deaf\n") || res.State().Signal() != syscall.SIGKILL {
		t.Fatalf("%+v, %v", res, err)
	}
	if wall := res.State().WallTime(); wall < time.Second+killGrace {
		t.Errorf("killed after %v, before the grace was over", wall)
	}
	if ownsCgroups(sb) {
		waitUntil(t, "its child is dead", func() bool { return running(t, sb, path) == 0 })
	}
}

func acceptStartFailures(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	if res, err := sb.Shell(ctx, "echo not a program >/tmp/hutch-text; chmod 755 /tmp/hutch-text; printf '\\177ELF....' >/tmp/hutch-elf; chmod 755 /tmp/hutch-elf; mkdir -p /tmp/hutch-dir"); err != nil || !res.Success() {
		t.Fatal(err, res)
	}
	big := strings.Repeat("x", 200_000)
	for _, tc := range []struct {
		name  string
		cmd   string
		args  []string
		opts  []ExecOption
		is    error
		errno syscall.Errno
		stage string
	}{
		{"no such command", "no-such-command", nil, nil, exec.ErrNotFound, syscall.ENOENT, "lookup"},
		{"no such path", "/no/such/file", nil, nil, fs.ErrNotExist, syscall.ENOENT, "lookup"},
		{"not executable", "/etc/passwd", nil, nil, fs.ErrPermission, syscall.EACCES, "lookup"},
		{"directory", "/tmp/hutch-dir", nil, nil, fs.ErrPermission, syscall.EACCES, "lookup"},
		{"text", "/tmp/hutch-text", nil, nil, nil, syscall.ENOEXEC, "exec"},
		{"bad ELF", "/tmp/hutch-elf", nil, nil, nil, syscall.ENOEXEC, "exec"},
		{"no directory", "true", nil, []ExecOption{WithExecCwd("/no/such/dir")}, fs.ErrNotExist, syscall.ENOENT, "chdir"},
		{"file for a directory", "true", nil, []ExecOption{WithExecCwd("/etc/passwd")}, nil, syscall.ENOTDIR, "chdir"},
		{"unknown user", "true", nil, []ExecOption{WithExecUser("nobody-at-all")}, nil, 0, "user"},
		{"unknown group", "true", nil, []ExecOption{WithExecUser("root:nobody-at-all")}, nil, 0, "user"},
		{"long argument", "true", []string{big}, nil, nil, syscall.E2BIG, "exec"},
		{"NUL in an argument", "true", []string{"a\x00b"}, nil, nil, syscall.EINVAL, "request"},
	} {
		for _, tty := range []bool{false, true} {
			opts := tc.opts
			if tty {
				opts = append(opts[:len(opts):len(opts)], WithExecTTY(24, 80))
			}
			res, err := sb.Exec(ctx, tc.cmd, tc.args, opts...)
			var se *StartError
			switch {
			case !errors.As(err, &se) || res != nil:
				t.Errorf("%s, tty %v: %+v, %v; want a *StartError", tc.name, tty, res, err)
			case tc.is != nil && !errors.Is(err, tc.is) || se.Stage != tc.stage || tc.errno != 0 && syscall.Errno(se.Errno) != tc.errno:
				t.Errorf("%s, tty %v: stage %q, errno %v, %v; want %q, %v, %v", tc.name, tty, se.Stage, se.Errno, err, tc.stage, tc.errno, tc.is)
			}
		}
	}
	var ce *ConfigError
	if _, err := sb.Exec(ctx, "true", nil, WithExecRlimit("files", 1, 1)); !errors.As(err, &ce) {
		t.Errorf("unknown rlimit: %v", err)
	}
	if _, err := sb.Exec(ctx, "true", nil, WithExecRlimit("nofile", 2, 1)); !errors.As(err, &ce) {
		t.Errorf("soft above hard: %v", err)
	}
}

func acceptSignals(t *testing.T, sb *Sandbox) {
	ctx, path := testContext(t), install(t, sb, "wait")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGHUP, 34, 64} {
		h, err := sb.ExecStream(ctx, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Signal(ctx, sig, SignalGroup); err != nil {
			t.Fatal(err)
		}
		res, err := h.Wait(ctx)
		if err != nil || res.State().Signal() != sig || res.ExitCode() != -1 || res.ShellExitCode() != 128+int(sig) || res.State().OOMKilled() || res.State().Exited() {
			t.Errorf("signal %d: %v, %v", sig, res.State(), err)
		}
		h.Close()
	}
}

func acceptRlimits(t *testing.T, sb *Sandbox) {
	path := install(t, sb, "hi")
	values := map[string]uint64{"as": 64 << 20, "data": 64 << 20, "rss": 64 << 20, "fsize": 64 << 20, "core": 1 << 20, "stack": 1 << 20, "memlock": 64 << 10, "rttime": 1e6}
	for _, name := range rlimitNames {
		v := values[name]
		if v == 0 {
			v = 16 // lower than any default, so that nobody needs a privilege
			if name == "nice" || name == "rtprio" {
				v = 0
			}
		}
		if res, err := sb.Exec(testContext(t), path, nil, WithExecRlimit(name, v, v)); err != nil || res.ExitCode() != 5 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	res, err := sb.Shell(testContext(t), "ulimit -n", WithExecRlimit("nofile", 123, 456))
	if err != nil || res.Stdout() != "123\n" {
		t.Errorf("nofile: %q, %v", res.Stdout(), err)
	}
}

func acceptBlockedWriter(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	h, err := sb.ExecStream(ctx, "cat", []string{"/dev/zero"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i := range 20 {
		if res, err := sb.Exec(ctx, "cat", nil, WithExecStdin(bytes.NewReader(make([]byte, 1<<16)))); err != nil || len(res.StdoutBytes()) != 1<<16 {
			t.Fatalf("command %d beside it: %v", i, err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 16<<20 {
		t.Errorf("an unread command holds %d bytes of the host's memory", grown)
	}
	stat := fmt.Sprintf("cat /proc/%d/stat", h.PID())
	waitUntil(t, "the command sleeps in its write", func() bool {
		res, err := sb.Shell(ctx, stat)
		return err == nil && strings.Contains(res.Stdout(), ") S ")
	})
}

func acceptNoZombies(t *testing.T, sb *Sandbox) {
	path, ctx := install(t, sb, "orphan"), testContext(t)
	before, err := sb.client.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	inParallel(32, soak(300, 1000), func(_ int) {
		if res, err := sb.Exec(ctx, path, nil); err != nil || res.Stdout() != "hi\n" || !res.Success() {
			t.Errorf("%+v, %v", res, err)
		}
	})
	if res, err := sb.Exec(ctx, "cat", []string{"/proc/1/comm"}); err != nil || strings.TrimSpace(res.Stdout()) != "init" {
		if _, guest := sb.host.(*machine); guest {
			t.Fatalf("process 1 of the guest: %q, %v", res.Stdout(), err)
		}
		return // the orphans were not this agent's to reap
	}
	waitUntil(t, "no zombie", func() bool {
		res, err := sb.Shell(ctx, "cat /proc/[0-9]*/stat 2>/dev/null")
		return err == nil && !strings.Contains(res.Stdout(), ") Z ")
	})
	const kept = 32 // control groups with a descriptor each, for the next commands
	waitUntil(t, "the agent holds no more than before", func() bool {
		s, err := sb.client.Stats(ctx)
		return err == nil && s.Sessions == 0 && s.Zombies == 0 && s.Cgroups <= before.Cgroups && s.Streams <= before.Streams &&
			s.Goroutines <= before.Goroutines && s.FDs <= before.FDs+kept
	})
}

func acceptUsage(t *testing.T, sb *Sandbox) {
	res, err := sb.Exec(testContext(t), install(t, sb, "spin"), nil, WithExecTimeout(500*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	s := res.State()
	if s.UserTime() <= 0 || s.WallTime() < 500*time.Millisecond || s.UserTime() > s.WallTime()+time.Second || s.Signal() != syscall.SIGTERM {
		t.Errorf("user %v, wall %v, %v", s.UserTime(), s.WallTime(), s)
	}
	res, err = sb.Shell(testContext(t), "printf 12345; printf 123 >&2; read x", WithExecStdin(strings.NewReader("abc\n")))
	if want := (Totals{4, 5, 3}); err != nil || res.State().Totals() != want {
		t.Errorf("%+v, %v; want %+v", res.State(), err, want)
	}
}

// Limits need control groups, which the agent on the host does not have.
func TestAcceptLimitsInAGuest(t *testing.T) {
	sb, ctx := shared.get(t), testContext(t)
	res, err := sb.Exec(ctx, install(t, sb, "hog"), nil, WithExecLimits(Limits{Memory: 16 << 20}))
	if err != nil || !res.State().OOMKilled() || res.State().Signal() != syscall.SIGKILL || !strings.Contains(res.State().String(), "out of memory") {
		t.Errorf("beyond its memory: %v, %v", res.State(), err)
	}
	if res, err := sb.Exec(ctx, install(t, sb, "hog"), nil, WithExecLimits(Limits{Memory: 128 << 20})); err != nil || !res.Success() || res.State().OOMKilled() {
		t.Errorf("within its memory: %v, %v", res.State(), err)
	}
	if res, err := sb.Exec(ctx, install(t, sb, "many"), nil, WithExecLimits(Limits{Pids: 10})); err != nil || res.ExitCode() != 7 {
		t.Errorf("beyond its processes: %v, %v", res.State(), err)
	}
	res, err = sb.Exec(ctx, install(t, sb, "spin"), nil, WithExecLimits(Limits{CPUs: 0.1}), WithExecTimeout(3*time.Second))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if used := res.State().UserTime() + res.State().SystemTime(); used > res.State().WallTime()/2 {
		t.Errorf("%v of the processor in %v, with a tenth allowed", used, res.State().WallTime())
	}
	big := math.MaxInt64
	if _, err := sb.Exec(ctx, "true", nil, WithExecLimits(Limits{Memory: int64(big)})); err != nil {
		t.Errorf("a limit beyond all memory: %v", err)
	}
}
