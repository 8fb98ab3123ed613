//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// longAgent is an agent that outlives its connections.
func longAgent(t *testing.T, opt agent.Options) (connect func() *channel.Client) {
	t.Helper()
	a, err := agent.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { wg.Wait(); a.Close() })
	return func() *channel.Client {
		t.Helper()
		conn, end := socketpair(t)
		wg.Go(func() { a.Serve(context.Background(), end) })
		c, err := channel.NewClient(context.Background(), conn, channel.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// syncBuffer collects output while it is looked at.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func attach(t *testing.T, c *channel.Client, id string, req channel.AttachRequest, in io.Reader) (*channel.Process, *syncBuffer) {
	t.Helper()
	out := new(syncBuffer)
	p, err := c.Attach(context.Background(), id, req, channel.Stdio{Stdin: in, Stdout: out, Stderr: io.Discard})
	if err != nil {
		t.Fatalf("attach: %v", err)
	}
	return p, out
}

func detachable(script, id string) *channel.Request {
	r := sh(script)
	r.Session, r.Detachable = id, true
	return r
}

func TestDetachReattachOverAnotherConnection(t *testing.T) {
	dial := longAgent(t, agent.Options{})
	c := dial()
	pr, pw := io.Pipe()
	defer pw.Close()
	var out syncBuffer
	req := detachable("echo ready; cat; echo end; exit 7", "s")
	req.OpenStdin = true
	p, err := c.Start(context.Background(), req, channel.Stdio{Stdin: pr, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	pw.Write([]byte("one\n"))
	eventually(t, "the first output", func() bool { return out.String() == "ready\none\n" })
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	if e, err := p.Wait(); e != nil || !errors.Is(err, channel.ErrDetached) {
		t.Fatalf("%+v, %v; want ErrDetached", e, err)
	}
	at, _ := p.Cursors()
	if at != int64(len("ready\none\n")) {
		t.Fatalf("cursor %d", at)
	}
	c.Close()
	c = dial()
	list, err := c.Sessions(context.Background())
	if err != nil || len(list) != 1 || list[0].ID != "s" || !list[0].Running || list[0].PID != p.PID() || list[0].Stdout.To != at || list[0].Exit != nil {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := c.Forget(context.Background(), "s"); !errors.Is(err, channel.ErrSessionRunning) {
		t.Fatal(err)
	}
	q, rest := attach(t, c, "s", channel.AttachRequest{FromStdout: at}, strings.NewReader("two\n"))
	if e, err := q.Wait(); err != nil || e.Code != 7 || rest.String() != "two\nend\n" || e.Stdin != 8 {
		t.Fatalf("%+v, %v, %q", e, err, rest.String())
	}
	// The exit status and the output stay.
	eventually(t, "the end of the session", func() bool { l, _ := c.Sessions(context.Background()); return len(l) == 1 && !l[0].Running })
	q, all := attach(t, c, "s", channel.AttachRequest{}, nil)
	if e, err := q.Wait(); err != nil || e.Code != 7 || all.String() != "ready\none\ntwo\nend\n" {
		t.Fatalf("%+v, %v, %q", e, err, all.String())
	}
	if err := c.Forget(context.Background(), "s"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Attach(context.Background(), "s", channel.AttachRequest{}, channel.Stdio{}); !errors.Is(err, channel.ErrSessionNotFound) {
		t.Fatal(err)
	}
	if err := c.Forget(context.Background(), "s"); !errors.Is(err, channel.ErrSessionNotFound) {
		t.Fatal(err)
	}
}

func TestLostConnectionLeavesADetachableSession(t *testing.T) {
	dial := longAgent(t, agent.Options{})
	c := dial()
	pr, pw := io.Pipe()
	defer pw.Close()
	p, err := c.Start(context.Background(), detachable("cat; echo end", "s"), channel.Stdio{Stdin: pr, Stdout: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := p.Wait(); !errors.Is(err, channel.ErrAgentLost) {
		t.Fatal(err)
	}
	c = dial()
	var q *channel.Process
	out := new(syncBuffer)
	eventually(t, "stdin is free", func() bool {
		q, err = c.Attach(context.Background(), "s", channel.AttachRequest{}, channel.Stdio{Stdin: strings.NewReader("x\n"), Stdout: out})
		return !errors.Is(err, channel.ErrStdinBusy)
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := q.Wait(); err != nil || e.Code != 0 || out.String() != "x\nend\n" {
		t.Fatalf("%+v, %v, %q", e, err, out.String())
	}
}

func TestDetachedProcessNeverBlocksAndGapsAreErrors(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	req := detachable("head -c 3000000 /dev/zero | tr '\\0' x; echo last", "s")
	req.Detached, req.Replay = true, 4096
	p, err := c.Start(context.Background(), req, channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	const total = 3000000 + 5
	if e, err := p.Wait(); err != nil || e.Stdout != total {
		t.Fatalf("%+v, %v", e, err)
	}
	var g *channel.GapError
	_, err = c.Attach(context.Background(), "s", channel.AttachRequest{FromStdout: 10}, channel.Stdio{Stdout: io.Discard})
	if !errors.As(err, &g) || *g != (channel.GapError{Stream: "stdout", Want: 10, Have: total - 4096}) {
		t.Fatalf("%v", err)
	}
	var seen []channel.GapError
	q, out := attach(t, c, "s", channel.AttachRequest{FromStdout: 10, AllowGap: true, OnGap: func(g channel.GapError) { seen = append(seen, g) }}, nil)
	if _, err := q.Wait(); err != nil {
		t.Fatal(err)
	}
	skipped, _ := q.Skipped()
	if at, _ := q.Cursors(); len(out.String()) != 4096 || !strings.HasSuffix(out.String(), "xlast\n") || skipped != total-4096-10 || len(seen) != 1 || seen[0] != *g || at != total {
		t.Fatalf("%d bytes, skipped %d, gaps %v, cursor %d", len(out.String()), skipped, seen, at)
	}
	q, out = attach(t, c, "s", channel.AttachRequest{FromStdout: -1}, nil)
	if _, err := q.Wait(); err != nil || out.String() != "" {
		t.Fatalf("%v, %q", err, out.String())
	}
	_, err = c.Attach(context.Background(), "s", channel.AttachRequest{FromStdout: total + 1}, channel.Stdio{Stdout: io.Discard})
	wantStartError(t, err, channel.StageRequest, channel.EINVAL)
}

// stuckWriter blocks in Write until it is released.
type stuckWriter struct{ release chan struct{} }

func (w stuckWriter) Write(p []byte) (int, error) { <-w.release; return len(p), nil }

func TestSlowWatcherStallsNobody(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	req := detachable("read go; head -c 20000000 /dev/zero; echo last", "s")
	req.Replay, req.OpenStdin = 16<<20, true
	p, err := c.Start(context.Background(), req, channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	stuck := stuckWriter{make(chan struct{})}
	slow, err := c.Attach(context.Background(), "s", channel.AttachRequest{ReadOnly: true}, channel.Stdio{Stdout: stuck})
	if err != nil {
		t.Fatal(err)
	}
	quick, out := attach(t, c, "s", channel.AttachRequest{AllowGap: true}, nil)
	in, _ := attach(t, c, "s", channel.AttachRequest{AllowGap: true}, strings.NewReader("go\n"))
	for _, w := range []*channel.Process{p, quick, in} {
		if e, err := w.Wait(); err != nil || e.Stdout != 20000005 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if s := out.String(); !strings.HasSuffix(s, "last\n") {
		t.Fatalf("%d bytes", len(s))
	}
	close(stuck.release)
	var g *channel.GapError
	if _, err := slow.Wait(); !errors.As(err, &g) || g.Stream != "stdout" || g.Have != 20000005-16<<20 {
		t.Fatalf("%v", err)
	}
	if err := slow.Signal(context.Background(), channel.SIGTERM, false); !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

func TestStarterThatIsAttachedLosesNothing(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	req := detachable("head -c 5000000 /dev/zero; echo err >&2", "s")
	req.Replay = 4096
	r := run(t, c, req, nil)
	if len(r.stdout) != 5000000 || r.stderr != "err\n" || r.exit.Stdout != 5000000 {
		t.Fatalf("%d bytes, %q, %+v", len(r.stdout), r.stderr, r.exit)
	}
}

func TestOneWriterOfStdinAndTakeover(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	pr, pw := io.Pipe()
	defer pw.Close()
	p, err := c.Start(context.Background(), detachable("cat", "s"), channel.Stdio{Stdin: pr})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Attach(context.Background(), "s", channel.AttachRequest{}, channel.Stdio{Stdin: strings.NewReader("")})
	if !errors.Is(err, channel.ErrStdinBusy) {
		t.Fatal(err)
	}
	ro, _ := attach(t, c, "s", channel.AttachRequest{ReadOnly: true}, nil)
	if err := ro.Signal(context.Background(), channel.SIGKILL, false); !errors.Is(err, channel.EPERM) {
		t.Fatalf("signal of a read-only attachment: %v", err)
	}
	q, out := attach(t, c, "s", channel.AttachRequest{Takeover: true}, strings.NewReader("mine"))
	for _, w := range []*channel.Process{p, q, ro} {
		if e, err := w.Wait(); err != nil || e.Code != 0 || e.Stdout != 4 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if out.String() != "mine" {
		t.Fatalf("%q", out.String())
	}
}

func TestReplayLimitIsTyped(t *testing.T) {
	c := longAgent(t, agent.Options{ReplayBytes: 1 << 20})()
	req := detachable("sleep 1000", "a")
	req.Replay = 512 << 10
	p, err := c.Start(context.Background(), req, channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	req.Session = "b"
	var le *channel.LimitError
	if _, err := c.Start(context.Background(), req, channel.Stdio{}); !errors.As(err, &le) || le.Max != 1<<20 {
		t.Fatal(err)
	}
	p.Kill()
	if e, err := p.Wait(); err != nil || e.Signal != channel.SIGKILL {
		t.Fatalf("%+v, %v", e, err)
	}
	req.Path, req.Args = "true", nil
	run(t, c, req, nil)
}

func TestEndedSessionsAreBounded(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	for i := range 300 {
		req := detachable("exit 1", fmt.Sprint("s", i))
		req.Replay = 4096
		run(t, c, req, nil)
	}
	list, err := c.Sessions(context.Background())
	if err != nil || len(list) != 256 || list[0].ID != "s44" || list[255].Exit.Code != 1 {
		t.Fatalf("%d sessions, %v", len(list), err)
	}
}

func TestTakeoverFromAWriterThatTheProcessDoesNotRead(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	req := detachable("trap 'go=1' USR1; echo up; while [ -z \"$go\" ]; do sleep 0.01; done; tail -c 4", "s")
	out := new(syncBuffer)
	p, err := c.Start(context.Background(), req, channel.Stdio{Stdin: zeros{}, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the trap is set", func() bool { return out.String() == "up\n" })
	pr, pw := io.Pipe()
	q, err := c.Attach(context.Background(), "s", channel.AttachRequest{Takeover: true, FromStdout: -1}, channel.Stdio{Stdin: pr, Stdout: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Signal(context.Background(), channel.SIGUSR1, false); err != nil {
		t.Fatal(err)
	}
	pw.Write([]byte("mine"))
	pw.Close()
	for _, w := range []*channel.Process{p, q} {
		if e, err := w.Wait(); err != nil || e.Code != 0 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if out.String() != "up\nmine" {
		t.Fatalf("%q", out.String())
	}
}

func TestDetachIsOnlyForDetachable(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	p, err := c.Start(context.Background(), sh("sleep 1000"), channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Detach(); !errors.Is(err, channel.ErrNotDetachable) {
		t.Fatal(err)
	}
	p.Kill()
	p.Wait()
}

func TestDetachDeliversTheStdinWrittenBefore(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	for i := range 20 {
		id := fmt.Sprint("s", i)
		pr, pw := io.Pipe()
		p, err := c.Start(context.Background(), detachable("head -c 100000 | wc -c; cat", id), channel.Stdio{Stdin: pr})
		if err != nil {
			t.Fatal(err)
		}
		pw.Write(make([]byte, 100000))
		pw.Write(nil) // returns when the first write was passed on
		if err := p.Detach(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err == nil || err.Error() != channel.ErrDetached.Error() {
			t.Fatalf("%v", err)
		}
		pw.Close()
		q, out := attach(t, c, id, channel.AttachRequest{}, strings.NewReader("more"))
		if e, err := q.Wait(); err != nil || strings.TrimSpace(out.String()) != "100000\nmore" || e.Stdin != 100004 {
			t.Fatalf("%+v, %v, %q", e, err, out.String())
		}
	}
}
