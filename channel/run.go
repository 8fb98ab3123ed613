package channel

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/yamux"
)

// abandonWait is how long an abandoned exec waits for a caller's Writer.
const abandonWait = 50 * time.Millisecond

// lostWait is how long output that arrived before a loss may take to reach a
// caller's Writer.
const lostWait = 500 * time.Millisecond

// run is the life of an exec on the host.
func (p *Process) run(frames map[streamKind][]byte) {
	ch := make(chan error, 1)
	received := true
	// The work is in a goroutine of its own because opening streams and
	// writing can block while the guest is frozen.
	p.c.wg.Go(func() { ch <- p.work(frames) })
	var err error
	select {
	case err = <-ch:
	case <-p.abandon:
		t := time.NewTimer(abandonWait)
		defer t.Stop()
		select {
		case err = <-ch:
		case <-t.C:
			received = false
		}
	}
	if received {
		p.c.unregister(p) // before finish: the ID is free when Wait returns
		p.finish(err)
		return
	}
	p.finish(err)
	// The session counts until its streams are gone, so that a frozen guest
	// and a caller in a loop cannot pile them up.
	<-ch
	p.c.unregister(p)
}

// work opens the streams, copies and reads the control stream to its end.
func (p *Process) work(frames map[streamKind][]byte) error {
	select {
	case p.c.opening <- struct{}{}:
	case <-p.abandon:
		return ErrExecLost
	case <-p.c.done:
		return p.c.lostErr()
	}
	streams, err := p.open(frames)
	<-p.c.opening
	if err != nil {
		p.reset(streams)
		return err
	}
	stopReset := make(chan struct{})
	defer close(stopReset)
	p.c.wg.Go(func() {
		select {
		case <-p.abandon:
			if p.killsLater() {
				p.c.release(p.ctl)
				streams = slices.DeleteFunc(slices.Clone(streams), func(s *yamux.Stream) bool { return s == p.ctl })
			}
			p.reset(streams)
		case <-stopReset:
		}
	})
	for _, o := range p.outs {
		go o.copy(p) // may be in the caller's Write for as long as that takes
	}
	err = p.control()
	close(p.silent)
	p.stdinGone.Store(true)
	if p.stdin != nil {
		p.c.guard.reset(p.stdin.StreamID())
		p.stdinMu.Lock()   // the write that the reset ended
		p.stdinMu.Unlock() //nolint:staticcheck // it was waited for
	}
	switch {
	case err == nil || p.c.Err() != nil:
		complete := p.waitOutputs(p.c.done, nil)
		p.c.release(streams...)
		if err == nil {
			err = p.verify(complete)
		}
	case (errors.Is(err, ErrExecLost) || errors.Is(err, ErrGap)) && !isClosed(p.abandon):
		p.waitOutputs(p.c.done, time.After(lostWait))
		p.reset(streams)
	default:
		p.reset(streams)
		p.waitOutputs(nil, time.After(abandonWait))
	}
	return err
}

// open opens all streams of the exec.
func (p *Process) open(frames map[streamKind][]byte) (streams []*yamux.Stream, err error) {
	for _, k := range []streamKind{kindExec, kindAttach, kindStdin, kindStdout, kindStderr} {
		first, ok := frames[k]
		if !ok {
			continue
		}
		s, err := p.c.openRaw(first)
		if err != nil {
			return streams, err
		}
		streams = append(streams, s)
		switch k {
		case kindExec, kindAttach:
			p.ctl = s
		case kindStdin:
			p.stdin = s
			p.c.guard.seal(s.StreamID())
		case kindStdout:
			p.outs = append(p.outs, &outCopy{name: "stdout", s: s, w: p.stdio.Stdout, done: make(chan struct{})})
		case kindStderr:
			p.outs = append(p.outs, &outCopy{name: "stderr", s: s, w: p.stdio.Stderr, done: make(chan struct{})})
		}
	}
	return streams, nil
}

// killsLater reports whether the agent must still read the Kill of an exec that
// nobody waits for: a reset of its control stream could take the place of the
// message, and a detachable process goes on when its starter is gone.
func (p *Process) killsLater() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.attach == nil && p.req.Detachable && p.killed
}

func (p *Process) reset(streams []*yamux.Stream) {
	for _, s := range streams {
		p.c.guard.reset(s.StreamID())
	}
}

// waitOutputs waits for the output copies, until late, and after lost is closed
// not for long: the caller's Write may block. It reports whether all ended.
func (p *Process) waitOutputs(lost <-chan struct{}, late <-chan time.Time) bool {
	for _, o := range p.outs {
		for waiting := true; waiting; {
			select {
			case <-o.done:
				waiting = false
			case <-lost:
				lost, late = nil, time.After(lostWait)
			case <-late:
				return false
			}
		}
	}
	return true
}

// control reads the agent's messages until the exec is over. nil = complete.
func (p *Process) control() error {
	for {
		var m agentMsg
		err := readFrame(p.ctl, decMode, maxReplyFrame, &m)
		if err != nil {
			return p.controlErr(err)
		}
		if !m.valid() {
			return p.violation("message with several parts or none")
		}
		over, err := p.handle(&m)
		p.tellGaps()
		if over || err != nil {
			return err
		}
	}
}

// controlErr explains the end of the control stream before its last message.
func (p *Process) controlErr(err error) error {
	if p.c.Err() != nil || p.c.mux.IsClosed() {
		<-p.c.done
		return p.c.lostErr()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, yamux.ErrConnectionReset) {
		return ErrExecLost
	}
	pe := &ProtocolError{Op: "exec", Msg: "control stream", Err: err}
	p.c.fail(pe)
	return p.c.lostErr()
}

// violation ends the session: an agent that breaks the protocol once cannot be
// believed about any other exec.
func (p *Process) violation(msg string) error {
	p.c.fail(&ProtocolError{Op: "exec", Msg: msg})
	return p.c.lostErr()
}

// handle applies one message. over = the control stream is complete.
func (p *Process) handle(m *agentMsg) (over bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isClosed(p.done) {
		return true, ErrExecLost // given up; the result is final
	}
	running := isClosed(p.started)
	switch {
	case m.Failed != nil && !running:
		return true, m.Failed.err(&p.req)
	case m.Attached != nil && !running && p.attach != nil:
		return false, p.attached(m.Attached)
	case m.Started != nil && !running && p.attach == nil:
		p.pid = m.Started.PID
		close(p.started)
		if p.stdin != nil {
			p.startStdin()
		}
	case !running || m.Failed != nil || m.Started != nil || m.Attached != nil:
		return false, p.violation("message out of order at the start")
	case m.Gap != nil:
		return p.gap(m.Gap)
	case m.Detached != nil:
		return true, p.detachedAt(m.Detached)
	case m.SignalAck != nil:
		if ack := p.acks[m.SignalAck.Seq]; ack != nil {
			delete(p.acks, m.SignalAck.Seq)
			ack <- Errno(m.SignalAck.Errno)
		}
	case m.StdinClosed != nil:
		p.stdinGone.Store(true)
		if p.stdin != nil {
			p.c.guard.reset(p.stdin.StreamID())
		}
	case m.Exited != nil:
		if p.exit != nil {
			return false, p.violation("second exit record")
		}
		if !m.Exited.valid() {
			return false, p.violation(fmt.Sprintf("exit record with code %d and signal %d", m.Exited.Code, m.Exited.Signal))
		}
		if m.Exited.TimedOut && p.attach == nil && p.req.Timeout <= 0 {
			return false, p.violation("a timeout that was not asked for") // the caller would take it for its context's
		}
		p.exit = m.Exited.exit()
		close(p.exited)
	case m.Drained != nil:
		if p.exit == nil {
			return false, p.violation("totals before the exit record")
		}
		m.Drained.complete(p.exit)
		return true, nil
	}
	return false, nil
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func (m *failedMsg) err(r *Request) error {
	id := r.Session
	switch {
	case m.Why == ReasonNotFound:
		return fmt.Errorf("%w: %q", ErrSessionNotFound, id)
	case m.Why == ReasonStdinBusy:
		return fmt.Errorf("%w: %q", ErrStdinBusy, id)
	case m.Why == ReasonNoStdin:
		return fmt.Errorf("%w: %q", ErrNoStdin, id)
	case m.Why == ReasonGap && m.Gap != nil:
		name := "stdout"
		if m.Gap.Stderr {
			name = "stderr"
		}
		return &GapError{Stream: name, Want: m.Gap.Want, Have: m.Gap.Have}
	case m.Why == ReasonReplay:
		return &LimitError{What: LimitReplay, Max: m.Max, Need: r.replayBytes()}
	case m.Stage == StageLimit:
		return &LimitError{What: LimitAgentSessions, Max: m.Max}
	}
	return &StartError{Stage: printable(m.Stage), Errno: Errno(m.Errno), Path: m.Path, Msg: m.Msg, bare: m.Bare}
}

func (m *exitedMsg) exit() *Exit {
	return &Exit{
		Code: m.Code, Signal: Signal(m.Signal), Core: m.Core, OOM: m.OOM, TimedOut: m.TimedOut,
		Wall: time.Duration(m.Wall), Usage: m.Usage,
	}
}

// complete adds the totals to the exit record.
func (m *drainedMsg) complete(e *Exit) {
	e.Stdin, e.Stdout, e.Stderr, e.Orphaned = m.Stdin, m.Stdout, m.Stderr, m.Orphaned
}

// verify compares the totals with what arrived.
func (p *Process) verify(complete bool) error {
	if !complete {
		return p.c.lostErr()
	}
	for _, o := range p.outs {
		i, n := streamIndex(o.name), o.n.Load()
		p.mu.Lock()
		want := p.totalOf(o.name) - p.from[i] - p.skipped[i]
		p.mu.Unlock()
		switch {
		case o.werr && errors.Is(o.err, ErrReaderClosed):
		case o.werr:
			return fmt.Errorf("channel: writing %s: %w", o.name, o.err)
		case n != want && (p.c.Err() != nil || p.c.mux.IsClosed()):
			<-p.c.done // the stream ended with the connection, whose reason is about to be known
			return p.c.lostErr()
		case n != want:
			return &TruncatedError{Stream: o.name, Got: n, Want: want}
		}
	}
	if p.detached != nil {
		return p.detachErr(p.detached)
	}
	return nil
}

// finish makes the result final.
func (p *Process) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancelled != nil && (err != nil || p.abandoned || p.exit == nil || p.exit.Signal != 0 || p.killed && p.exit.Code == 0) {
		if err != nil && !errors.Is(err, ErrExecLost) && p.exit == nil {
			err = fmt.Errorf("channel: exec: %w (%w)", p.cancelled, err)
		} else {
			err = fmt.Errorf("channel: exec: %w", p.cancelled)
		}
	}
	if p.exit != nil {
		e := *p.exit
		e.StdinErr = p.stdinErr
		if e.StdinErr == nil && !p.abandoned && p.stdin != nil && p.attach == nil && !p.detaching {
			p.stdinMu.Lock()
			if e.Stdin < p.sent {
				e.StdinErr = ErrStdinClosed
			}
			p.stdinMu.Unlock()
		}
		p.exit = &e
	}
	p.err = err
	p.stdinGone.Store(true)
	close(p.done)
}

// copy moves the stream to the writer until its end. After an error of the
// writer it resets the stream, which the process sees as a closed pipe.
func (o *outCopy) copy(p *Process) {
	defer close(o.done)
	bp := copyBufs.Get().(*[]byte)
	defer copyBufs.Put(bp)
	for {
		n, err := o.s.Read(*bp)
		if n > 0 {
			if isClosed(p.abandon) {
				return
			}
			o.n.Add(int64(n))
			m, werr := o.w.Write((*bp)[:n])
			if werr == nil && m < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				o.err, o.werr = werr, true
				p.c.guard.reset(o.s.StreamID())
				return
			}
		}
		if err != nil {
			o.err = err
			if w, ok := o.w.(interface{ EndOfStream() }); ok && err == io.EOF {
				w.EndOfStream() // a pipe's reader learns of the end before the exec is over
			}
			return
		}
	}
}

// startStdin starts the copy of the caller's Stdin. Nothing waits for it,
// because the caller's Read cannot be interrupted. The caller holds p.mu.
func (p *Process) startStdin() {
	p.stdinErr = ErrStdinClosed // until the copy has reached the end of Stdin
	go func() {
		err := p.copyStdin()
		if r, ok := p.stdio.Stdin.(interface{ EndOfReads() }); ok {
			r.EndOfReads() // a pipe's writer learns that nobody reads any more
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stdinErr = err
	}()
}

// copyStdin copies until Stdin ends, then closes the stream, which the process
// sees as the end of its stdin.
func (p *Process) copyStdin() error {
	bp := copyBufs.Get().(*[]byte)
	defer copyBufs.Put(bp)
	for {
		n, err := p.stdio.Stdin.Read(*bp)
		if n > 0 {
			if err := p.writeStdin((*bp)[:n]); err != nil {
				return err
			}
		}
		if err == nil {
			continue
		}
		if p.stdinGone.Load() {
			return ErrStdinClosed // or detached: not the end of the process's input
		}
		if err == io.EOF {
			err = nil
		}
		// Before the process can see the end: when it exits because of it, the record is right.
		p.mu.Lock()
		p.stdinErr = err
		p.mu.Unlock()
		p.stdin.Close()
		return err
	}
}

func (p *Process) writeStdin(b []byte) error {
	p.stdinMu.Lock()
	defer p.stdinMu.Unlock()
	if p.stdinGone.Load() {
		return ErrStdinClosed
	}
	n, err := p.stdin.Write(b)
	p.sent += int64(n)
	if err != nil {
		p.sent += int64(len(b) - n) // offered and not taken
		return ErrStdinClosed
	}
	return nil
}
