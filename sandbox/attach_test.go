//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// screen collects what a terminal shows.
type screen struct {
	mu      sync.Mutex
	changed *sync.Cond
	text    bytes.Buffer
}

func newScreen() *screen {
	s := &screen{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
	return s.text.Write(p)
}

// expect waits until the screen has shown want.
func (s *screen) expect(t *testing.T, want string) {
	t.Helper()
	soon(t, fmt.Sprintf("the screen, without %q,", want), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for !strings.Contains(s.text.String(), want) {
			s.changed.Wait()
		}
	})
}

// attached is an attachment that a test types into.
type attached struct {
	keys   *io.PipeWriter
	screen *screen
	resize chan WinSize
	result chan error
	code   int
}

func attach(t *testing.T, ctx context.Context, sb *Sandbox, script string, opts ...AttachOption) *attached {
	r, w := io.Pipe()
	x := &attached{keys: w, screen: newScreen(), resize: make(chan WinSize), result: make(chan error, 1)}
	opts = append([]AttachOption{WithAttachArgs("-c", script), WithAttachIO(r, x.screen, x.resize), WithAttachSize(37, 91)}, opts...)
	go func() {
		var err error
		x.code, err = sb.AttachWith(ctx, "/bin/sh", opts...)
		x.result <- err
	}()
	t.Cleanup(func() { w.Close() })
	return x
}

func (x *attached) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(x.keys, keys); err != nil {
		t.Fatal(err)
	}
}

func (x *attached) wait(t *testing.T) (err error) {
	t.Helper()
	soon(t, "AttachWith", func() { err = <-x.result })
	return err
}

// attachTests run against an agent in this process and, where a guest can run, against the one in a guest.
var attachTests = []struct {
	name string
	run  func(*testing.T, *Sandbox)
}{
	{"keys and exit code", testAttachOverAnyReader},
	{"detach leaves the command running", testDetach},
	{"context kills the command", testAttachContext},
}

func TestAttach(t *testing.T) {
	for _, tc := range attachTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, agentSandbox(t)) })
	}
}

func TestAttachInAGuest(t *testing.T) {
	sb := shared.get(t)
	for _, tc := range attachTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, sb) })
	}
}

func testAttachOverAnyReader(t *testing.T, sb *Sandbox) {
	x := attach(t, testContext(t), sb, "echo ready; cat; exit 4")
	x.screen.expect(t, "ready\r\n")
	x.press(t, "typed\r")
	x.screen.expect(t, "typed\r\ntyped\r\n")
	x.press(t, "\x04") // Ctrl-D is a key like any other
	if err := x.wait(t); err != nil || x.code != 4 {
		t.Fatalf("code %d, %v", x.code, err)
	}
}

// The guest's stty does not know "size", so this one needs an agent on the host.
func TestSizesOfAnAttachmentReachTheCommand(t *testing.T) {
	sb := agentSandbox(t)
	x := attach(t, testContext(t), sb, `stty size; cat; until [ "$(stty size)" = "11 22" ]; do sleep 0.05; done; echo resized; exit 4`)
	x.screen.expect(t, "37 91\r\n")
	x.press(t, "typed\r")
	x.screen.expect(t, "typed\r\ntyped\r\n")
	x.press(t, "\x04") // Ctrl-D is a key like any other
	x.resize <- WinSize{11, 22}
	x.screen.expect(t, "resized\r\n")
	if err := x.wait(t); err != nil || x.code != 4 {
		t.Fatalf("code %d, %v", x.code, err)
	}
}

func testDetach(t *testing.T, sb *Sandbox) {
	ctx, cancel := context.WithCancel(testContext(t))
	x := attach(t, ctx, sb, "cat", WithAttachDetachKeys("ctrl-p,ctrl-q"), WithAttachExec(WithExecID("left-behind")))
	x.press(t, "one\r")
	x.screen.expect(t, "one\r\none\r\n")
	x.press(t, "\x10")
	x.press(t, "two\r")               // the match has failed
	x.screen.expect(t, "\x10two\r\n") // cat's copy; the echo shows ^P
	x.press(t, "\x10")
	x.press(t, "\x11")
	err := x.wait(t)
	var de *DetachedError
	if !errors.Is(err, ErrDetached) || !errors.As(err, &de) || de.SessionID != "left-behind" || x.code != -1 {
		t.Fatalf("code %d, %v; want a DetachedError", x.code, err)
	}
	cancel() // it has no power over the command any more
	list, err := sb.client.Sessions(testContext(t))
	if err != nil || !slices.ContainsFunc(list, func(i channel.SessionInfo) bool { return i.ID == "left-behind" && i.Running }) {
		t.Fatalf("sessions after detaching: %+v, %v", list, err)
	}
	keys, again := io.Pipe()
	defer again.Close()
	s := newScreen()
	p, err := sb.client.Attach(testContext(t), "left-behind", channel.AttachRequest{}, channel.Stdio{Stdin: keys, Stdout: s})
	if err != nil {
		t.Fatal(err)
	}
	s.expect(t, "\x10two\r\n") // replayed
	if _, err := io.WriteString(again, "three\r"); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "three\r\nthree\r\n")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Signal != channel.SIGKILL {
		t.Fatalf("%+v, %v", exit, err)
	}
}

func testAttachContext(t *testing.T, sb *Sandbox) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	x := attach(t, ctx, sb, "echo ready; sleep 1000")
	x.screen.expect(t, "ready")
	cancel()
	if err := x.wait(t); !errors.Is(err, context.Canceled) {
		t.Fatalf("AttachWith = %v, want context.Canceled", err)
	}
}

func TestEndOfTheReaderTypesEndOfFile(t *testing.T) {
	sb := agentSandbox(t)
	var out bytes.Buffer
	code, err := sb.AttachWith(testContext(t), "cat", WithAttachIO(strings.NewReader("line\n"), &out, nil))
	if err != nil || code != 0 || !strings.Contains(out.String(), "line\r\nline\r\n") {
		t.Fatalf("code %d, %v, screen %q", code, err, out.String())
	}
}

func TestFailingScreenEndsTheCommand(t *testing.T) {
	sb := agentSandbox(t)
	broken := errors.New("screen is broken")
	r, w := io.Pipe()
	defer w.Close()
	_, err := sb.AttachWith(testContext(t), "sh", WithAttachArgs("-c", "echo x; sleep 1000"), WithAttachIO(r, failingWriter{broken}, nil))
	if !errors.Is(err, broken) {
		t.Fatalf("%v, want the writer's error", err)
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }

func TestAttachNeedsATerminalAndSaysSo(t *testing.T) {
	sb := agentSandbox(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, err = sb.AttachWith(testContext(t), "sh", withTestTerminal(null, null))
	var te *TerminalError
	if !errors.Is(err, ErrNotTerminal) || !errors.As(err, &te) {
		t.Fatalf("%v, want a TerminalError that is ErrNotTerminal", err)
	}
	var ce *ConfigError
	for _, o := range []AttachOption{nil, WithAttachIO(nil, io.Discard, nil), WithAttachDetachKeys("ctrl-ab")} {
		if _, err := sb.AttachWith(testContext(t), "sh", o); !errors.As(err, &ce) {
			t.Errorf("%v, want a ConfigError", err)
		}
	}
}

// withTestTerminal takes in and out as the caller's terminal.
func withTestTerminal(in, out *os.File) AttachOption {
	return func(a *attachment) error {
		a.open = func() (*terminal, error) { return newTerminal(in, out) }
		return nil
	}
}

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	got, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *got
}

func TestTerminalIsRawWhileAttachedAndRestoredAfterwards(t *testing.T) {
	for _, tc := range []struct {
		name, script, keys string
		end                func(*Sandbox, context.CancelFunc)
		want               error
	}{
		{"exit", "read x; exit 3", "\r", nil, nil},
		{"detach keys", "cat", "\x1d", nil, ErrDetached},
		{"context", "cat", "", func(_ *Sandbox, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"end of the machine", "cat", "", func(sb *Sandbox, _ context.CancelFunc) {
			sb.life.cause = &StoppedError{Reason: ReasonPanic}
			close(sb.life.ended)
			sb.client.Close()
		}, ErrStopped},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sb := agentSandbox(t)
			user, tty, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer user.Close()
			defer tty.Close()
			if err := pty.Setsize(user, &pty.Winsize{Rows: 33, Cols: 77}); err != nil {
				t.Fatal(err)
			}
			before := termios(t, tty)
			s := newScreen()
			go io.Copy(s, user)
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			result := make(chan error, 1)
			var code int
			go func() {
				var err error
				code, err = sb.AttachWith(ctx, "sh", WithAttachArgs("-c", "stty size; "+tc.script), withTestTerminal(tty, tty))
				result <- err
			}()
			s.expect(t, "33 77")
			if now := termios(t, tty); now.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
				t.Errorf("local flags %#x: not raw", now.Lflag)
			}
			if tc.end != nil {
				tc.end(sb, cancel)
			} else if _, err := io.WriteString(user, tc.keys); err != nil {
				t.Fatal(err)
			}
			soon(t, "AttachWith", func() { err = <-result })
			if !errors.Is(err, tc.want) || tc.want == nil && (err != nil || code != 3) {
				t.Errorf("code %d, %v; want %v", code, err, tc.want)
			}
			if after := termios(t, tty); after != before {
				t.Errorf("terminal is %+v, was %+v", after, before)
			}
		})
	}
}

func TestWindowChangeOfTheCallersTerminalReachesTheCommand(t *testing.T) {
	sb := agentSandbox(t)
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer tty.Close()
	s := newScreen()
	go io.Copy(s, user)
	result := make(chan error, 1)
	go func() {
		_, err := sb.AttachWith(testContext(t), "sh", WithAttachArgs("-c", `echo ready; until [ "$(stty size)" = "12 34" ]; do sleep 0.05; done; echo resized`), withTestTerminal(tty, tty))
		result <- err
	}()
	s.expect(t, "ready")
	if err := pty.Setsize(user, &pty.Winsize{Rows: 12, Cols: 34}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil { // it is not this process's controlling terminal
		t.Fatal(err)
	}
	s.expect(t, "resized")
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}
