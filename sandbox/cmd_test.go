//go:build linux && amd64

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// agentSandbox is a sandbox without a machine: its agent runs in this process, which shows Cmd's behaviour without a guest.
func agentSandbox(t testing.TB, opts ...Option) *Sandbox {
	t.Helper()
	return agentSandboxOver(t, func(c net.Conn) net.Conn { return c }, opts...)
}

// agentSandboxOver is agentSandbox with the host's end of the connection as wrap returns it.
func agentSandboxOver(t testing.TB, wrap func(net.Conn) net.Conn, opts ...Option) *Sandbox {
	t.Helper()
	needsNoGuest(t)
	cfg, err := resolve(opts)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, guest := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
	conn, err := net.FileConn(host)
	host.Close()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), guest, agent.Options{}) }()
	client, err := channel.NewClient(testContext(t), wrap(conn), channel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := newLife()
	sb := &Sandbox{cfg: cfg, client: client, life: &m, logs: newExecLog(cfg, client)}
	t.Cleanup(func() {
		select {
		case <-m.ended:
		default:
			m.cause = ErrClosed
			close(m.ended)
		}
		client.Close()
		<-served
		sb.logs.close(m.cause)
	})
	return sb
}

// soon fails the test when f has not returned after a generous time.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s hangs", what)
	}
}

func TestWaitDoesNotWaitForTheReaderOfAPipe(t *testing.T) {
	sb := agentSandbox(t)
	c := sb.Command(testContext(t), "sh", "-c", "echo first; echo second")
	c.WaitDelay = 100 * time.Millisecond
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 3)
	if _, err := io.ReadFull(out, one); err != nil || string(one) != "fir" {
		t.Fatalf("read %q, %v", one, err)
	}
	soon(t, "Wait", func() { err = c.Wait() })
	if err != nil {
		t.Fatalf("Wait = %v", err)
	}
	if n, err := out.Read(one); n != 0 || err == nil || err == io.EOF {
		t.Fatalf("a read of cut output = %d, %v; want an error other than EOF", n, err)
	}
}

func TestClosedOutputPipeEndsTheCommandAsABrokenPipe(t *testing.T) {
	sb := agentSandbox(t)
	c := sb.Command(testContext(t), "sh", "-c", "while echo line; do :; done 2>/dev/null; exit 7")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "line\n" || err != nil {
		t.Fatalf("read %q, %v", line, err)
	}
	out.Close()
	soon(t, "Wait", func() { err = c.Wait() })
	var ee *ExitError
	if !errors.As(err, &ee) || ee.ExitCode() != 7 && ee.Signal() != syscall.SIGPIPE {
		t.Fatalf("Wait = %v; want exit status 7 or SIGPIPE", err)
	}
}

func TestStdinPipeOfACommandThatTakesNoMoreFailsWithEPIPE(t *testing.T) {
	sb := agentSandbox(t)
	c := sb.Command(testContext(t), "true")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	soon(t, "Write", func() {
		for err == nil {
			_, err = in.Write(make([]byte, 64<<10))
		}
	})
	if !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("Write = %v, want EPIPE", err)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("Wait = %v", err)
	}
	if err := c.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("Kill = %v, want os.ErrProcessDone", err)
	}
}

func TestMisuseOfCmdIsAnErrorAndNeverAPanic(t *testing.T) {
	sb := agentSandbox(t)
	ctx := testContext(t)
	var ce *ConfigError
	if err := (&Cmd{Path: "true"}).Run(); !errors.As(err, &ce) {
		t.Errorf("Run of a zero Cmd = %v, want a ConfigError", err)
	}
	if err := sb.Command(nil, "true").Run(); !errors.As(err, &ce) { //nolint:staticcheck // the nil context is the subject
		t.Errorf("Run without a context = %v, want a ConfigError", err)
	}
	c := sb.Command(ctx, "true")
	if err := c.Wait(); err == nil {
		t.Error("Wait before Start succeeds")
	}
	if err := c.Run(); err != nil {
		t.Error(err)
	}
	if c.Wait() == nil || c.Start() == nil {
		t.Error("a second Wait or Start succeeds")
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	c = sb.Command(over, "true")
	out, _ := c.StdoutPipe()
	if err := c.Start(); !errors.Is(err, context.Canceled) {
		t.Errorf("Start with an ended context = %v", err)
	}
	soon(t, "Read after a failed Start", func() {
		if _, err := out.Read(make([]byte, 1)); err == nil {
			t.Error("Read after a failed Start succeeds")
		}
	})
}

func TestEnvNilInheritsAndEnvSetReplaces(t *testing.T) {
	sb := agentSandbox(t)
	sb.cfg.env = []string{"FROM=sandbox"}
	for _, tc := range []struct {
		env  []string
		want string
	}{{nil, "sandbox"}, {[]string{}, ""}, {[]string{"FROM=a", "FROM=b"}, "b"}} {
		c := sb.Command(testContext(t), "/bin/sh", "-c", "echo $FROM")
		c.Env = tc.env
		if out, err := c.Output(); err != nil || strings.TrimSpace(string(out)) != tc.want {
			t.Errorf("Env %q: %q, %v; want %q", tc.env, out, err, tc.want)
		}
	}
}

func TestInitTimeStaysWithinTheBootWhateverTheGuestSays(t *testing.T) {
	const boot = time.Second
	for _, tc := range []struct {
		start, hello int64
		want         time.Duration
	}{{0, 1e8, 9e8}, {5, 5, boot}, {9, 3, boot}, {0, math.MaxInt64, 0}, {math.MinInt64, math.MaxInt64, boot}, {-1, 5, boot}} {
		if got := initTime(boot, tc.start, tc.hello); got != tc.want {
			t.Errorf("initTime(%d, %d) = %v, want %v", tc.start, tc.hello, got, tc.want)
		}
	}
}

func TestCommandThatPrintsWithoutEndIsEndedAtTheLimit(t *testing.T) {
	sb := agentSandbox(t)
	for _, script := range []string{"while :; do echo flood; done", "trap '' PIPE; while :; do echo flood; done 2>/dev/null"} {
		c := sb.Command(testContext(t), "sh", "-c", script)
		out := newCapture(c)
		out.limit = 1 << 20
		c.Stdout = out
		var err error
		soon(t, "Run", func() { err = c.Run() })
		var le *OutputLimitError
		if !errors.As(err, &le) || le.Limit != 1<<20 {
			t.Fatalf("%s: Run = %v, want an OutputLimitError", script, err)
		}
		got := out.seal()
		if len(got) != 1<<20 || strings.Trim(string(got), "flod\n") != "" {
			t.Fatalf("%s: %d bytes collected, want exactly the limit", script, len(got))
		}
	}
}
