//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

func TestStdoutAndStderrStayApartAndExact(t *testing.T) {
	c := connect(t, agent.Options{})
	want(t, run(t, c, sh("printf out; printf err >&2; exit 7"), nil), "out", "err", 7)
}

func TestEveryByteValueInArgvAndOutput(t *testing.T) {
	c := connect(t, agent.Options{})
	var all []byte
	for i := 1; i < 256; i++ {
		all = append(all, byte(i))
	}
	r := run(t, c, &channel.Request{Path: "printf", Args: []string{"printf", "%s", string(all)}}, nil)
	want(t, r, string(all), "", 0)
}

func TestManyQuickExecsAreExact(t *testing.T) {
	for name, c := range map[string]*channel.Client{"goroutine": connect(t, agent.Options{}), "process": first(connectProcess(t))} {
		t.Run(name, func(t *testing.T) {
			n := map[string]int{"goroutine": 500, "process": 5000}[name]
			quickExecs(t, c, n, 64)
			st, err := c.Stats(context.Background())
			if err != nil || st.Sessions != 0 || st.Execs != int64(n) || st.Zombies != 0 {
				t.Fatalf("after the execs: %+v, %v; want 0 sessions, %d execs, 0 zombies", st, err, n)
			}
		})
	}
}

func first(c *channel.Client, _ *exec.Cmd) *channel.Client { return c }

func quickExecs(t *testing.T, c *channel.Client, n, parallel int) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	errs := make(chan error, n)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out := fmt.Sprintf("hi %d\n", i)
			r, err := tryRun(c, sh(fmt.Sprintf("echo hi %d; echo no %d >&2; exit %d", i, i, i%256)), nil)
			if err != nil || r.stdout != out || r.stderr != "no"+out[2:] || r.exit.Code != i%256 {
				errs <- fmt.Errorf("exec %d: %+v %v", i, r, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func TestLargeStdinThroughCatArrivesWhole(t *testing.T) {
	const size = 64 << 20
	c := connect(t, agent.Options{})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	in, out := sha256.New(), sha256.New()
	src := io.TeeReader(io.LimitReader(rand.NewChaCha8(key), size), in)
	p, err := c.Start(context.Background(), &channel.Request{Path: "cat"}, channel.Stdio{Stdin: src, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if e.Stdin != size || e.Stdout != size || e.StdinErr != nil {
		t.Fatalf("totals %d in, %d out, %v; want %d both", e.Stdin, e.Stdout, e.StdinErr, size)
	}
	if !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Fatal("SHA-256 of stdin and stdout differ")
	}
}

func TestSizesAroundBuffersAreExact(t *testing.T) {
	c := connect(t, agent.Options{})
	for _, n := range []int{0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, 4<<20 - 1, 4 << 20, 4<<20 + 1} {
		in := make([]byte, n)
		for i := range in {
			in[i] = byte(i * 7)
		}
		r := run(t, c, &channel.Request{Path: "cat"}, bytes.NewReader(in))
		if r.stdout != string(in) || r.exit.Stdout != int64(n) {
			t.Fatalf("%d bytes: %d arrived, total %d", n, len(r.stdout), r.exit.Stdout)
		}
	}
}

func TestNilStdinIsEmpty(t *testing.T) {
	c := connect(t, agent.Options{})
	want(t, run(t, c, &channel.Request{Path: "cat"}, nil), "", "", 0)
}

func TestNilOutputIsDiscarded(t *testing.T) {
	c := connect(t, agent.Options{})
	p, err := c.Start(context.Background(), sh("readlink /proc/self/fd/1 /proc/self/fd/2 >&2; exit 3"), channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := p.Wait(); err != nil || e.Code != 3 || e.Stdout != 0 {
		t.Fatalf("%+v, %v", e, err)
	}
}

func TestSameWriterKeepsOrder(t *testing.T) {
	c := connect(t, agent.Options{})
	var both bytes.Buffer
	p, err := c.Start(context.Background(), sh("for i in 1 2 3; do echo o$i; echo e$i >&2; done"), channel.Stdio{Stdout: &both, Stderr: &both})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil || both.String() != "o1\ne1\no2\ne2\no3\ne3\n" {
		t.Fatalf("%q, %v", both.String(), err)
	}
}

func TestChildThatIgnoresStdinDoesNotDelayTheExec(t *testing.T) {
	c := connect(t, agent.Options{})
	r := run(t, c, &channel.Request{Path: "true"}, io.LimitReader(zeros{}, 1<<30))
	if !errors.Is(r.exit.StdinErr, channel.ErrStdinClosed) {
		t.Fatalf("StdinErr %v, want ErrStdinClosed", r.exit.StdinErr)
	}
}

func TestChildThatClosesStdinEndsTheCopy(t *testing.T) {
	c := connect(t, agent.Options{})
	p, err := c.Start(context.Background(), sh("exec <&-; read x </dev/null; exec sleep 1000"), channel.Stdio{Stdin: zeros{}})
	if err != nil {
		t.Fatal(err)
	}
	// Another exec is not disturbed.
	want(t, run(t, c, sh("echo ok"), nil), "ok\n", "", 0)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	e, err := p.Wait()
	if err != nil || e.Signal != channel.SIGKILL || !errors.Is(e.StdinErr, channel.ErrStdinClosed) {
		t.Fatalf("%+v, %v", e, err)
	}
}

func TestBlockedStdinReaderDoesNotDelayWait(t *testing.T) {
	c := connect(t, agent.Options{})
	r, w := io.Pipe()
	defer w.Close()
	got := run(t, c, sh("echo done"), r)
	want(t, got, "done\n", "", 0)
}

func TestStalledReaderStallsOnlyItsStream(t *testing.T) {
	c := connect(t, agent.Options{})
	gate := make(chan struct{})
	stalled, err := c.Start(context.Background(), sh("head -c 8388608 /dev/zero; exit 4"), channel.Stdio{Stdout: writerFunc(func(p []byte) (int, error) {
		<-gate
		return len(p), nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	quickExecs(t, c, 50, 4)
	close(gate)
	e, err := stalled.Wait()
	if err != nil || e.Code != 4 || e.Stdout != 8<<20 {
		t.Fatalf("%+v, %v", e, err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFailingWriterEndsTheProcessWithSIGPIPE(t *testing.T) {
	c := connect(t, agent.Options{})
	bad := errors.New("disk full")
	p, err := c.Start(context.Background(), &channel.Request{Path: "cat", Args: []string{"cat", "/dev/zero"}},
		channel.Stdio{Stdout: writerFunc(func([]byte) (int, error) { return 0, bad })})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := p.Wait(); !errors.Is(err, bad) || e.Signal != channel.SIGPIPE {
		t.Fatalf("%+v, %v; want the writer's error and SIGPIPE", e, err)
	}
}

func TestOrphanHoldingStdoutIsCutAfterWaitDelay(t *testing.T) {
	c := connect(t, agent.Options{})
	req := sh("echo hi; sleep 1000 & echo $! >&2; exit 3")
	req.WaitDelay = 50 * time.Millisecond
	r := run(t, c, req, nil)
	defer run(t, c, sh("kill "+r.stderr), nil)
	if r.stdout != "hi\n" || r.exit.Code != 3 || !r.exit.Orphaned {
		t.Fatalf("%+v %+v", r, r.exit)
	}
}

func TestSlowReaderIsNotMistakenForAnOrphan(t *testing.T) {
	c := connect(t, agent.Options{})
	gate := make(chan struct{})
	req := sh("head -c 1100000 /dev/zero; exit 0")
	req.WaitDelay = time.Millisecond
	var n int
	p, err := c.Start(context.Background(), req, channel.Stdio{Stdout: writerFunc(func(b []byte) (int, error) {
		<-gate
		n += len(b)
		return len(b), nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Exited(): // all of it is in the window and the pipe
	case <-time.After(longTime):
		t.Fatal("no exit record")
	}
	close(gate)
	e, err := p.Wait()
	if err != nil || e.Orphaned || n != 1100000 {
		t.Fatalf("%+v, %v, %d bytes", e, err, n)
	}
}

func TestSignalsToProcessAndGroup(t *testing.T) {
	c := connect(t, agent.Options{})
	ctx := context.Background()
	pr, pw := io.Pipe()
	p, err := c.Start(ctx, sh(`trap 'echo usr1' USR1; trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done`), channel.Stdio{Stdout: pw})
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	expect := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(pr, b); err != nil || string(b) != want {
			t.Fatalf("read %q, %v; want %q", b, err, want)
		}
	}
	expect("ready\n")
	if err := p.Signal(ctx, channel.SIGUSR1, false); err != nil {
		t.Fatal(err)
	}
	expect("usr1\n")
	if err := p.Signal(ctx, channel.Signal(99), false); err == nil {
		t.Fatal("signal 99 was taken")
	}
	if err := p.Signal(ctx, channel.SIGTERM, true); err != nil {
		t.Fatal(err)
	}
	if e, err := p.Wait(); err != nil || e.Code != 9 || e.Signal != 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	if err := p.Signal(ctx, channel.SIGTERM, false); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal after the exit: %v", err)
	}
	if err := p.Kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("kill after the exit: %v", err)
	}
}

func TestDeathBySignalIsToldApart(t *testing.T) {
	c := connect(t, agent.Options{})
	r := run(t, c, sh("kill -SEGV $$"), nil)
	if r.exit.Signal != channel.SIGSEGV || r.exit.Code != -1 || r.exit.ShellExitCode() != 139 {
		t.Fatalf("%+v", r.exit)
	}
	r = run(t, c, sh("exit 139"), nil)
	if r.exit.Signal != 0 || r.exit.Code != 139 {
		t.Fatalf("%+v", r.exit)
	}
}

func TestStartFailuresAreTyped(t *testing.T) {
	c := connect(t, agent.Options{})
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	bad := filepath.Join(dir, "bad")
	os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644)
	os.WriteFile(bad, []byte("\x7fELF garbage"), 0o755)
	interp := filepath.Join(dir, "interp")
	os.WriteFile(interp, []byte("#!/does/not/exist\n"), 0o755)
	for _, tt := range []struct {
		name  string
		req   channel.Request
		stage string
		errno channel.Errno
		is    error
		code  int
	}{
		{"bare name", channel.Request{Path: "no-such-command"}, channel.StageLookup, channel.ENOENT, exec.ErrNotFound, 127},
		{"bare name is ErrNotExist", channel.Request{Path: "no-such-command"}, channel.StageLookup, channel.ENOENT, fs.ErrNotExist, 127},
		{"path", channel.Request{Path: "/no/such"}, channel.StageLookup, channel.ENOENT, fs.ErrNotExist, 127},
		{"empty", channel.Request{}, channel.StageLookup, channel.ENOENT, fs.ErrNotExist, 127},
		{"not executable", channel.Request{Path: plain}, channel.StageLookup, channel.EACCES, fs.ErrPermission, 126},
		{"not executable in PATH", channel.Request{Path: "plain", Env: []string{"PATH=" + dir}}, channel.StageLookup, channel.EACCES, fs.ErrPermission, 126},
		{"directory", channel.Request{Path: dir}, channel.StageLookup, channel.EACCES, fs.ErrPermission, 126},
		{"bad ELF", channel.Request{Path: bad}, channel.StageExec, channel.ENOEXEC, channel.ENOEXEC, 126},
		{"interpreter", channel.Request{Path: interp}, channel.StageExec, channel.ENOENT, fs.ErrNotExist, 127},
		{"cwd missing", channel.Request{Path: "true", Dir: "/no/such"}, channel.StageChdir, channel.ENOENT, fs.ErrNotExist, 125},
		{"cwd is a file", channel.Request{Path: "true", Dir: plain}, channel.StageChdir, channel.ENOTDIR, channel.ENOTDIR, 125},
		{"user", channel.Request{Path: "true", User: "nobody-here"}, channel.StageUser, channel.EINVAL, channel.EINVAL, 125},
		{"group", channel.Request{Path: "true", User: "0:nobody-here"}, channel.StageUser, channel.EINVAL, channel.EINVAL, 125},
		{"rlimit name", channel.Request{Path: "true", Rlimits: []channel.Rlimit{{Name: "nofiles"}}}, channel.StageRlimit, channel.EINVAL, channel.EINVAL, 125},
		{"rlimit order", channel.Request{Path: "true", Rlimits: []channel.Rlimit{{Name: "nofile", Soft: 2, Hard: 1}}}, channel.StageRlimit, channel.EINVAL, channel.EINVAL, 125},
		{"NUL", channel.Request{Path: "true", Args: []string{"true", "a\x00b"}}, channel.StageRequest, channel.EINVAL, channel.EINVAL, 125},
		{"env", channel.Request{Path: "true", Env: []string{"novalue"}}, channel.StageRequest, channel.EINVAL, channel.EINVAL, 125},
		{"argv too large", channel.Request{Path: "true", Args: []string{"true", strings.Repeat("x", 200<<10)}}, channel.StageExec, channel.E2BIG, channel.E2BIG, 126},
	} {
		for _, tty := range []*channel.TTY{nil, {Rows: 10, Cols: 10}} {
			t.Run(fmt.Sprintf("%s/tty=%v", tt.name, tty != nil), func(t *testing.T) {
				req := tt.req
				req.TTY = tty
				r, err := tryRun(c, &req, nil)
				se := wantStartError(t, err, tt.stage, tt.errno)
				if r.exit != nil || !errors.Is(err, tt.is) || se.ShellExitCode() != tt.code {
					t.Fatalf("%v: exit %v, Is(%v) %v, shell code %d want %d", err, r.exit, tt.is, errors.Is(err, tt.is), se.ShellExitCode(), tt.code)
				}
			})
		}
	}
	var le *channel.LimitError
	if _, err := tryRun(c, &channel.Request{Path: "true", Args: []string{strings.Repeat("x", 2<<20)}}, nil); !errors.As(err, &le) {
		t.Fatalf("2 MiB request: %v, want a *LimitError", err)
	}
	st, err := c.Stats(context.Background())
	if err != nil || st.Sessions != 0 || st.Execs != 0 {
		t.Fatalf("after failures only: %+v, %v", st, err)
	}
}

func TestEnvironmentAndDirectory(t *testing.T) {
	c := connect(t, agent.Options{Env: []string{"A=agent", "B=agent"}})
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	req := sh(`echo "$A $B $C"; pwd; echo $PATH`)
	req.Env, req.Dir = []string{"B=first", "B=mine", "C=c d"}, dir
	want(t, run(t, c, req, nil), "agent mine c d\n"+dir+"\n"+agent.DefaultPath+"\n", "", 0)
	req = &channel.Request{Path: "/usr/bin/env", ClearEnv: true, Env: []string{"ONLY=this"}}
	want(t, run(t, c, req, nil), "ONLY=this\n", "", 0)
}

func TestUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user; run as root")
	}
	c := connect(t, agent.Options{})
	for spec, ids := range map[string]string{
		"": "0 0", "root": "0 0", "daemon": "1 1", "1": "1 1", "12345": "12345 0", "12345:77": "12345 77", "daemon:bin": "1 2",
	} {
		req := sh("echo $(id -u) $(id -g)")
		req.User = spec
		want(t, run(t, c, req, nil), ids+"\n", "", 0)
	}
	private := t.TempDir()
	os.Chmod(private, 0o700)
	_, err := tryRun(c, &channel.Request{Path: "true", User: "daemon", Dir: private}, nil)
	wantStartError(t, err, channel.StageChdir, channel.EACCES)
}

func TestRlimitsAreSetBeforeTheProgramRuns(t *testing.T) {
	c := connect(t, agent.Options{})
	for _, tty := range []*channel.TTY{nil, {}} {
		req := sh("ulimit -n; ulimit -Hn; ulimit -f; exit 6")
		req.Rlimits = []channel.Rlimit{{Name: "nofile", Soft: 33, Hard: 44}, {Name: "fsize", Soft: 512 * 7, Hard: channel.RlimitInfinity}}
		req.TTY = tty
		r := run(t, c, req, nil)
		if got := strings.ReplaceAll(r.stdout, "\r", ""); got != "33\n44\n7\n" || r.exit.Code != 6 {
			t.Fatalf("tty %v: %q code %d", tty, r.stdout, r.exit.Code)
		}
	}
}

func TestSessionIDsAreTheCallersAndUnique(t *testing.T) {
	c := connect(t, agent.Options{})
	req := sh("cat")
	req.Session = "build-7"
	r, w := io.Pipe()
	p, err := c.Start(context.Background(), req, channel.Stdio{Stdin: r})
	if err != nil || p.ID() != "build-7" || p.PID() <= 0 {
		t.Fatalf("%v", err)
	}
	_, err = c.Start(context.Background(), req, channel.Stdio{})
	wantStartError(t, err, channel.StageSession, 0)
	w.Close()
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	for range 20 { // the ID is free as soon as Wait returns
		run(t, c, req, nil)
	}
}

func TestSessionLimit(t *testing.T) {
	conn, end := socketpair(t)
	c := connectOver(t, conn, end, agent.Options{MaxSessions: 2}, channel.Config{MaxSessions: 3})
	var ps []*channel.Process
	for range 2 {
		p, err := c.Start(context.Background(), &channel.Request{Path: "sleep", Args: []string{"sleep", "1000"}}, channel.Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	_, err := tryRun(c, sh("true"), nil)
	var le *channel.LimitError
	if !errors.As(err, &le) || le.Max != 2 {
		t.Fatalf("third session of an agent with two: %v", err)
	}
	for _, p := range ps {
		p.Kill()
		p.Wait()
	}
	want(t, run(t, c, sh("echo again"), nil), "again\n", "", 0)
}

func TestThousandConcurrentSessions(t *testing.T) {
	const n = 1000
	conn, end := socketpair(t)
	c := connectOver(t, conn, end, agent.Options{MaxSessions: n}, channel.Config{MaxSessions: n + 1})
	r := make([]*io.PipeWriter, n)
	ps := make([]*channel.Process, n)
	for i := range n {
		pr, pw := io.Pipe()
		r[i] = pw
		p, err := c.Start(context.Background(), &channel.Request{Path: "cat"}, channel.Stdio{Stdin: pr, Stdout: io.Discard})
		if err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		ps[i] = p
	}
	st, err := c.Stats(context.Background())
	if err != nil || st.Sessions != n {
		t.Fatalf("%+v, %v", st, err)
	}
	var le *channel.LimitError
	if _, err := tryRun(c, sh("true"), nil); !errors.As(err, &le) || le.Max != n {
		t.Fatalf("one session more: %v", err)
	}
	for i := range n {
		r[i].Write([]byte("x"))
		r[i].Close()
	}
	for i, p := range ps {
		if e, err := p.Wait(); err != nil || e.Code != 0 || e.Stdout != 1 {
			t.Fatalf("session %d: %+v, %v", i, e, err)
		}
	}
}

func TestExecOverAnInMemoryPipe(t *testing.T) {
	host, guest := net.Pipe()
	c := connectOver(t, host, guest, agent.Options{}, channel.Config{})
	want(t, run(t, c, sh("cat; echo err >&2; exit 2"), strings.NewReader("in")), "in", "err\n", 2)
}
