//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

// sessionTests run against an agent in this process and, where a guest can run, against the one in a guest.
var sessionTests = []struct {
	name string
	run  func(*testing.T, *Sandbox)
}{
	{"DetachedCommandGoesOnAndIsFollowedWithoutLoss", testDetachAndFollow},
	{"OutputThatIsNotKeptIsAGapWithCounts", testGap},
	{"EveryFollowerGetsEveryByte", testFollowers},
	{"StandardInputHasOneWriter", testSessionStdin},
	{"SessionsAreListedWaitedForKilledForgotten", testSessionLife},
	{"ClosingAFollowerLeavesTheCommandAndClosingItsStarterKillsIt", testSessionClose},
	{"UnknownSessionsAreErrors", testUnknownSession},
}

func TestSessions(t *testing.T) {
	for _, tc := range sessionTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, agentSandbox(t)) })
	}
}

func TestSessionsInAGuest(t *testing.T) {
	sb := shared.get(t)
	for _, tc := range sessionTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, sb) })
	}
}

func testDetachAndFollow(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	h := stream(t, sb, "echo first; read x; seq 1 1000; exit 3", WithExecDetachable(0), WithExecOpenStdin(), WithExecStdinPipe())
	first := untilOutput(t, h, "first\n")
	id, _ := h.ID()
	if err := h.Detach(); err != nil {
		t.Fatal(err)
	}
	res, err := h.Collect(ctx)
	var de *DetachedError
	if !errors.As(err, &de) || !errors.Is(err, ErrDetached) || de.SessionID != id || res.State() != nil {
		t.Fatalf("Collect after Detach = %+v, %v; want a *DetachedError of %s", res, err, id)
	}
	stdout, stderr := h.Cursors()
	if first+res.Stdout() != "first\n" || stdout != 6 || stderr != 0 {
		t.Fatalf("cursors %d, %d after %q", stdout, stderr, first+res.Stdout())
	}
	f, err := sb.Session(id).Stream(ctx, WithCursor(stdout, stderr), WithStdin())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f.TakeStdin(), "go\n"); err != nil {
		t.Fatal(err)
	}
	res, err = f.Collect(ctx)
	if want := numbers(1000); err != nil || res.Stdout() != want || res.ExitCode() != 3 {
		t.Fatalf("%d bytes, want %d; code %d, %v", len(res.Stdout()), len(want), res.ExitCode(), err)
	}
	// The exit is kept, and so is the output.
	f, err = sb.Session(id).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if res, err := f.Collect(ctx); err != nil || res.Stdout() != "first\n"+numbers(1000) || res.ExitCode() != 3 {
		t.Fatalf("replay of an ended session: %d bytes, code %d, %v", len(res.Stdout()), res.ExitCode(), err)
	}
}

// numbers is what `seq 1 n` prints.
func numbers(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func testGap(t *testing.T, sb *Sandbox) {
	const keep, total = 64 << 10, 10 << 20
	ctx := testContext(t)
	x, err := sb.StartSession(ctx, "sh", []string{"-c", "head -c 10485760 /dev/zero; exit 4"}, WithExecDetachable(keep))
	if err != nil {
		t.Fatal(err)
	}
	if state, err := x.Wait(ctx); err != nil || state.ExitCode() != 4 || state.Totals().Stdout != total {
		t.Fatalf("Wait = %+v, %v", state, err)
	}
	_, err = x.Stream(ctx, WithCursor(100, 0))
	var ge *GapError
	if !errors.As(err, &ge) || !errors.Is(err, ErrGap) || *ge != (GapError{Stream: "stdout", Want: 100, Have: total - keep}) {
		t.Fatalf("Stream from a lost cursor = %v", err)
	}
	h, err := x.Stream(ctx, WithCursor(100, 0), WithGaps())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var got int
	var gaps []GapError
	for ev, err := range h.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Kind == ExecEventGap {
			gaps = append(gaps, *ev.Gap)
		}
		got += len(ev.Data)
	}
	if len(gaps) != 1 || gaps[0] != *ge || got != keep {
		t.Fatalf("%d bytes after the gaps %+v", got, gaps)
	}
	if stdout, _ := h.Cursors(); stdout != total {
		t.Fatalf("cursor %d at the end", stdout)
	}
	if _, err := x.Stream(ctx, WithCursor(total+1, 0)); err == nil || errors.Is(err, ErrGap) {
		t.Fatalf("Stream from beyond the end = %v", err)
	}
}

func testFollowers(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	x, err := sb.StartSession(ctx, "sh", []string{"-c", "read x; seq 1 20000; seq 1 500 >&2"}, WithExecOpenStdin())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 5 {
		h, err := x.Stream(ctx, WithReadOnly())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer h.Close()
			res, err := h.Collect(ctx)
			if err != nil || res.Stdout() != numbers(20000) || res.Stderr() != numbers(500) || !res.Success() {
				t.Errorf("follower %d: %v, %d and %d bytes, code %d", i, err, len(res.StdoutBytes()), len(res.StderrBytes()), res.ExitCode())
			}
		})
	}
	h, err := x.Stream(ctx, WithStdin())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := io.WriteString(h.TakeStdin(), "\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func testSessionStdin(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	x, err := sb.StartSession(ctx, "cat", nil, WithExecOpenStdin())
	if err != nil {
		t.Fatal(err)
	}
	a, err := x.Stream(ctx, WithStdin())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := x.Stream(ctx, WithStdin()); !errors.Is(err, ErrStdinBusy) {
		t.Fatalf("second writer: %v", err)
	}
	first := a.TakeStdin()
	if _, err := io.WriteString(first, "a\n"); err != nil {
		t.Fatal(err)
	}
	untilOutput(t, a, "a\n")
	b, err := x.Stream(ctx, WithStdin(), WithTakeover())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for err == nil { // until the news is here; what is written before it goes nowhere
		_, err = io.WriteString(first, "lost\n")
	}
	if !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("writing after the takeover: %v", err)
	}
	until(t, a, ExecEventStdinError)
	in := b.TakeStdin()
	if _, err := io.WriteString(in, "b\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if res, err := b.Collect(ctx); err != nil || res.Stdout() != "a\nb\n" || !res.Success() {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := x.Stream(ctx, WithStdin()); !errors.Is(err, ErrNoStdin) {
		t.Fatalf("stdin of an ended session: %v", err)
	}
	if _, err := x.Stream(ctx, WithReadOnly(), WithStdin()); err == nil {
		t.Fatal("a read-only follower has a standard input")
	}
}

func testSessionLife(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	x, err := sb.StartSession(ctx, "sleep", []string{"1000"}, WithExecID("sleeper"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := x.Info(ctx)
	if err != nil || x.ID() != "sleeper" || info.ID != "sleeper" || !info.Running || info.State != nil || strings.Join(info.Args, " ") != "sleep 1000" || info.PID <= 0 {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := sb.StartSession(ctx, "true", nil, WithExecID("sleeper")); err == nil {
		t.Fatal("one ID twice")
	}
	if err := x.Forget(ctx); !errors.Is(err, ErrSessionRunning) {
		t.Fatalf("Forget of a running session = %v", err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := x.Wait(short); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait with an ended context = %v", err)
	}
	if err := x.Signal(ctx, 0, SignalProcess); err != nil {
		t.Fatalf("signal 0: %v", err)
	}
	if err := x.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	state, err := x.Wait(ctx)
	if err != nil || state.Signal() != syscall.SIGKILL || state.ExitCode() != -1 || state.ShellExitCode() != 137 {
		t.Fatalf("Wait = %v, %v", state, err)
	}
	if err := x.Kill(ctx); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("second Kill = %v", err)
	}
	if err := x.Signal(ctx, syscall.SIGTERM, SignalGroup); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("Signal after the end = %v", err)
	}
	info, err = x.Info(ctx)
	if err != nil || info.Running || info.State == nil || info.State.Signal() != syscall.SIGKILL || info.Ended.Before(info.Started) {
		t.Fatalf("%+v, %v", info, err)
	}
	if err := x.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Info(ctx); !errors.Is(err, ErrSessionNotFound) {
		t.Fatalf("Info after Forget = %v", err)
	}
}

func testSessionClose(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	h := stream(t, sb, "echo up; sleep 1000", WithExecDetachable(0))
	untilOutput(t, h, "up\n")
	id, _ := h.ID()
	f, err := sb.Session(id).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	untilOutput(t, f, "up\n")
	f.Close()
	if info, err := sb.Session(id).Info(ctx); err != nil || !info.Running {
		t.Fatalf("after the follower's Close: %+v, %v", info, err)
	}
	h.Close()
	if state, err := sb.Session(id).Wait(ctx); err != nil || state.Signal() != syscall.SIGKILL {
		t.Fatalf("after the starter's Close: %v, %v", state, err)
	}
}

func testUnknownSession(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	x := sb.Session("nobody")
	if _, err := x.Stream(ctx); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("Stream = %v", err)
	}
	if _, err := x.Wait(ctx); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("Wait = %v", err)
	}
	if err := x.Kill(ctx); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("Kill = %v", err)
	}
	if err := x.Forget(ctx); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("Forget = %v", err)
	}
	if _, err := x.Attach(ctx, WithAttachIO(strings.NewReader(""), io.Discard, nil)); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("Attach = %v", err)
	}
	h := stream(t, sb, "read x", WithExecStdinPipe())
	if err := h.Detach(); !errors.Is(err, ErrNotDetachable) {
		t.Errorf("Detach = %v", err)
	}
}

// A terminal is left with the detach keys and found again, with what it showed.
func TestTerminalIsLeftAndFoundAgain(t *testing.T) {
	sb := agentSandbox(t)
	ctx := testContext(t)
	in, keys := io.Pipe()
	go func() {
		io.WriteString(keys, "one\n\x1d")
	}()
	var screen bytes.Buffer
	_, err := sb.AttachWith(ctx, "sh", WithAttachArgs("-c", "stty -echo; read a; read b; echo $a $b; stty size"), WithAttachExec(WithExecID("term")), WithAttachIO(in, &screen, nil))
	if !errors.Is(err, ErrDetached) {
		t.Fatalf("AttachWith = %v", err)
	}
	x := sb.Session("term")
	screen.Reset()
	code, err := x.Attach(ctx, WithAttachIO(strings.NewReader("two\n"), &screen, nil), WithAttachSize(33, 99))
	if err != nil || code != 0 || !strings.HasSuffix(screen.String(), "one two\r\n33 99\r\n") {
		t.Fatalf("code %d, %v, screen %q", code, err, screen.String())
	}
	// An ended session shows its screen and its exit code.
	again := screen.String()
	screen.Reset()
	if code, err := x.Attach(ctx, WithAttachIO(strings.NewReader(""), &screen, nil)); err != nil || code != 0 || screen.String() != again {
		t.Fatalf("code %d, %v, screen %q", code, err, screen.String())
	}
	var ce *ConfigError
	if _, err := x.Attach(ctx, WithAttachArgs("x"), WithAttachIO(in, io.Discard, nil)); !errors.As(err, &ce) {
		t.Errorf("Attach with arguments = %v", err)
	}
	plain, err := sb.StartSession(ctx, "true", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Attach(ctx, WithAttachIO(in, io.Discard, nil)); !errors.As(err, &ce) {
		t.Errorf("Attach without a terminal = %v", err)
	}
}

func TestStartSessionThatIsCancelledLeavesNothing(t *testing.T) {
	sb := agentSandbox(t)
	for i := range 200 { // the cancellation meets every stage of the start
		ctx, cancel := context.WithCancel(testContext(t))
		timer := time.AfterFunc(time.Duration(i)*10*time.Microsecond, cancel)
		x, err := sb.StartSession(ctx, "sleep", []string{"1000"})
		timer.Stop()
		switch {
		case err == nil:
			err = x.Kill(testContext(t))
		case errors.Is(err, context.Canceled):
			err = nil
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	waitUntil(t, "nothing runs that was cancelled", func() bool {
		list, err := sb.Sessions(testContext(t))
		return err == nil && !slices.ContainsFunc(list, func(i SessionInfo) bool { return i.Running })
	})
}

// A guest can report any number of gaps to a follower that does not read.
func TestGapsThatNobodyReceivesAreBounded(t *testing.T) {
	h := &ExecHandle{ready: make(chan struct{}, 1)}
	for i := range int64(100_000) {
		h.gap(GapError{Stream: []string{"stdout", "stderr"}[i%2], Want: 10 * i, Have: 10*i + 5})
	}
	if len(h.queue) != maxQueuedGaps {
		t.Fatalf("%d events are queued", len(h.queue))
	}
	for n := int64(0); n < maxQueuedGaps; n++ {
		ev, ok, err := h.next()
		have := 10*n + 5
		if n >= maxQueuedGaps-2 { // the last of each stream has the rest
			have = 999_995 - 10*(maxQueuedGaps-1-n)
		}
		if !ok || err != nil || ev.Gap.Want != 10*n || ev.Gap.Have != have {
			t.Fatalf("event %d: %+v, %v", n, ev.Gap, err)
		}
	}
	h.gap(GapError{Stream: "stdout", Want: 1, Have: 2})
	h.gap(GapError{Stream: "stdout", Want: 2, Have: 3})
	if ev, ok, err := h.next(); !ok || err != nil || *ev.Gap != (GapError{Stream: "stdout", Want: 1, Have: 3}) || len(h.queue) != 0 || h.gaps != 0 {
		t.Errorf("%+v, %v, %d left", ev.Gap, err, len(h.queue))
	}
}

// deafConn is the connection of a guest that hears nothing any more.
type deafConn struct {
	net.Conn
	deaf atomic.Bool
}

func (c *deafConn) Write(p []byte) (int, error) {
	if c.deaf.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A guest that starts a session and does not confirm that nobody follows it holds nobody up.
func TestStartOfASessionWaitsForNoSilentGuest(t *testing.T) {
	t.Parallel() // it takes confirmGrace
	var conn deafConn
	s := &hookSink{hook: func(e *execlog.Entry) {
		if e.Event != nil && e.Event.Kind == execlog.Start {
			conn.deaf.Store(true)
		}
	}}
	sb := agentSandboxOver(t, func(c net.Conn) net.Conn { conn.Conn = c; return &conn }, WithLogs(s))
	soon(t, "StartSession", func() {
		if x, err := sb.StartSession(testContext(t), "sleep", []string{"1000"}, WithExecID("x")); err != nil || x.ID() != "x" {
			t.Errorf("StartSession = %v, %v", x, err)
		}
	})
}
