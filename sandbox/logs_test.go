//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

// logOf returns a log's entries of one session, output joined by source, and the texts and kinds of its events.
func logOf(t *testing.T, sb *Sandbox, session string) (out map[execlog.Source]string, events []string) {
	t.Helper()
	out = make(map[execlog.Source]string)
	for e, err := range sb.Logs(testContext(t), execlog.Query{Session: session, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Source != execlog.System {
			out[e.Source] += string(e.Data)
			continue
		}
		events = append(events, string(e.Event.Kind))
		if e.Event.Kind == execlog.Exit || e.Event.Kind == execlog.Failed {
			events = append(events, string(e.Data))
			break
		}
	}
	return out, events
}

// testLogs runs against an agent in this process and, where a guest can run, against the one in a guest.
func testLogs(t *testing.T, sb *Sandbox) { testLogsThrough(t, sb, sb) }

// logSources is what a log holds of one command.
func logSources(stdout, stderr, output string) map[execlog.Source]string {
	m := make(map[execlog.Source]string)
	for src, s := range map[execlog.Source]string{execlog.Stdout: stdout, execlog.Stderr: stderr, execlog.Output: output} {
		if s != "" {
			m[src] = s
		}
	}
	return m
}

// logCase is a command and what the log has of it: output, and the start of its events.
type logCase struct {
	name   string
	run    func(id string) error
	want   map[execlog.Source]string
	events string
}

func logCases(t *testing.T, ctx context.Context, sb *Sandbox) []logCase {
	both := new(bytes.Buffer)
	return []logCase{
		{"exec", func(id string) error {
			_, err := sb.Shell(ctx, "echo out; echo err >&2; exit 3", WithExecID(id))
			return err
		}, logSources("out\n", "err\n", ""), "[start exit exit status 3]"},
		{"binary", func(id string) error {
			_, err := sb.Exec(ctx, "cat", nil, WithExecID(id), WithExecStdin(strings.NewReader("\x00\xff\xfe\n")))
			return err
		}, logSources("\x00\xff\xfe\n", "", ""), "[start exit exit status 0]"},
		{"discarded output", func(id string) error {
			c := sb.Command(ctx, "echo", "nobody reads this")
			c.SessionID = id
			return c.Run()
		}, logSources("nobody reads this\n", "", ""), "[start exit exit status 0]"},
		{"one pipe", func(id string) error {
			c := sb.Command(ctx, "sh", "-c", "echo a; echo b >&2; echo c")
			c.SessionID, c.Stdout, c.Stderr = id, both, both
			return c.Run()
		}, logSources("", "", "a\nb\nc\n"), "[start exit exit status 0]"},
		{"terminal", func(id string) error {
			_, err := sb.AttachWith(ctx, "echo", WithAttachArgs("tty"), WithAttachExec(WithExecID(id)), WithAttachIO(strings.NewReader(""), io.Discard, nil))
			return err
		}, logSources("", "", "tty\r\n"), "[start exit exit status 0]"},
		{"not started", func(id string) error {
			if _, err := sb.Exec(ctx, "no-such-command", nil, WithExecID(id)); err == nil {
				return errors.New("started")
			}
			return nil
		}, logSources("", "", ""), `[failed no-such-command: cannot start process: lookup "no-such-command": executable file not found in $PATH of the guest]`},
		{"session nobody follows", func(id string) error {
			_, err := sb.StartSession(ctx, "sh", []string{"-c", "seq 1 1000; echo end >&2; exit 9"}, WithExecID(id))
			return err
		}, logSources(numbers(1000), "end\n", ""), "[start exit exit status 9]"},
		{"session that was left", func(id string) error {
			h, err := sb.ShellStream(ctx, "echo first; read x; echo $x", WithExecID(id), WithExecDetachable(0), WithExecStdinPipe(), WithExecOpenStdin())
			if err != nil {
				return err
			}
			defer h.Close()
			untilOutput(t, h, "first\n")
			if err := h.Detach(); err != nil {
				return err
			}
			if _, err := h.Wait(ctx); !errors.Is(err, ErrDetached) {
				return err
			}
			f, err := sb.Session(id).Stream(ctx, WithStdin())
			if err != nil {
				return err
			}
			defer f.Close()
			in := f.TakeStdin()
			io.WriteString(in, "second\n")
			_, err = f.Wait(ctx)
			return err
		}, logSources("first\nsecond\n", "", ""), "[start exit exit status 0]"},
		{"killed", func(id string) error {
			_, err := sb.Shell(ctx, "kill -9 $$", WithExecID(id))
			return err
		}, logSources("", "", ""), "[start exit signal: killed]"},
	}
}

// testLogsThrough runs commands through sb, whose log is log's.
func testLogsThrough(t *testing.T, sb, log *Sandbox) {
	for _, tc := range logCases(t, testContext(t), sb) {
		if tc.name == "discarded output" && sb != log {
			continue // it does not pass the holder
		}
		id := "log of " + tc.name
		if err := tc.run(id); err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		got, events := logOf(t, log, id)
		if !reflect.DeepEqual(got, tc.want) || !strings.HasPrefix(fmt.Sprint(events), tc.events) {
			t.Errorf("%s: %q, %v\nwant %q, %s", tc.name, got, events, tc.want, tc.events)
		}
	}
}

func TestLogsHoldWhatCommandsPrinted(t *testing.T) {
	ring := execlog.NewRing(1 << 24)
	testLogs(t, agentSandbox(t, WithLogs(ring)))
}

func TestLogsInAGuest(t *testing.T) {
	ring := execlog.NewRing(1 << 24)
	sb := newSandbox(t, WithLogs(ring))
	testLogs(t, sb)
	sb.Close()
	var last execlog.Entry
	for e := range ring.Read(t.Context(), execlog.Query{Sources: []execlog.Source{execlog.System}}) {
		if e.Seq == 1 && e.Event.Kind != execlog.SandboxStart {
			t.Errorf("the first entry is %+v", e)
		}
		last = e
	}
	if last.Event == nil || last.Event.Kind != execlog.SandboxStop || string(last.Data) != "sandbox closed" {
		t.Errorf("the last entry is %+v", last)
	}
}

// failing is a sink that takes nothing.
type failing struct{}

func (failing) Log(execlog.Entry) error { return errors.New("full") }

func TestFailingLogTouchesNoCommand(t *testing.T) {
	sb := agentSandbox(t, WithLogs(failing{}))
	res, err := sb.Shell(testContext(t), "seq 1 10000; exit 4")
	if err != nil || res.Stdout() != numbers(10000) || res.ExitCode() != 4 {
		t.Errorf("%d bytes, code %d, %v", len(res.StdoutBytes()), res.ExitCode(), err)
	}
	for _, err := range sb.Logs(testContext(t), execlog.Query{}) {
		if !errors.Is(err, ErrNoLog) {
			t.Errorf("Logs = %v", err)
		}
	}
}

// slow is a sink that waits for release.
type slow struct{ release chan struct{} }

func (s slow) Log(e execlog.Entry) error {
	if e.Session == "slow" && e.Source == execlog.Stdout {
		<-s.release
	}
	return nil
}

func TestSlowLogSlowsOneCommandOnly(t *testing.T) {
	sink := slow{make(chan struct{})}
	sb := agentSandbox(t, WithLogs(sink))
	h := stream(t, sb, "echo x", WithExecID("slow"))
	soon(t, "another command", func() {
		if res, err := sb.Exec(testContext(t), "echo", []string{"quick"}); err != nil || res.Stdout() != "quick\n" {
			t.Errorf("%+v, %v", res, err)
		}
	})
	close(sink.release)
	if res, err := h.Collect(testContext(t)); err != nil || res.Stdout() != "x\n" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestLongCommandLineIsCutInTheLog(t *testing.T) {
	ring := execlog.NewRing(1 << 20)
	sb := agentSandbox(t, WithLogs(ring))
	if _, err := sb.Exec(testContext(t), "true", []string{strings.Repeat("x", 100_000), "y"}, WithExecID("long")); err != nil {
		t.Fatal(err)
	}
	for e := range sb.Logs(testContext(t), execlog.Query{Session: "long", Tail: 2, Until: time.Now()}) {
		if e.Event.Kind == execlog.Start && (len(e.Data) > 2*maxLoggedArgs || len(e.Event.Args) != 2 || !strings.HasSuffix(e.Event.Args[1], "...")) {
			t.Errorf("%d bytes, %d arguments", len(e.Data), len(e.Event.Args))
		}
	}
}

// The log follows sessions that may be left, and is no follower of those that sessions are shown with.
func TestLogIsNotCountedAsAFollower(t *testing.T) {
	ring := execlog.NewRing(1 << 20)
	sb := agentSandbox(t, WithLogs(ring))
	x, err := sb.StartSession(testContext(t), "sh", []string{"-c", "echo here; exec sleep 1000"}, WithExecID("left"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	for range ring.Read(ctx, execlog.Query{Session: "left", Sources: []execlog.Source{execlog.Stdout}, Follow: true}) {
		break // the log has an attachment of its own now
	}
	if info, err := x.Info(ctx); err != nil || info.Watchers != 0 || !info.Running {
		t.Errorf("%+v, %v", info, err)
	}
	if err := x.Kill(ctx); err != nil {
		t.Error(err)
	}
}
