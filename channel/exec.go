package channel

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Exec is the guest's end of one exec.
type Exec struct {
	req    Request
	ctl    *yamux.Stream
	stdin  *yamux.Stream
	stdout *yamux.Stream
	stderr *yamux.Stream
	msgs   chan Control
	last   *agentMsg      // sent when the session is over
	attach *AttachRequest // nil for an exec

	mu sync.Mutex // one message at a time
}

// Control is a message of the host to a running exec. Exactly one field is set.
type Control struct {
	Signal *SignalRequest
	Kill   *KillRequest
	Resize *TTY // Rows and Cols
	Detach *DetachRequest
}

// SignalRequest must be answered with Exec.SignalDone.
type SignalRequest struct {
	Seq   uint32
	Sig   Signal
	Group bool
}

// KillRequest ends the tree: SIGTERM, Grace, SIGKILL; SIGKILL at once if Grace is 0.
type KillRequest struct{ Grace time.Duration }

// exec runs one exec on its control stream. The last message is sent when the
// session ID is free again, because the host may use it at once.
func (s *server) exec(ctl *yamux.Stream, o open) {
	defer ctl.Close()
	x := &Exec{ctl: ctl, msgs: make(chan Control)}
	if err := readFrame(ctl, decModeHost, maxFrame, &x.req); err != nil {
		return
	}
	k := meetKey{o.Session, o.Attach}
	if f := s.admit(k, ctl, true); f != nil {
		x.Failed(f)
	} else {
		s.serveExec(k, x, s.h.Exec)
		s.leave(k, true)
	}
	if x.last != nil {
		_ = x.send(x.last) // an error means that the host has gone
	}
}

// serveExec runs an admitted exec or attachment.
func (s *server) serveExec(k meetKey, x *Exec, serve func(context.Context, *Exec)) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.wg.Go(func() { // from here on, so that gather sees a host that has gone
		defer cancel()
		x.readControl(ctx)
	})
	if f := s.gather(ctx, k, x); f != nil {
		x.Failed(f)
		return
	}
	defer x.closeStreams()
	serve(ctx, x)
}

// admit takes a place among the sessions, and for an exec the session ID.
func (s *server) admit(k meetKey, ctl *yamux.Stream, exec bool) *StartFailure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions >= s.cfg.MaxSessions {
		s.refuse(k)
		return &StartFailure{Stage: StageLimit, Max: s.cfg.MaxSessions}
	}
	m := s.meet(k)
	switch {
	case m.streams[kindExec] != nil:
		return &StartFailure{Stage: StageSession, Path: k.session, Msg: "number is in use"}
	case exec && s.running[k.session]:
		s.refuse(k)
		return &StartFailure{Stage: StageSession, Path: k.session, Msg: "session ID is in use"}
	}
	m.streams[kindExec] = ctl
	s.sessions++
	if exec {
		s.running[k.session] = true
	}
	return nil
}

func (s *server) leave(k meetKey, exec bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions--
	if exec {
		delete(s.running, k.session)
	}
	if m := s.meeting[k]; m != nil {
		s.endMeeting(k, m)
	}
}

// gather waits for the data streams that the request names.
func (s *server) gather(ctx context.Context, k meetKey, x *Exec) *StartFailure {
	t := time.NewTimer(rendezvousTime)
	defer t.Stop()
	s.mu.Lock()
	m := s.meeting[k]
	s.mu.Unlock()
	for {
		s.mu.Lock()
		ok := true
		for _, want := range []struct {
			w    wired
			kind streamKind
			to   **yamux.Stream
		}{
			{wiredStdin, kindStdin, &x.stdin}, {wiredStdout, kindStdout, &x.stdout}, {wiredStderr, kindStderr, &x.stderr},
		} {
			if x.req.Wired&want.w != 0 && *want.to == nil {
				*want.to = m.streams[want.kind]
				ok = ok && *want.to != nil
			}
		}
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-m.arrived:
		case <-t.C:
			return &StartFailure{Stage: StageSession, Msg: "data streams did not arrive"}
		case <-ctx.Done():
			return &StartFailure{Stage: StageSession, Msg: "host went away"}
		}
	}
}

// readControl passes the host's messages on until the control stream ends.
func (x *Exec) readControl(ctx context.Context) {
	defer close(x.msgs)
	for {
		var m hostMsg
		if err := readFrame(x.ctl, decModeHost, maxFrame, &m); err != nil || !m.valid() {
			return
		}
		var c Control
		switch {
		case m.Signal != nil:
			c.Signal = &SignalRequest{Seq: m.Signal.Seq, Sig: Signal(m.Signal.Sig), Group: m.Signal.Group}
		case m.Kill != nil:
			c.Kill = &KillRequest{Grace: m.Kill.Grace}
		case m.Resize != nil:
			c.Resize = &TTY{Rows: m.Resize.Rows, Cols: m.Resize.Cols}
		case m.Detach != nil:
			c.Detach = &DetachRequest{Stdin: m.Detach.Stdin}
		}
		select {
		case x.msgs <- c:
		case <-ctx.Done():
			return
		}
	}
}

func (x *Exec) closeStreams() {
	for _, st := range []*yamux.Stream{x.stdin, x.stdout, x.stderr} {
		if st != nil {
			st.Close()
		}
	}
}

// Request is what to run.
func (x *Exec) Request() *Request { return &x.req }

// Controls delivers the host's messages; it is closed when the host has gone.
func (x *Exec) Controls() <-chan Control { return x.msgs }

// Stdin is the stream of stdin bytes, nil if the process gets an empty one.
func (x *Exec) Stdin() *InStream { return newInStream(x.stdin) }

// Stdout is the stream for stdout (or terminal) bytes, nil = discard.
func (x *Exec) Stdout() *OutStream { return newOutStream(x.stdout) }

// Stderr is the stream for stderr bytes, nil = discard; see Merged.
func (x *Exec) Stderr() *OutStream { return newOutStream(x.stderr) }

// Merged reports that stderr goes to the same pipe as stdout.
func (x *Exec) Merged() bool { return x.req.Wired&wiredMerged != 0 }

func (x *Exec) send(m *agentMsg) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return writeFrame(x.ctl, m)
}

// Started reports the process ID. First message, unless Failed is.
func (x *Exec) Started(pid int) error { return x.send(&agentMsg{Started: &startedMsg{PID: pid}}) }

// StartFailure says why a process was not started; the host makes a
// *StartError or *LimitError of it.
type StartFailure struct {
	Stage  string // one of the Stage constants
	Errno  Errno
	Path   string
	Msg    string
	Bare   bool      // Path is a bare name that was looked up in PATH
	Max    int       // with StageLimit
	Reason Reason    // 0 = none
	Gap    *GapError // with ReasonGap
}

// Failed reports that nothing was started. It is the only message then, and is
// sent when the handler has returned.
func (x *Exec) Failed(f *StartFailure) {
	cut := func(s string) string { return s[:min(len(s), 4096)] }
	m := &failedMsg{
		Stage: f.Stage, Errno: int(f.Errno), Path: cut(f.Path), Msg: cut(f.Msg), Bare: f.Bare, Max: f.Max, Why: f.Reason,
	}
	if g := f.Gap; g != nil {
		m.Gap = &gapMsg{Stderr: g.Stream == "stderr", Want: g.Want, Have: g.Have}
	}
	x.last = &agentMsg{Failed: m}
}

// SignalDone answers a SignalRequest. errno 0 = delivered, ESRCH = the process
// was reaped already.
func (x *Exec) SignalDone(seq uint32, errno Errno) error {
	return x.send(&agentMsg{SignalAck: &signalAckMsg{Seq: seq, Errno: int(errno)}})
}

// StdinClosed reports that the process takes no more stdin.
func (x *Exec) StdinClosed(taken int64) error {
	return x.send(&agentMsg{StdinClosed: &stdinClosedMsg{Taken: taken}})
}

// Exited sends the exit record. Byte totals in e are ignored here.
func (x *Exec) Exited(e *Exit) error {
	return x.send(&agentMsg{Exited: exitedOf(e)})
}

// Drained reports the totals after the last output byte was written. It is
// the last message, and is sent when the handler has returned.
func (x *Exec) Drained(e *Exit) {
	x.last = &agentMsg{Drained: drainedOf(e)}
}

// InStream is a data stream from the host.
type InStream struct{ st *yamux.Stream }

func newInStream(st *yamux.Stream) *InStream {
	if st == nil {
		return nil
	}
	return &InStream{st}
}

// Read reads payload; io.EOF is the host's end of input.
func (s *InStream) Read(p []byte) (int, error) { return s.st.Read(p) }

// Cancel unblocks Read, now and later.
func (s *InStream) Cancel() { s.st.SetReadDeadline(time.Unix(1, 0)) }

// Close ends the stream; the host's later bytes are dropped.
func (s *InStream) Close() error { return s.st.Close() }

// OutStream is a data stream to the host.
type OutStream struct{ st *yamux.Stream }

func newOutStream(st *yamux.Stream) *OutStream {
	if st == nil {
		return nil
	}
	return &OutStream{st}
}

// Write blocks while the host's reader is behind. An error means that the host
// wants no more of it.
func (s *OutStream) Write(p []byte) (int, error) { return chunkWriter{s.st}.Write(p) }

// Close ends the stream after what was written.
func (s *OutStream) Close() error { return s.st.Close() }

// IsGone reports whether err of a stream means that the host went away, as
// opposed to a Cancel.
func IsGone(err error) bool {
	return errors.Is(err, yamux.ErrConnectionReset) || errors.Is(err, yamux.ErrSessionShutdown) || errors.Is(err, yamux.ErrStreamClosed)
}
