//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// stream starts script on sb; the handle is closed with the test.
func stream(t *testing.T, sb *Sandbox, script string, opts ...ExecOption) *ExecHandle {
	t.Helper()
	h, err := sb.ShellStream(testContext(t), script, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// until receives events until one is of kind k, and returns it and the output before it.
func until(t *testing.T, h *ExecHandle, k ExecEventKind) (ExecEvent, string) {
	t.Helper()
	var out strings.Builder
	for {
		ev, err := h.Recv(testContext(t))
		if err != nil {
			t.Fatalf("waiting for %v: %v (output %q)", k, err, out.String())
		}
		out.Write(ev.Data)
		if ev.Kind == k {
			return ev, out.String()
		}
	}
}

// untilOutput receives output until it contains s.
func untilOutput(t *testing.T, h *ExecHandle, s string) string {
	t.Helper()
	var all string
	for !strings.Contains(all, s) {
		_, out := until(t, h, ExecEventStdout)
		all += out
	}
	return all
}

// streamTests run against an agent in this process and, where a guest can run, against the one in a guest.
var streamTests = []struct {
	name string
	run  func(*testing.T, *Sandbox)
}{
	{"events stand in order", testEventsStandInOrder},
	{"stdin pipe to its end", testStdinPipeToItsEnd},
	{"terminal with stdin", testTerminalWithStdin},
	{"signals are delivered or refused", testSignalsReachTheCommand},
	{"unread handle stalls nobody else", testUnreadHandleStallsNobodyElse},
	{"context ends the command and output is kept", testContextEndsTheStream},
	{"timeout is DeadlineExceeded with partial output", testStreamTimeout},
}

func TestStream(t *testing.T) {
	for _, tc := range streamTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, agentSandbox(t)) })
	}
}

// The guest's shell takes no traps, so what a command does with a signal it catches is shown with the host's shell.
func TestSignalThatTheCommandCatches(t *testing.T) {
	h := stream(t, agentSandbox(t), `trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.1; done`)
	untilOutput(t, h, "ready")
	if err := h.Signal(testContext(t), syscall.SIGUSR1, SignalProcess); err != nil {
		t.Fatal(err)
	}
	res, err := h.Collect(testContext(t))
	if err != nil || res.Stdout() != "got\n" || res.ExitCode() != 9 {
		t.Fatalf("%q, code %d, %v", res.Stdout(), res.ExitCode(), err)
	}
}

func TestStreamInAGuest(t *testing.T) {
	sb := shared.get(t)
	for _, tc := range streamTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, sb) })
	}
}

func testEventsStandInOrder(t *testing.T, sb *Sandbox) {
	h := stream(t, sb, "echo out; echo err >&2; exit 3")
	var kinds []ExecEventKind
	got := map[ExecEventKind]string{}
	for ev, err := range h.Events(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, ev.Kind)
		got[ev.Kind] += string(ev.Data)
		if ev.Kind == ExecEventExited && (ev.ExitCode != 3 || ev.State.ExitCode() != 3) || ev.Kind == ExecEventStarted && ev.PID != h.PID() {
			t.Errorf("event %+v", ev)
		}
	}
	// How the output is cut into events is the guest's affair.
	if kinds[0] != ExecEventStarted || kinds[len(kinds)-1] != ExecEventDone || strings.Count(fmt.Sprint(kinds), "exited") != 1 || got[ExecEventStdout] != "out\n" || got[ExecEventStderr] != "err\n" {
		t.Fatalf("events %v, data %q", kinds, got)
	}
	if _, err := h.Recv(testContext(t)); err != io.EOF {
		t.Fatalf("Recv after Done = %v, want io.EOF", err)
	}
	res, err := h.Wait(testContext(t))
	if err != nil || res.ExitCode() != 3 {
		t.Fatalf("Wait = %v, %v", res.ExitCode(), err)
	}
}

func testStdinPipeToItsEnd(t *testing.T, sb *Sandbox) {
	h := stream(t, sb, "cat; echo end", WithExecStdinPipe(), WithExecID("stdin-pipe"))
	if id, err := h.ID(); id != "stdin-pipe" || err != nil {
		t.Errorf("ID = %q, %v", id, err)
	}
	in := h.TakeStdin()
	if h.TakeStdin() != nil {
		t.Error("the standard input can be taken twice")
	}
	if _, err := io.WriteString(in, "hello\n"); err != nil {
		t.Fatal(err)
	}
	untilOutput(t, h, "hello\n")
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if res, err := h.Collect(testContext(t)); err != nil || res.Stdout() != "end\n" || !res.Success() {
		t.Fatalf("Collect = %+v, %v", res, err)
	}
	if _, err := in.Write([]byte("x")); err == nil {
		t.Error("a write after the end succeeds")
	}
}

func testTerminalWithStdin(t *testing.T, sb *Sandbox) {
	h := stream(t, sb, "echo ready; cat; exit 4", WithExecStdinPipe(), WithExecTTY(37, 91))
	untilOutput(t, h, "ready\r\n")
	in := h.TakeStdin()
	if _, err := io.WriteString(in, "line\n"); err != nil {
		t.Fatal(err)
	}
	untilOutput(t, h, "line\r\nline\r\n")
	in.Close() // ends cat
	if ev, _ := until(t, h, ExecEventExited); ev.ExitCode != 4 {
		t.Fatalf("exit code %d", ev.ExitCode)
	}
	until(t, h, ExecEventDone)
}

// The guest's stty does not know "size", so this one needs an agent on the host.
func TestTerminalSizeIsThereFromTheStartAndChanges(t *testing.T) {
	sb := agentSandbox(t)
	h := stream(t, sb, `stty size; cat; until [ "$(stty size)" = "11 22" ]; do sleep 0.05; done; echo resized; exit 4`, WithExecStdinPipe(), WithExecTTY(37, 91))
	untilOutput(t, h, "37 91\r\n")
	in := h.TakeStdin()
	if _, err := io.WriteString(in, "line\n"); err != nil {
		t.Fatal(err)
	}
	untilOutput(t, h, "line\r\nline\r\n")
	in.Close() // ends cat
	if err := h.Resize(11, 22); err != nil {
		t.Fatal(err)
	}
	// The exit may be reported before the last output: collect both.
	if res, err := h.Collect(testContext(t)); err != nil || !strings.HasSuffix(res.Stdout(), "resized\r\n") || res.ExitCode() != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := h.Resize(1, 1); err != nil {
		t.Errorf("Resize after the exit = %v", err)
	}
}

func testSignalsReachTheCommand(t *testing.T, sb *Sandbox) {
	h, err := sb.ExecStream(testContext(t), "sleep", []string{"1000"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Signal(testContext(t), 65, SignalProcess); err == nil {
		t.Error("signal 65 was accepted")
	}
	if err := h.Signal(testContext(t), syscall.SIGTERM, SignalProcess); err != nil {
		t.Fatal(err)
	}
	res, err := h.Collect(testContext(t))
	if err != nil || res.State().Signal() != syscall.SIGTERM || res.ShellExitCode() != 128+int(syscall.SIGTERM) {
		t.Fatalf("%+v, %v; want death by SIGTERM", res, err)
	}
	if err := h.Signal(testContext(t), syscall.SIGTERM, SignalGroup); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the exit = %v", err)
	}
	if err := h.Kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Kill after the exit = %v", err)
	}
}

func testUnreadHandleStallsNobodyElse(t *testing.T, sb *Sandbox) {
	const size = 8 << 20
	h := stream(t, sb, fmt.Sprintf("head -c %d /dev/zero", size))
	until(t, h, ExecEventStarted)
	if res, err := sb.Shell(testContext(t), "echo fine"); err != nil || res.Stdout() != "fine\n" {
		t.Fatalf("beside an unread handle: %v", err)
	}
	select {
	case <-h.proc.p.Exited():
		t.Error("the command wrote everything although nobody reads")
	default:
	}
	res, err := h.Collect(testContext(t))
	if err != nil || len(res.StdoutBytes()) != size || res.State().Totals().Stdout != size {
		t.Fatalf("%d bytes, %v", len(res.StdoutBytes()), err)
	}
}

func testContextEndsTheStream(t *testing.T, sb *Sandbox) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h, err := sb.ShellStream(ctx, "echo before; sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	untilOutput(t, h, "before\n")
	cancel()
	ev, _ := until(t, h, ExecEventFailed)
	if !errors.Is(ev.Err, context.Canceled) {
		t.Fatalf("Failed carries %v", ev.Err)
	}
	until(t, h, ExecEventDone)
	if _, err := h.Wait(context.Background()); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait = %v", err)
	}
}

func testStreamTimeout(t *testing.T, sb *Sandbox) {
	h := stream(t, sb, "trap '' TERM; echo before; while :; do sleep 0.05; done", WithExecTimeout(700*time.Millisecond))
	res, err := h.Collect(testContext(t))
	if !errors.Is(err, context.DeadlineExceeded) || res.Stdout() != "before\n" {
		t.Fatalf("Collect = %q, %v", res.Stdout(), err)
	}
}

func TestStartOfAStreamFailsAsExecDoes(t *testing.T) {
	sb := agentSandbox(t)
	if _, err := sb.ExecStream(testContext(t), "no-such-command", nil); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("unknown command: %v", err)
	}
	var ce *ConfigError
	for _, opts := range [][]ExecOption{
		{nil}, {WithExecStdinPipe(), WithExecStdin(strings.NewReader("x"))}, {WithExecMaxOutput(0)}, {WithExecID("")}, {WithExecID(strings.Repeat("x", 129))},
	} {
		if _, err := sb.ExecStream(testContext(t), "true", nil, opts...); !errors.As(err, &ce) {
			t.Errorf("%v, want a ConfigError", err)
		}
	}
	if _, err := sb.Exec(testContext(t), "cat", nil, WithExecStdinPipe()); !errors.As(err, &ce) {
		t.Errorf("Exec with a stdin pipe: %v, want a ConfigError", err)
	}
	h := stream(t, sb, "sleep 1000", WithExecID("twice"))
	if _, err := sb.ExecStream(testContext(t), "true", nil, WithExecID("twice")); StartStage(err) != channel.StageSession {
		t.Errorf("second command with one ID: %v", err)
	}
	if h.TakeStdin() != nil {
		t.Error("TakeStdin without WithExecStdinPipe is not nil")
	}
	if h.Resize(1, 1) == nil {
		t.Error("Resize without a terminal succeeds")
	}
}

func TestMaxOutputKeepsBothEndsAndCountsTheRest(t *testing.T) {
	sb := agentSandbox(t)
	res, err := sb.Shell(testContext(t), "printf 0123456789; printf ab >&2", WithExecMaxOutput(6))
	if err != nil {
		t.Fatal(err)
	}
	out, errs := res.Dropped()
	if got, want := res.Stdout(), "012\n... omitting 4 bytes ...\n789"; got != want || out != 4 || res.Stderr() != "ab" || errs != 0 {
		t.Fatalf("%q, %q, dropped %d and %d", got, res.Stderr(), out, errs)
	}
	h := stream(t, sb, "printf 0123456789", WithExecMaxOutput(6))
	if res, err = h.Collect(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if out, _ := res.Dropped(); out != 4 || !strings.HasSuffix(res.Stdout(), "789") {
		t.Fatalf("Collect kept %q and dropped %d", res.Stdout(), out)
	}
}

func TestClearEnvLeavesOnlyWhatIsGiven(t *testing.T) {
	sb := agentSandbox(t)
	sb.cfg.env = []string{"FROM=sandbox"}
	res, err := sb.Exec(testContext(t), "/usr/bin/env", nil, WithExecEnv(map[string]string{"A": "b"}), WithExecClearEnv())
	if err != nil || res.Stdout() != "A=b\n" {
		t.Fatalf("%q, %v", res.Stdout(), err)
	}
}

func TestStdinErrorIsReportedAndDoesNotEndTheCommand(t *testing.T) {
	sb := agentSandbox(t)
	h := stream(t, sb, "exec 0</dev/null; echo closed; sleep 0.2; exit 6", WithExecStdinPipe())
	untilOutput(t, h, "closed")
	in := h.TakeStdin()
	var werr error
	soon(t, "Write", func() {
		for werr == nil {
			_, werr = in.Write(bytes.Repeat([]byte("x"), 64<<10))
		}
	})
	if !errors.Is(werr, syscall.EPIPE) {
		t.Fatalf("Write = %v, want EPIPE", werr)
	}
	var seen []ExecEventKind
	for ev, err := range h.Events(testContext(t)) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, ev.Kind)
		if ev.Kind == ExecEventExited && ev.ExitCode != 6 {
			t.Errorf("exit code %d", ev.ExitCode)
		}
	}
	if n := strings.Count(fmt.Sprint(seen), "stdin error"); n != 1 || seen[len(seen)-1] != ExecEventDone {
		t.Fatalf("events %v, want one stdin error", seen)
	}
}

func TestRecvLosesNothingWhenItsContextEnds(t *testing.T) {
	sb := agentSandbox(t)
	h := stream(t, sb, "read x; echo $x", WithExecStdinPipe())
	until(t, h, ExecEventStarted)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for range 100 {
		if _, err := h.Recv(over); !errors.Is(err, context.Canceled) {
			t.Fatalf("Recv = %v", err)
		}
	}
	if _, err := h.Wait(over); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait = %v", err)
	}
	io.WriteString(h.TakeStdin(), "word\n")
	if res, err := h.Collect(testContext(t)); err != nil || res.Stdout() != "word\n" {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestCloseEndsTheCommandAndEveryReceiver(t *testing.T) {
	sb := agentSandbox(t)
	h := stream(t, sb, "while :; do echo line; done")
	until(t, h, ExecEventStdout)
	got := make(chan error, 1)
	go func() {
		for {
			if _, err := h.Recv(context.Background()); err != nil {
				got <- err
				return
			}
		}
	}()
	soon(t, "Close", func() { h.Close(); h.Close() })
	soon(t, "Recv", func() {
		if err := <-got; err != ErrHandleClosed {
			t.Errorf("Recv = %v, want ErrHandleClosed", err)
		}
	})
	if _, err := h.Wait(testContext(t)); err == nil {
		t.Error("Wait of a command that Close ended succeeds")
	}
}

func TestLossOfTheAgentEndsAStreamWithItsError(t *testing.T) {
	sb := agentSandbox(t)
	h := stream(t, sb, "while :; do echo line; done")
	until(t, h, ExecEventStdout)
	sb.life.cause = &StoppedError{Reason: ReasonPanic}
	close(sb.life.ended)
	sb.client.Close()
	soon(t, "Wait", func() {
		if _, err := h.Wait(testContext(t)); !errors.Is(err, ErrStopped) {
			t.Errorf("Wait = %v, want ErrStopped", err)
		}
	})
}

func TestExitIsReportedWhileAnOrphanHoldsTheOutput(t *testing.T) {
	sb := agentSandbox(t)
	h := stream(t, sb, "echo hi; sleep 20 & exit 2", func(c *Cmd) error { c.WaitDelay = time.Hour; return nil })
	ev, _ := until(t, h, ExecEventExited)
	if ev.ExitCode != 2 {
		t.Fatalf("exit code %d", ev.ExitCode)
	}
	select {
	case <-h.proc.p.Done():
		t.Error("the output was over when the exit was reported: nothing held it, and this test shows nothing")
	default:
	}
	soon(t, "Close", func() { h.Close() })
}

func BenchmarkStreamOutput(b *testing.B) {
	sb := agentSandbox(b)
	const size = 16 << 20
	b.SetBytes(size)
	for b.Loop() {
		h, err := sb.ShellStream(context.Background(), fmt.Sprintf("head -c %d /dev/zero", size))
		if err != nil {
			b.Fatal(err)
		}
		if res, err := h.Wait(context.Background()); err != nil || res.State().Totals().Stdout != size {
			b.Fatal(err)
		}
	}
}
