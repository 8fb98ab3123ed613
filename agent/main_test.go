//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// agentEnv makes the test binary serve as an agent on file descriptor 3; with
// the value "init" it adopts and reaps orphans like process 1.
const agentEnv = "HUTCH_TEST_AGENT"

// longTime bounds what must happen; nothing here waits for it to pass.
const longTime = 60 * time.Second

func TestMain(m *testing.M) {
	if mode := os.Getenv(agentEnv); mode != "" {
		_ = unix.SetNonblock(3, true)
		serve := agent.Serve
		if mode == "init" {
			serve = agent.ServeReaping
		}
		err := serve(context.Background(), os.NewFile(3, "conn"), agent.Options{})
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(3)
	}
	goleak.VerifyTestMain(m)
}

// socketpair returns two connected ends: one for the host, one for an agent.
func socketpair(t testing.TB) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	}
	f := os.NewFile(uintptr(fds[0]), "host")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c, os.NewFile(uintptr(fds[1]), "agent")
}

// connect runs an agent in this process and returns a client for it.
func connect(t testing.TB, opt agent.Options) *channel.Client {
	t.Helper()
	conn, end := socketpair(t)
	// A busy machine is not taken for an agent that does not answer.
	c := connectOver(t, conn, end, opt, channel.Config{CancelWait: longTime})
	if os.Getenv("HUTCH_TEST_RELAY") != "" { // every test through a relay
		return relayed(t, c, nil)
	}
	return c
}

func connectOver(t testing.TB, conn net.Conn, end io.ReadWriteCloser, opt agent.Options, cfg channel.Config) *channel.Client {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), end, opt) }()
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	c, err := channel.NewClient(ctx, conn, cfg)
	if err != nil {
		t.Fatalf("NewClient: %v", err)
	}
	t.Cleanup(func() {
		c.Close()
		select {
		case <-served:
		case <-time.After(longTime):
			t.Error("agent.Serve did not return after the host's Close")
		}
	})
	return c
}

// connectProcess runs an agent in a process of its own.
func connectProcess(t testing.TB) (*channel.Client, *exec.Cmd) {
	t.Helper()
	return connectMode(t, "own")
}

func connectMode(t testing.TB, mode string) (*channel.Client, *exec.Cmd) {
	t.Helper()
	conn, end := socketpair(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentEnv+"="+mode)
	cmd.ExtraFiles = []*os.File{end}
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end.Close()
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	c, err := channel.NewClient(ctx, conn, channel.Config{})
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("NewClient: %v", err)
	}
	t.Cleanup(func() {
		c.Close()
		cmd.Process.Signal(unix.SIGCONT) // of a test that froze it and failed
		cmd.Wait()
	})
	return c, cmd
}

// result is what an exec gave.
type result struct {
	stdout, stderr string
	exit           *channel.Exit
}

func sh(script string) *channel.Request {
	return &channel.Request{Path: "sh", Args: []string{"sh", "-c", script}}
}

// run runs a request to its end.
func run(t testing.TB, c *channel.Client, req *channel.Request, stdin io.Reader) result {
	t.Helper()
	r, err := tryRun(c, req, stdin)
	if err != nil {
		t.Fatalf("%q: %v (stderr %q)", req.Args, err, r.stderr)
	}
	return r
}

func tryRun(c *channel.Client, req *channel.Request, stdin io.Reader) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	var stdout, stderr bytes.Buffer
	p, err := c.Start(ctx, req, channel.Stdio{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return result{}, err
	}
	e, err := p.Wait()
	return result{stdout.String(), stderr.String(), e}, err
}

// want checks all of a result.
func want(t testing.TB, r result, stdout, stderr string, code int) {
	t.Helper()
	if r.stdout != stdout || r.stderr != stderr || r.exit.Code != code {
		t.Fatalf("stdout %q stderr %q code %d; want %q %q %d", r.stdout, r.stderr, r.exit.Code, stdout, stderr, code)
	}
}

// wantStartError checks stage and errno and returns the error.
func wantStartError(t testing.TB, err error, stage string, errno channel.Errno) *channel.StartError {
	t.Helper()
	var se *channel.StartError
	if !errors.As(err, &se) {
		t.Fatalf("error %v (%T), want a *channel.StartError", err, err)
	}
	if se.Stage != stage || se.Errno != errno {
		t.Fatalf("%v: stage %q errno %d, want %q %d", err, se.Stage, se.Errno, stage, errno)
	}
	return se
}

// zeros is an endless reader that counts nothing and never fails.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }
