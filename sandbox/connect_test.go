//go:build linux && amd64

package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

// served serves sb at a socket of the test's.
func served(t testing.TB, sb *Sandbox) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hutch") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- sb.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
		os.RemoveAll(dir)
	})
	return path
}

func connected(t testing.TB, path string) *Sandbox {
	t.Helper()
	sb, err := ConnectSocket(testContext(t), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	return sb
}

// What a process of its own can do with a sandbox, others can do by the holder's socket.
func TestAcceptanceThroughAHolder(t *testing.T) {
	for _, tc := range acceptTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, connected(t, served(t, agentSandbox(t)))) })
	}
}

// What control groups do, which the agent in this process has not.
func TestTreesEndThroughAHolderInAGuest(t *testing.T) {
	path := served(t, shared.get(t))
	for _, tc := range acceptTests {
		switch tc.name {
		case "KillReachesWhoLeftTheSession", "DeafCommandIsKilledAfterGraceWithItsOutput", "ClosingAHandleKillsTheOrphanThatHoldsItsOutput":
			t.Run(tc.name, func(t *testing.T) { tc.run(t, connected(t, path)) })
		}
	}
}

func TestSessionsAndStreamsThroughAHolder(t *testing.T) {
	for _, tc := range sessionTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, connected(t, served(t, agentSandbox(t)))) })
	}
	for _, tc := range streamTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, connected(t, served(t, agentSandbox(t)))) })
	}
}

func TestTwoProcessesShareSessionsAndOneLeavingHurtsNobody(t *testing.T) {
	path := served(t, agentSandbox(t))
	a, b := connected(t, path), connected(t, path)
	ctx := testContext(t)
	x, err := a.StartSession(ctx, "sh", []string{"-c", "read x; echo got $x"}, WithExecID("shared"), WithExecOpenStdin())
	if err != nil {
		t.Fatal(err)
	}
	attached, err := a.ExecStream(ctx, "sleep", []string{"1000"})
	if err != nil {
		t.Fatal(err)
	}
	if x.ID() != "shared" {
		t.Fatal(x.ID())
	}
	a.Close()
	if _, err := attached.Wait(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("a command of a closed connection: %v", err)
	}
	if _, err := a.Exec(ctx, "true", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Exec after Close: %v", err)
	}
	h, err := b.Session("shared").Stream(ctx, WithStdin())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	in := h.TakeStdin()
	if _, err := in.Write([]byte("it\n")); err != nil {
		t.Fatal(err)
	}
	if res, err := h.Collect(ctx); err != nil || res.Stdout() != "got it\n" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestDefaultsOfTheHolderHoldForOthers(t *testing.T) {
	for _, clear := range []bool{false, true} {
		opts := []ExecOption{WithExecCwd("/usr"), WithExecEnv(map[string]string{"B": "default"}), WithExecRlimit("nofile", 99, 99)}
		if clear {
			opts = append(opts, WithExecClearEnv())
		}
		sb := agentSandbox(t, WithEnv("A=sandbox"), WithExecDefaults(opts...))
		other := connected(t, served(t, sb))
		for _, s := range []*Sandbox{sb, other} {
			res, err := s.Shell(testContext(t), "pwd; echo $A $B ${HOME:-none}; ulimit -n")
			want := "/usr\nsandbox default /root\n99\n"
			if clear {
				want = "/usr\nsandbox default none\n99\n"
			}
			if err != nil || res.Stdout() != want {
				t.Errorf("cleared %v: %q, %v; want %q", clear, res.Stdout(), err, want)
			}
			if res, err := s.Shell(testContext(t), "pwd; echo $A", WithExecCwd("/"), WithExecEnv(map[string]string{"A": "own"})); err != nil || res.Stdout() != "/\nown\n" {
				t.Errorf("%q, %v", res.Stdout(), err)
			}
		}
	}
}

func TestHolderLogsWhatOthersRun(t *testing.T) {
	ring := execlog.NewRing(1 << 24)
	sb := agentSandbox(t, WithLogs(ring))
	other := connected(t, served(t, sb))
	testLogsThrough(t, other, sb)
	for _, err := range other.Logs(testContext(t), execlog.Query{}) {
		if !errors.Is(err, ErrNoLog) {
			t.Errorf("Logs of a connected sandbox: %v", err)
		}
	}
}

func TestEndOfTheSandboxReachesThoseConnected(t *testing.T) {
	for name, cause := range map[string]error{
		"closed": ErrClosed, "panic": &StoppedError{Reason: ReasonPanic, Message: "oops", Console: []byte("last words"), Err: errors.New("why")},
	} {
		sb := agentSandbox(t)
		path := served(t, sb)
		other := connected(t, path)
		h, err := other.ExecStream(testContext(t), "sleep", []string{"1000"})
		if err != nil {
			t.Fatal(err)
		}
		sb.life.cause = cause
		close(sb.life.ended)
		close(sb.life.done)
		sb.client.Close()
		_, err = h.Wait(testContext(t))
		var se *StoppedError
		switch {
		case cause == ErrClosed:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		case !errors.As(err, &se) || se.Reason != ReasonPanic || se.Message != "oops" || string(se.Console) != "last words" || se.Err.Error() != "why":
			t.Errorf("%s: %v", name, err)
		}
		if err := other.Wait(testContext(t)); cause == ErrClosed && err != nil || cause != ErrClosed && !errors.Is(err, ErrStopped) {
			t.Errorf("%s: Wait = %v", name, err)
		}
		if _, err := ConnectSocket(testContext(t), path); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: connecting afterwards: %v", name, err)
		}
	}
}

func TestLostHolderIsAnErrorAtOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "hutch") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	sb := agentSandbox(t)
	var conns []net.Conn
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			go (&server{sb, greetTime}).conn(context.Background(), context.Background(), conn)
		}
	}()
	other := connected(t, l.Addr().String())
	h, err := other.ExecStream(testContext(t), "sleep", []string{"1000"})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	<-accepted
	for _, c := range conns {
		c.Close()
	}
	var se *StoppedError
	if _, err := h.Wait(testContext(t)); !errors.As(err, &se) || se.Reason != ReasonHolder || !errors.Is(err, ErrHolderLost) {
		t.Errorf("Wait = %v", err)
	}
	<-other.Done()
}

func TestConnectionsThatSayNonsenseAreClosed(t *testing.T) {
	path := served(t, agentSandbox(t))
	for _, line := range []string{"\n", "{}\n", `{"version":99,"op":"info"}` + "\n", `{"version":1,"op":"fly"}` + "\n", "not json\n"} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, _ := conn.Read(b)
		if n > 0 && !strings.Contains(string(b[:n]), `"error"`) {
			t.Errorf("%q is answered with %q", line, b[:n])
		}
		conn.Close()
	}
	if res, err := connected(t, path).Exec(testContext(t), "echo", []string{"fine"}); err != nil || res.Stdout() != "fine\n" {
		t.Errorf("afterwards: %+v, %v", res, err)
	}
}

func TestAHolderThatDoesNotAnswerIsNamedWithTheContextsError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	go func() {
		if conn, err := l.Accept(); err == nil {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1)) // it has asked
			cancel()
			<-t.Context().Done() // it says nothing until the test is over
		}
	}()
	_, err = ConnectSocket(ctx, path)
	if !errors.Is(err, context.Canceled) || err.Error() != "sandbox: "+path+": the holder does not answer: context canceled" {
		t.Errorf("ConnectSocket = %v", err)
	}
}

func TestNamesThatDoNotRunAreTypedErrors(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	ctx := testContext(t)
	if _, err := Connect(ctx, "nobody"); !errors.Is(err, ErrNotRunning) || !errors.Is(err, ErrNoSuchSandbox) || !strings.Contains(err.Error(), "hutch create nobody") {
		t.Errorf("Connect = %v", err)
	}
	if err := Remove("nobody"); !errors.Is(err, ErrNoSuchSandbox) {
		t.Errorf("Remove = %v", err)
	}
	for _, name := range []string{"", "../x", "a b", "-x", strings.Repeat("x", 41), "a/b"} {
		var ce *ConfigError
		if _, err := Connect(ctx, name); !errors.As(err, &ce) {
			t.Errorf("Connect(%q) = %v", name, err)
		}
	}
	if list, err := Named(); err != nil || len(list) != 0 {
		t.Errorf("Named = %v, %v", list, err)
	}
	// A holder that was killed leaves its record and its socket; neither counts.
	n, err := placeOf("dead")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.write(&Record{Name: "dead", Running: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(ctx, "dead"); !errors.Is(err, ErrNotRunning) || errors.Is(err, ErrNoSuchSandbox) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Connect to a dead one = %v", err)
	}
	if err := Hold(ctx, "dead", nil); !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), "hutch rm dead") {
		t.Errorf("Hold of a taken name = %v", err)
	}
	if err := Remove("dead"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("its folder is still there")
	}
	// A runtime directory of somebody else's is refused.
	if err := os.Chmod(filepath.Join(dir, "run", "hutch"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(ctx, "nobody"); err == nil || !strings.Contains(err.Error(), "XDG_RUNTIME_DIR") {
		t.Errorf("Connect through an open directory = %v", err)
	}
}

// A shell with another runtime directory than the holder's, or with none, reaches the sandbox; a socket in a folder that others may write is not used.
func TestASandboxIsReachedWhereItsHolderMadeTheSocket(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "other"))
	path := served(t, agentSandbox(t))
	n, err := placeOf("x")
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := n.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := n.write(&Record{Name: "x", Socket: path}); err != nil {
		t.Fatal(err)
	}
	sb, err := Connect(testContext(t), "x")
	if err != nil {
		t.Fatal(err)
	}
	sb.Close()
	for _, gone := range []string{filepath.Join(filepath.Dir(path), "none"), filepath.Join(dir, "none", "x.sock")} {
		if err := n.write(&Record{Name: "x", PID: 4711, Socket: gone}); err != nil {
			t.Fatal(err)
		}
		if _, err := Connect(testContext(t), "x"); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "process 4711") {
			t.Errorf("Connect without the socket = %v", err)
		}
	}
	if err := errors.Join(n.write(&Record{Name: "x", Socket: path}), os.Chmod(filepath.Dir(path), 0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(testContext(t), "x"); err == nil || !strings.Contains(err.Error(), "not a directory of this user's alone") {
		t.Errorf("Connect through a folder that all may write = %v", err)
	}
}

// Locks hold while sandboxes of the name come and go, and those who look do not disturb.
func TestLockHasOneHolderAtATime(t *testing.T) {
	dir := t.TempDir()
	n := named{name: "x", dir: filepath.Join(dir, "x")}
	var holders atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				unlock, err := n.lock()
				if errors.Is(err, ErrRunning) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) != 1 {
					t.Error("two holders")
				}
				holders.Add(-1)
				os.RemoveAll(n.dir)
				unlock()
			}
		})
		wg.Go(func() {
			for range 500 {
				if _, err := n.running(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range 2 { // nobody has it: those who ask at once agree
		for range 8 {
			wg.Go(func() {
				for range 200 {
					if running, err := n.running(); running || err != nil {
						t.Errorf("running %v, %v", running, err)
					}
				}
			})
		}
		wg.Wait()
		if unlock, err := n.lock(); err == nil {
			unlock()
		}
	}
}

// The end of a sandbox waits for nobody who says nothing, and not long for one who does not read.
func TestServeEndsWithTheSandboxWhateverClientsDo(t *testing.T) {
	for _, tc := range []struct {
		name     string
		patience time.Duration
		say      string
	}{
		{"a client that says nothing", time.Hour, ""},
		{"half a line", time.Hour, `{"version":1,`},
		{"a client that does not read the end", time.Millisecond, `{"version":1,"op":"wait"}` + "\n"},
		{"one that does not speak the protocol of execs", time.Millisecond, `{"version":1,"op":"exec"}` + "\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sb := agentSandbox(t)
			dir, err := os.MkdirTemp("", "hutch") // a socket's path is short
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- (&server{sb, tc.patience}).serve(l) }()
			conn, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(tc.say)); err != nil {
				t.Fatal(err)
			}
			if tc.patience > time.Minute {
				connected(t, l.Addr().String()) // it disturbs no other
			}
			sb.life.cause = ErrClosed
			close(sb.life.ended)
			close(sb.life.done)
			sb.client.Close()
			if err := <-done; err != nil {
				t.Errorf("Serve = %v", err)
			}
		})
	}
}
