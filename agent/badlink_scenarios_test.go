//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// A scenario drives one client to a result that is known byte for byte. Its
// error wraps what a call returned, or is a wrongResult.
type scenario struct {
	name string
	run  func(ctx context.Context, c *channel.Client, rng *rand.Rand, id string) error
}

// wrongResult is a result that no fault of the transport excuses.
type wrongResult string

func (e wrongResult) Error() string { return string(e) }

func wrong(format string, a ...any) error { return wrongResult(fmt.Sprintf(format, a...)) }

var scenarios = []scenario{
	{"streams", streamsScenario},
	{"ends", endsScenario},
	{"signals", signalsScenario},
	{"terminal", terminalScenario},
	{"detach", detachScenario},
	{"watchers", watchersScenario},
	{"failures", failuresScenario},
	{"cancel", cancelScenario},
}

// streamsScenario: stdin to stdout and stderr, with an exit code.
func streamsScenario(ctx context.Context, c *channel.Client, rng *rand.Rand, id string) error {
	in := make([]byte, rng.IntN(30000))
	for i := range in {
		in[i] = byte(rng.Uint32())
	}
	code := rng.IntN(256)
	var stdout, stderr bytes.Buffer
	req := sh(fmt.Sprintf("tee /dev/stderr; exit %d", code))
	req.Session = id
	p, err := c.Start(ctx, req, channel.Stdio{Stdin: bytes.NewReader(in), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	e, err := p.Wait()
	if !bytes.HasPrefix(in, stdout.Bytes()) || !bytes.HasPrefix(in, stderr.Bytes()) {
		return wrong("output is not the input's beginning: %d and %d of %d bytes (%v)", stdout.Len(), stderr.Len(), len(in), err)
	}
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	n := int64(len(in))
	if stdout.Len() != len(in) || stderr.Len() != len(in) || e.Code != code || e.Stdin != n || e.Stdout != n || e.Stderr != n || e.StdinErr != nil || e.Orphaned {
		return wrong("success with %d and %d of %d bytes, %+v, want code %d", stdout.Len(), stderr.Len(), len(in), e, code)
	}
	return nil
}

// collect runs req and checks all of its result.
func collect(ctx context.Context, c *channel.Client, req *channel.Request, stdin io.Reader, want string, code int, sig channel.Signal) error {
	var out bytes.Buffer
	p, err := c.Start(ctx, req, channel.Stdio{Stdin: stdin, Stdout: &out})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return finishes(p, &out, want, code, sig)
}

// finishes waits for p and checks all of its result.
func finishes(p *channel.Process, out fmt.Stringer, want string, code int, sig channel.Signal) error {
	e, err := p.Wait()
	if got := out.String(); !strings.HasPrefix(want, got) || err == nil && got != want {
		return wrong("%q, want %q (%v)", got, want, err)
	}
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if e.Code != code || e.Signal != sig {
		return wrong("%+v, want code %d and signal %d", e, code, sig)
	}
	return nil
}

func endsScenario(ctx context.Context, c *channel.Client, rng *rand.Rand, id string) error {
	if rng.IntN(2) == 0 {
		req := sh("printf last; kill -SEGV $$")
		req.Session = id
		return collect(ctx, c, req, nil, "last", -1, channel.SIGSEGV)
	}
	code := rng.IntN(256)
	req := &channel.Request{Session: id, Path: "sh", Args: []string{"sh", "-c", fmt.Sprintf("exit %d", code)}}
	return collect(ctx, c, req, nil, "", code, 0)
}

// cue waits in Write for a text and counts on.
type cue struct {
	syncBuffer
	text string
	seen chan struct{}
}

func newCue(text string) *cue { return &cue{text: text, seen: make(chan struct{})} }

func (q *cue) Write(p []byte) (int, error) {
	n, err := q.syncBuffer.Write(p)
	select {
	case <-q.seen:
	default:
		if strings.Contains(q.String(), q.text) {
			close(q.seen)
		}
	}
	return n, err
}

// wait waits for the text, or the end of the exec.
func (q *cue) wait(p *channel.Process) error {
	select {
	case <-q.seen:
		return nil
	case <-p.Done():
		select {
		case <-q.seen:
			return nil
		default:
		}
		_, err := p.Wait()
		if err == nil {
			return wrong("ended before %q: %q", q.text, q.String())
		}
		return fmt.Errorf("waiting for %q: %w", q.text, err)
	}
}

func signalsScenario(ctx context.Context, c *channel.Client, _ *rand.Rand, id string) error {
	out := newCue("ready\n")
	req := sh(`trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.005; done`)
	req.Session = id
	p, err := c.Start(ctx, req, channel.Stdio{Stdout: out})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := out.wait(p); err != nil {
		return err
	}
	for i, s := range []channel.Signal{channel.SIGUSR1, channel.SIGTERM} {
		if i == 1 { // one after the other: pending signals are a set
			for !strings.Contains(out.String(), "usr1\n") && !isDone(p) {
				time.Sleep(time.Millisecond)
			}
		}
		if err := p.Signal(ctx, s, i == 1); err != nil {
			if isDone(p) {
				_, werr := p.Wait()
				return fmt.Errorf("%v: %w (%w)", s, err, werr)
			}
			return fmt.Errorf("%v: %w", s, err)
		}
	}
	return finishes(p, out, "ready\nusr1\nterm\n", 9, 0)
}

func isDone(p *channel.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

func terminalScenario(ctx context.Context, c *channel.Client, rng *rand.Rand, id string) error {
	rows := uint16(1 + rng.IntN(100))
	req := ttyRequest(fmt.Sprintf(`stty size; stty -echo; echo ready; until [ "$(stty size)" = "%d 7" ]; do sleep 0.005; done; cat; stty size; exit 4`, rows))
	req.Session = id
	out := newCue("ready\r\n")
	pr, pw := io.Pipe()
	defer pr.Close()
	p, err := c.Start(ctx, req, channel.Stdio{Stdin: pr, Stdout: out})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := out.wait(p); err != nil {
		return err
	}
	if err := p.Resize(rows, 7); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	go func() {
		io.WriteString(pw, "typed\n")
		pw.Close()
	}()
	return finishes(p, out, fmt.Sprintf("37 91\r\nready\r\ntyped\r\n%d 7\r\n", rows), 4, 0)
}

func detachScenario(ctx context.Context, c *channel.Client, _ *rand.Rand, id string) error {
	req := detachable("echo ready; cat; echo end; exit 7", id)
	out := newCue("one\n")
	pr, pw := io.Pipe()
	defer pr.Close()
	p, err := c.Start(ctx, req, channel.Stdio{Stdin: pr, Stdout: out})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	go io.WriteString(pw, "one\n")
	if err := out.wait(p); err != nil {
		return err
	}
	if err := p.Detach(); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	if e, err := p.Wait(); e != nil || !errors.Is(err, channel.ErrDetached) {
		return fmt.Errorf("wait after detach: %w", err)
	}
	at, _ := p.Cursors()
	if out.String() != "ready\none\n" || at != 10 {
		return wrong("detached at %d with %q", at, out.String())
	}
	rest := new(syncBuffer)
	q, err := c.Attach(ctx, id, channel.AttachRequest{FromStdout: at}, channel.Stdio{Stdin: strings.NewReader("two\n"), Stdout: rest})
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := finishes(q, rest, "two\nend\n", 7, 0); err != nil {
		return err
	}
	all := new(syncBuffer)
	if q, err = c.Attach(ctx, id, channel.AttachRequest{}, channel.Stdio{Stdout: all}); err != nil {
		return fmt.Errorf("attach to the ended: %w", err)
	}
	if err := finishes(q, all, "ready\none\ntwo\nend\n", 7, 0); err != nil {
		return err
	}
	return c.Forget(ctx, id)
}

func watchersScenario(ctx context.Context, c *channel.Client, _ *rand.Rand, id string) error {
	var want strings.Builder
	for i := range 2000 {
		fmt.Fprintln(&want, i+1)
	}
	req := detachable("read go; seq 1 2000; exit 6", id)
	req.OpenStdin = true
	first := new(syncBuffer)
	p, err := c.Start(ctx, req, channel.Stdio{Stdout: first})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	ps, outs := []*channel.Process{p}, []*syncBuffer{first}
	for i := range 4 {
		out := new(syncBuffer)
		stdio := channel.Stdio{Stdout: out}
		if i == 2 {
			stdio.Stdin = strings.NewReader("go\n")
		}
		q, err := c.Attach(ctx, id, channel.AttachRequest{ReadOnly: i != 2}, stdio)
		if err != nil {
			return fmt.Errorf("attach %d: %w", i, err)
		}
		ps, outs = append(ps, q), append(outs, out)
	}
	for i, p := range ps {
		if err := finishes(p, outs[i], want.String(), 6, 0); err != nil {
			return fmt.Errorf("watcher %d: %w", i, err)
		}
	}
	list, err := c.Sessions(ctx)
	if err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	for _, s := range list {
		if s.ID == id && !s.Running && s.Exit != nil && s.Exit.Code == 6 && s.Stdout.To == int64(want.Len()) {
			return c.Forget(ctx, id)
		}
	}
	return wrong("session %q is not listed as ended: %+v", id, list)
}

func failuresScenario(ctx context.Context, c *channel.Client, _ *rand.Rand, id string) error {
	for range 3 { // the same ID, so that nothing of the one before is left
		_, err := c.Start(ctx, &channel.Request{Session: id, Path: "no-such-command"}, channel.Stdio{Stdin: strings.NewReader("x"), Stdout: io.Discard, Stderr: io.Discard})
		if !errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("missing command: %w", err)
		}
	}
	if _, err := c.Attach(ctx, id, channel.AttachRequest{}, channel.Stdio{Stdout: io.Discard}); !errors.Is(err, channel.ErrSessionNotFound) {
		return fmt.Errorf("missing session: %w", err)
	}
	req := sh("cat")
	req.Session = id
	return collect(ctx, c, req, strings.NewReader("it works"), "it works", 0, 0)
}

func cancelScenario(ctx context.Context, c *channel.Client, _ *rand.Rand, id string) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	out := newCue("ready\n")
	req := sh(`trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.005; done`)
	req.Session, req.Grace = id, longTime
	p, err := c.Start(inner, req, channel.Stdio{Stdout: out})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := out.wait(p); err != nil {
		return err
	}
	cancel()
	return finishes(p, out, "ready\nbye\n", 3, 0)
}

// parallelScenario runs n execs at once.
func parallelScenario(ctx context.Context, c *channel.Client, n int) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			in := strings.Repeat(fmt.Sprintf("line %d\n", i), 1+i*7)
			req := sh(fmt.Sprintf("cat; exit %d", i))
			req.Session = fmt.Sprintf("p%d", i)
			if err := collect(ctx, c, req, strings.NewReader(in), in, i, 0); err != nil {
				errs[i] = fmt.Errorf("exec %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
