package channel

import (
	"errors"
	"fmt"
)

// streamIndex is 0 for stdout and 1 for stderr.
func streamIndex(name string) int {
	if name == "stderr" {
		return 1
	}
	return 0
}

// prepareAttach encodes the first message of each stream of an attachment.
func (p *Process) prepareAttach() (frames map[streamKind][]byte, err error) {
	frames = make(map[streamKind][]byte, 4)
	for _, k := range []struct {
		kind  streamKind
		wired bool
	}{
		{kindAttach, true},
		{kindStdin, p.attach.Wired&wiredStdin != 0},
		{kindStdout, p.attach.Wired&wiredStdout != 0},
		{kindStderr, p.attach.Wired&wiredStderr != 0},
	} {
		if k.wired && err == nil {
			frames[k.kind], err = appendFrame(nil, &open{Kind: k.kind, Session: p.req.Session, Attach: p.tag})
		}
	}
	if err == nil {
		frames[kindAttach], err = appendFrame(frames[kindAttach], p.attach)
	}
	return frames, err
}

// cursor is the absolute position of an output stream.
func (p *Process) cursor(name string) int64 {
	i := streamIndex(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.from[i] + p.skipped[i]
	for _, o := range p.outs {
		if o.name == name {
			n += o.n.Load()
		}
	}
	return n
}

func (p *Process) detach() error {
	if p.attach == nil && !p.req.Detachable {
		return ErrNotDetachable
	}
	if isClosed(p.done) {
		return p.goneErr("detach")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.detaching {
		return nil
	}
	p.detaching = true
	p.stdinGone.Store(true) // no write begins after this
	m := &detachMsg{Stdin: -1}
	if p.stdinMu.TryLock() {
		m.Stdin = p.sent
		p.stdinMu.Unlock()
	}
	p.post(&hostMsg{Detach: m})
	return nil
}

// attached applies the agent's answer to an attachment. The caller holds p.mu.
func (p *Process) attached(m *attachedMsg) error {
	for i, at := range []int64{m.Stdout, m.Stderr} {
		want := []int64{p.attach.FromStdout, p.attach.FromStderr}[i]
		switch {
		case at < 0 || at > maxCursor:
			return p.violation(fmt.Sprintf("attachment at cursor %d", at))
		case want > 0 && (at < want || at > want && !p.attach.AllowGap):
			return p.violation(fmt.Sprintf("attachment at cursor %d, wanted %d", at, want))
		case want > 0 && at > want:
			p.skipped[i] = at - want
			p.from[i] = want
		default:
			p.from[i] = at
		}
	}
	p.tty = m.TTY
	p.pid = m.PID
	close(p.started)
	for i, s := range []string{"stdout", "stderr"} {
		if n := p.skipped[i]; n > 0 {
			p.untold = append(p.untold, GapError{Stream: s, Want: p.from[i], Have: p.from[i] + n})
		}
	}
	if p.stdin != nil {
		p.startStdin()
	}
	return nil
}

// gap applies a report of bytes that this attachment does not get. The caller
// holds p.mu.
func (p *Process) gap(m *gapMsg) (over bool, err error) {
	i := 0
	if m.Stderr {
		i = 1
	}
	name := []string{"stdout", "stderr"}[i]
	if m.Want < p.from[i]+p.skipped[i] || m.Have <= m.Want || m.Have > maxCursor {
		return false, p.violation(fmt.Sprintf("gap of %s from %d to %d", name, m.Want, m.Have))
	}
	g := GapError{Stream: name, Want: m.Want, Have: m.Have}
	switch {
	case p.attach == nil && !p.req.Detached:
		return false, p.violation("gap in an attached exec")
	case m.Final:
		return true, &g
	case p.attach == nil || !p.attach.AllowGap:
		return false, p.violation("gap that was not allowed")
	}
	p.skipped[i] += m.Have - m.Want
	p.untold = append(p.untold, g)
	return false, nil
}

// tellGaps calls OnGap, without a lock: what it does is the caller's.
func (p *Process) tellGaps() {
	p.mu.Lock()
	gaps := p.untold
	p.untold = nil
	p.mu.Unlock()
	if p.attach == nil || p.attach.OnGap == nil {
		return
	}
	for _, g := range gaps {
		p.attach.OnGap(g)
	}
}

// detachedAt applies the agent's answer to Detach. The caller holds p.mu.
func (p *Process) detachedAt(m *detachedMsg) error {
	if !p.detaching {
		return p.violation("detached without being asked")
	}
	p.detached = m
	return nil
}

// detachErr is Wait's error after a detachment.
func (p *Process) detachErr(m *detachedMsg) error {
	p.stdinMu.Lock()
	defer p.stdinMu.Unlock()
	if m.Stdin < p.sent && p.stdin != nil {
		return fmt.Errorf("%w (%w before it took the last %d bytes)", ErrDetached, errStdinLeft, p.sent-m.Stdin)
	}
	return ErrDetached
}

var errStdinLeft = errors.New("stdin was left")

// totalOf is the cursor that an output stream must have reached.
func (p *Process) totalOf(name string) int64 {
	if p.detached != nil {
		return []int64{p.detached.Stdout, p.detached.Stderr}[streamIndex(name)]
	}
	return []int64{p.exit.Stdout, p.exit.Stderr}[streamIndex(name)]
}
