//go:build linux

package agent_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/hutchvm/hutch/channel"
)

// liveScripts cut the connection of a host that uses a running session.
var liveScripts = []cutScript{
	{"attach to a running session", keepRunning, cutLive, cutLiveAfter, false},
	{"take a running session over", keepRunning, cutTakeover, cutLiveAfter, true},
}

func init() { cutScripts = append(cutScripts, liveScripts...) }

// keepRunning has the session "live" in the agent, which echoes and has echoed
// a line.
func keepRunning(ctx context.Context, c *channel.Client) error {
	out := newCue("zero\n")
	req := detachable("cat; echo end >&2; exit 7", "live")
	req.Replay = 4096
	pr, pw := io.Pipe()
	defer pr.Close()
	p, err := c.Start(ctx, req, channel.Stdio{Stdin: pr, Stdout: out})
	if err != nil {
		return err
	}
	go io.WriteString(pw, "zero\n")
	if err := out.wait(p); err != nil {
		return err
	}
	if err := p.Detach(); err != nil {
		return err
	}
	if _, err := p.Wait(); !errors.Is(err, channel.ErrDetached) {
		return wrong("detached: %v", err)
	}
	return nil
}

// typeOne attaches, types a line, waits for its echo and detaches.
func typeOne(ctx context.Context, c *channel.Client, n *cutNotes, req channel.AttachRequest) error {
	out := newCue("zero\none\n")
	pr, pw := io.Pipe()
	defer pr.Close()
	p, err := c.Attach(ctx, "live", req, channel.Stdio{Stdin: pr, Stdout: out})
	if err != nil {
		return err
	}
	n.started = true
	defer func() { n.out = out.String() }()
	go io.WriteString(pw, "one\n")
	if err := out.wait(p); err != nil {
		return err
	}
	if err := p.Detach(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	e, err := p.Wait()
	if n.detached = errors.Is(err, channel.ErrDetached); n.detached {
		if at, _ := p.Cursors(); at != int64(len("zero\none\n")) {
			return wrong("detached at %d", at)
		}
		return nil
	}
	if err == nil {
		return wrong("success of a process that goes on: %+v", e)
	}
	return err
}

func cutLive(ctx context.Context, c *channel.Client, n *cutNotes) error {
	return typeOne(ctx, c, n, channel.AttachRequest{})
}

// cutTakeover has a first attachment that writes nothing, from which the second
// takes stdin.
func cutTakeover(ctx context.Context, c *channel.Client, n *cutNotes) error {
	pr, pw := io.Pipe()
	defer pw.Close()
	first, err := c.Attach(ctx, "live", channel.AttachRequest{FromStdout: -1}, channel.Stdio{Stdin: pr})
	if err != nil {
		return err
	}
	if err := typeOne(ctx, c, n, channel.AttachRequest{Takeover: true}); err != nil {
		return err
	}
	if err := first.Detach(); err != nil {
		return err
	}
	if _, err := first.Wait(); !errors.Is(err, channel.ErrDetached) {
		return err
	}
	return nil
}

// cutLiveAfter looks whether the session lost or invented anything: it runs, its
// stdin is open and free, and its output is what was typed.
func cutLiveAfter(ctx context.Context, c *channel.Client, n *cutNotes) error {
	list, err := c.Sessions(ctx)
	if err != nil {
		return err
	}
	if len(list) != 1 || !list[0].Running || list[0].StdinTaken || list[0].Watchers != 0 {
		return wrong("sessions %+v", list)
	}
	var stdout, stderr syncBuffer
	p, err := c.Attach(ctx, "live", channel.AttachRequest{}, channel.Stdio{Stdin: strings.NewReader("two\n"), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return err
	}
	e, err := p.Wait()
	if err != nil {
		return err
	}
	out := stdout.String()
	first, ok := strings.CutSuffix(out, "two\n")
	if !ok || !strings.HasPrefix("zero\none\n", first) || !strings.HasPrefix(first, n.out) || !strings.HasPrefix(first, "zero\n") ||
		n.detached && first != "zero\none\n" || stderr.String() != "end\n" || e.Code != 7 || e.Stdin != int64(len(out)) {
		return wrong("%q and %q after %+v; %+v", out, stderr.String(), n, e)
	}
	return c.Forget(ctx, "live")
}
