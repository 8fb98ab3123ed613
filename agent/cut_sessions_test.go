//go:build linux

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// cutScript is something a host does, whose connection is then cut at every byte.
type cutScript struct {
	name string
	// before prepares the agent for one run, on a connection that is not cut.
	before func(ctx context.Context, c *channel.Client) error
	// run returns nil for the whole result, and otherwise what its calls
	// returned; a wrongResult for what no cut excuses. Its notes are for after.
	run func(ctx context.Context, c *channel.Client, n *cutNotes) error
	// after looks at what the cut left in the agent, on a new connection.
	after func(ctx context.Context, c *channel.Client, n *cutNotes) error
	// sparse cuts at every third byte, another third in each run, unless
	// HUTCH_CAMPAIGN is set.
	sparse bool
}

// cutNotes is what the cut client saw.
type cutNotes struct {
	started, detached, forgot bool
	out                       string
}

var cutScripts = []cutScript{
	{"calls", keepEnded, cutCalls, cutCallsAfter, true},
	{"attach with replay", keepEnded, cutAttach, cutAttachAfter, false},
	{"detach", nil, cutDetach, cutDetachAfter, false},
	{"terminal", nil, cutTerminal, nil, false},
	{"signal and kill", nil, cutSignal, nil, false},
}

const endedOut, endedErr = "line one\nline two\n", "and an error\n"

// keepEnded has the ended session "old" in the agent.
func keepEnded(ctx context.Context, c *channel.Client) error {
	list, err := c.Sessions(ctx)
	if err != nil || len(list) == 1 {
		return err
	}
	req := detachable(fmt.Sprintf("printf '%s'; printf '%s' >&2; exit 7", endedOut, endedErr), "old")
	req.Replay = 4096
	p, err := c.Start(ctx, req, channel.Stdio{})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

func cutCalls(ctx context.Context, c *channel.Client, n *cutNotes) error {
	st, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	if st.Detachable != 1 || st.Sessions != 0 {
		return wrong("stats %+v", st)
	}
	list, err := c.Sessions(ctx)
	if err != nil {
		return err
	}
	if err := isOld(list); err != nil {
		return err
	}
	if err := c.Forget(ctx, "no such"); !errors.Is(err, channel.ErrSessionNotFound) {
		return err
	}
	if err := c.Forget(ctx, "old"); err != nil {
		return err
	}
	n.forgot = true
	return nil
}

func isOld(list []channel.SessionInfo) error {
	if len(list) != 1 || list[0].ID != "old" || list[0].Running || list[0].Exit == nil || list[0].Exit.Code != 7 ||
		list[0].Stdout.To != int64(len(endedOut)) || list[0].Stderr.To != int64(len(endedErr)) {
		return wrong("sessions %+v", list)
	}
	return nil
}

func cutCallsAfter(ctx context.Context, c *channel.Client, n *cutNotes) error {
	list, err := c.Sessions(ctx)
	if err != nil || len(list) == 0 {
		return err // forgotten, with or without the answer
	}
	if n.forgot {
		return wrong("forgotten and still there: %+v", list)
	}
	return isOld(list)
}

func cutAttach(ctx context.Context, c *channel.Client, n *cutNotes) error {
	var stdout, stderr syncBuffer
	p, err := c.Attach(ctx, "old", channel.AttachRequest{FromStdout: 5}, channel.Stdio{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return err
	}
	e, err := p.Wait()
	o, r := stdout.String(), stderr.String()
	if !strings.HasPrefix(endedOut[5:], o) || !strings.HasPrefix(endedErr, r) {
		return wrong("%q and %q", o, r)
	}
	if err != nil {
		return err
	}
	if e.Code != 7 || o != endedOut[5:] || r != endedErr {
		return wrong("success with %q, %q and %+v", o, r, e)
	}
	return nil
}

func cutAttachAfter(ctx context.Context, c *channel.Client, n *cutNotes) error {
	if list, err := c.Sessions(ctx); err != nil || isOld(list) != nil {
		return wrong("sessions %+v, %v", list, err)
	}
	return cutAttach(ctx, c, n)
}

func cutDetach(ctx context.Context, c *channel.Client, n *cutNotes) error {
	out := newCue("one\n")
	pr, pw := io.Pipe()
	defer pr.Close()
	p, err := c.Start(ctx, detachable("cat; echo end; exit 7", "kept"), channel.Stdio{Stdin: pr, Stdout: out})
	if err != nil {
		return err
	}
	n.started = true
	defer func() { n.out = out.String() }()
	go io.WriteString(pw, "one\n")
	if err := out.wait(p); err != nil {
		return err
	}
	if err := p.Detach(); err != nil {
		return err
	}
	e, err := p.Wait()
	if n.detached = errors.Is(err, channel.ErrDetached); n.detached {
		return nil
	}
	if err == nil {
		return wrong("success of a process that goes on: %+v", e)
	}
	return err
}

// cutDetachAfter attaches to what survived: its stdin is still open, and its
// output is all that was typed, before the cut and after.
func cutDetachAfter(ctx context.Context, c *channel.Client, n *cutNotes) error {
	list, err := c.Sessions(ctx)
	if err != nil {
		return err
	}
	if len(list) == 0 && !n.started {
		return nil // the request was cut
	}
	if len(list) != 1 || !list[0].Running || list[0].StdinTaken || list[0].Watchers != 0 {
		return wrong("started %v, sessions %+v", n.started, list)
	}
	var out syncBuffer
	p, err := c.Attach(ctx, "kept", channel.AttachRequest{}, channel.Stdio{Stdin: strings.NewReader("two\n"), Stdout: &out})
	if err != nil {
		return err
	}
	e, err := p.Wait()
	if err != nil {
		return err
	}
	first, ok := strings.CutSuffix(out.String(), "two\nend\n")
	if !ok || !strings.HasPrefix("one\n", first) || !strings.HasPrefix(first, n.out) || n.detached && first != "one\n" || e.Code != 7 {
		return wrong("%q after %+v; %+v", out.String(), n, e)
	}
	return c.Forget(ctx, "kept")
}

func cutTerminal(ctx context.Context, c *channel.Client, _ *cutNotes) error {
	out := newCue("ready\r\n")
	pr, pw := io.Pipe()
	defer pr.Close()
	p, err := c.Start(ctx, ttyRequest("echo ready; read x; echo got $x; exit 6"), channel.Stdio{Stdin: pr, Stdout: out})
	if err != nil {
		return err
	}
	if err := out.wait(p); err != nil {
		return err
	}
	if err := p.Resize(20, 30); err != nil {
		return err
	}
	go io.WriteString(pw, "key\n")
	return finishes(p, out, "ready\r\nkey\r\ngot key\r\n", 6, 0)
}

func cutSignal(ctx context.Context, c *channel.Client, _ *cutNotes) error {
	out := newCue("ready\n")
	pr, pw := io.Pipe()
	defer pw.Close()
	p, err := c.Start(ctx, sh("trap 'echo usr1' USR1; echo ready; while :; do read x; done"), channel.Stdio{Stdin: pr, Stdout: out})
	if err != nil {
		return err
	}
	if err := out.wait(p); err != nil {
		return err
	}
	if err := p.Signal(ctx, channel.SIGUSR1, false); err != nil {
		return err
	}
	for !strings.Contains(out.String(), "usr1\n") && !isDone(p) {
		time.Sleep(200 * time.Microsecond)
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return finishes(p, out, "ready\nusr1\n", -1, channel.SIGKILL)
}

// cutRunner runs one script on one agent.
type cutRunner struct {
	t      *testing.T
	s      cutScript
	a      *agent.Agent
	before [2]int // goroutines and descriptors
}

// once runs the script with a cut after that many bytes, < 0 = none.
func (r *cutRunner) once(read, write int) (in, out int) {
	r.t.Helper()
	fail := func(what string, err error) {
		if err != nil {
			r.t.Helper()
			r.t.Fatalf("cut after %d bytes to the host, %d to the guest: %s: %v", read, write, what, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	over := func(cut *cutConn, end io.ReadWriteCloser, do func(*channel.Client) error) error {
		served := make(chan struct{})
		go func() { defer close(served); r.a.Serve(ctx, end) }()
		c, err := channel.NewClient(ctx, cut, channel.Config{})
		if err == nil {
			err = do(c)
			c.Close()
		}
		<-served
		return err
	}
	dial := func(read, write int, do func(*channel.Client) error) (*cutConn, error) {
		conn, end := socketpair(r.t)
		cut := &cutConn{Conn: conn, read: read, write: write}
		return cut, over(cut, end, do)
	}
	if r.s.before != nil {
		_, err := dial(-1, -1, func(c *channel.Client) error { return r.s.before(ctx, c) })
		fail("before", err)
	}
	if r.before[0] == 0 {
		r.before = [2]int{runtime.NumGoroutine(), descriptors()}
	}
	notes := new(cutNotes)
	cut, err := dial(read, write, func(c *channel.Client) error {
		err := r.s.run(ctx, c, notes)
		if err != nil {
			// Every later call says the same.
			if _, serr := c.Stats(ctx); !errors.Is(serr, channel.ErrAgentLost) {
				return wrong("Stats after %v: %v", err, serr)
			}
			if _, serr := c.Start(ctx, sh("true"), channel.Stdio{}); !errors.Is(serr, channel.ErrAgentLost) {
				return wrong("Start after %v: %v", err, serr)
			}
		}
		return err
	})
	if err != nil && (read < 0 && write < 0 || !errors.Is(err, channel.ErrAgentLost)) {
		fail(r.s.name, err)
	}
	if r.s.after != nil {
		_, err := dial(-1, -1, func(c *channel.Client) error { return r.s.after(ctx, c, notes) })
		fail("afterwards", err)
	}
	r.settles(read, write)
	return cut.in, cut.out
}

// settles waits until goroutines and descriptors are as few as before.
func (r *cutRunner) settles(read, write int) {
	r.t.Helper()
	noGoroutinesOver(r.t, r.before[0], fmt.Sprintf("%s, cut after %d bytes to the host, %d to the guest", r.s.name, read, write))
	eventually(r.t, fmt.Sprintf("%s, cut after %d and %d bytes: as few descriptors as before", r.s.name, read, write), func() bool {
		return descriptors() <= r.before[1]
	})
}

// descriptors is how many this process has open.
func descriptors() int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(names)
}

func TestSessionsCutAtEveryOffset(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, s := range cutScripts {
		t.Run(s.name, func(t *testing.T) {
			step := step
			if s.sparse && os.Getenv("HUTCH_CAMPAIGN") == "" {
				step *= 3
			}
			a, err := agent.New(agent.Options{Build: "test"})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			r := &cutRunner{t: t, s: s, a: a}
			in, out := r.once(-1, -1)
			// The handshake's bytes are TestConnectionCutAtEveryOffset's.
			hello := &cutRunner{t: t, s: cutScript{run: func(context.Context, *channel.Client, *cutNotes) error { return nil }}, a: a}
			helloIn, helloOut := hello.once(-1, -1)
			begin, first := time.Now(), rand.IntN(step)
			for n := helloIn + first; n < in; n += step {
				r.once(n, -1)
			}
			for n := helloOut + first; n < out; n += step {
				r.once(-1, n)
			}
			t.Logf("%d bytes from the agent, %d to it, step %d from %d; %v", in-helloIn, out-helloOut, step, first, time.Since(begin))
		})
	}
}
