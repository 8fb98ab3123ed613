//go:build linux && amd64

package sandbox

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cancelled starts script, waits for its first line and ends its context.
func cancelled(t *testing.T, script string, set func(*Cmd)) (*Cmd, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	c := agentSandbox(t).Command(ctx, "sh", "-c", script)
	ready := make(chan struct{})
	c.Stdout = writerFunc(func(p []byte) (int, error) { close(ready); return len(p), nil })
	set(c)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-ready
	cancel()
	return c, c.Wait()
}

func TestCancelReplacesTheKill(t *testing.T) {
	term := func(c *Cmd) { c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) } }
	c, err := cancelled(t, "trap 'exit 0' TERM; echo; while :; do sleep 0.01; done", term)
	if err != context.Canceled || !c.ProcessState.Success() {
		t.Errorf("exit 0 after Cancel: %v, %v; want the context's error", err, c.ProcessState)
	}
	c, err = cancelled(t, "trap 'exit 7' TERM; echo; while :; do sleep 0.01; done", term)
	var ee *ExitError
	if !errors.As(err, &ee) || ee.ExitCode() != 7 || c.ProcessState.ExitCode() != 7 {
		t.Errorf("exit 7 after Cancel: %v", err)
	}
	own := errors.New("own")
	_, err = cancelled(t, "trap 'exit 0' TERM; echo; while :; do sleep 0.01; done", func(c *Cmd) {
		c.Cancel = func() error { c.Process.Signal(syscall.SIGTERM); return own }
	})
	if !errors.Is(err, own) {
		t.Errorf("Cancel's error: %v", err)
	}
	_, err = cancelled(t, "trap 'exit 0' TERM; echo; while :; do sleep 0.01; done", func(c *Cmd) {
		c.Cancel = func() error { c.Process.Signal(syscall.SIGTERM); return os.ErrProcessDone }
	})
	if err != nil {
		t.Errorf("Cancel that was too late: %v", err)
	}
}

func TestCommandThatIgnoresCancelIsKilledAfterWaitDelay(t *testing.T) {
	c, err := cancelled(t, "echo; while :; do sleep 0.01; done", func(c *Cmd) {
		c.WaitDelay = 100 * time.Millisecond
		c.Cancel = func() error { return nil }
	})
	var ee *ExitError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &ee) || ee.Signal() != syscall.SIGKILL || c.ProcessState.Signal() != syscall.SIGKILL {
		t.Errorf("%v, %v; want the context's error and SIGKILL", err, c.ProcessState)
	}
}

func TestKilledByTheContextIsBothErrors(t *testing.T) {
	_, err := cancelled(t, "echo; sleep 1000", func(*Cmd) {})
	var ee *ExitError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &ee) || ee.ExitCode() != -1 || ee.ShellExitCode() != 137 {
		t.Errorf("%v", err)
	}
}

func TestEnvironIsWhatTheCommandGets(t *testing.T) {
	sb := agentSandbox(t)
	sb.cfg.env = []string{"A=1", "B=2"}
	c := sb.Command(testContext(t), "env")
	if err := c.AddEnv("B=3", "C=4"); err != nil {
		t.Fatal(err)
	}
	environ := c.Environ()
	for _, want := range []string{"A=1", "B=3", "C=4", "HOME=/root"} {
		if !slices.Contains(environ, want) {
			t.Errorf("%q lacks %s", environ, want)
		}
	}
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	slices.Sort(environ)
	if !slices.Equal(got, environ) {
		t.Errorf("env prints %q, Environ is %q", got, environ)
	}
	// The idiom of os/exec.
	c = sb.Command(testContext(t), "env")
	c.Env = append(c.Environ(), "D=5")
	if out, err := c.Output(); err != nil || !strings.Contains(string(out), "D=5\n") || !strings.Contains(string(out), "PATH=") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestDefaultsHoldUntilACommandSaysOtherwise(t *testing.T) {
	sb := agentSandbox(t)
	cfg, err := resolve([]Option{
		WithEnv("A=sandbox", "B=sandbox"),
		WithExecDefaults(WithExecCwd("/usr"), WithExecEnv(map[string]string{"B": "default", "C": "default"}), WithExecRlimit("nofile", 99, 99),
			WithExecMaxOutput(64)),
	})
	if err != nil {
		t.Fatal(err)
	}
	sb.cfg = cfg
	ctx := testContext(t)
	show := func(opts ...ExecOption) string {
		t.Helper()
		res, err := sb.Shell(ctx, "pwd; echo $A $B $C; ulimit -n", opts...)
		if err != nil {
			t.Fatal(err)
		}
		return res.Stdout()
	}
	if got := show(); got != "/usr\nsandbox default default\n99\n" {
		t.Errorf("%q", got)
	}
	if got := show(WithExecCwd("/"), WithExecEnv(map[string]string{"B": "own"}), WithExecRlimit("nofile", 88, 88)); got != "/\nsandbox own default\n88\n" {
		t.Errorf("%q", got)
	}
	if got := show(WithExecClearEnv()); got != "/usr\n\n99\n" {
		t.Errorf("%q", got)
	}
	if res, err := sb.Shell(ctx, "seq 1 1000"); err != nil || len(res.Stdout()) > 200 {
		t.Errorf("default output: %d bytes, %v", len(res.Stdout()), err)
	}
	c := sb.Command(ctx, "pwd")
	c.Dir = "/etc"
	if out, err := c.Output(); err != nil || string(out) != "/etc\n" {
		t.Errorf("%q, %v", out, err)
	}
	if sb.cfg, err = resolve([]Option{WithExecDefaults(WithExecTimeout(100 * time.Millisecond))}); err != nil {
		t.Fatal(err)
	}
	if _, err := sb.Shell(ctx, "sleep 1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("default timeout: %v", err)
	}
	if res, err := sb.Shell(ctx, "sleep 0.3; echo done", WithExecTimeout(0)); err != nil || res.Stdout() != "done\n" {
		t.Errorf("lifted timeout: %v", err)
	}
}

func TestDefaultsOfOneCommandAloneAreRefused(t *testing.T) {
	for name, o := range map[string]ExecOption{
		"stdin": WithExecStdin(strings.NewReader("")), "pipe": WithExecStdinPipe(), "tty": WithExecTTY(1, 1), "id": WithExecID("x"),
		"detachable": WithExecDetachable(0), "rlimit": WithExecRlimit("files", 1, 1), "cwd": WithExecCwd("relative"), "nil": nil,
		"memory": WithExecLimits(Limits{Memory: -1}), "cpus": WithExecLimits(Limits{CPUs: math.NaN()}), "few cpus": WithExecLimits(Limits{CPUs: 0.001}),
		"pids": WithExecLimits(Limits{Pids: -1}),
	} {
		var ce *ConfigError
		if _, err := resolve([]Option{WithExecDefaults(o)}); !errors.As(err, &ce) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancelFindsTheProcessHoweverSoonItIsCalled(t *testing.T) {
	sb := agentSandbox(t)
	for range 100 {
		ctx, cancel := context.WithCancel(testContext(t))
		c := sb.Command(ctx, "sleep", "1000")
		c.Cancel = func() error { return c.Process.Kill() }
		go cancel()
		err := c.Run()
		if c.Process == nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("not started: %v", err)
		}
		if ee := (*ExitError)(nil); c.Process != nil && (!errors.As(err, &ee) || ee.Signal() != syscall.SIGKILL) {
			t.Fatalf("started, and Wait = %v", err)
		}
	}
}
