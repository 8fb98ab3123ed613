package sandbox

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// Errors of sessions, for errors.Is.
var (
	// ErrSessionNotFound: there is no such session; it never was, was not detachable, or has been forgotten.
	ErrSessionNotFound = channel.ErrSessionNotFound
	// ErrSessionRunning: a running session cannot be forgotten.
	ErrSessionRunning = channel.ErrSessionRunning
	// ErrNotDetachable: the command was started without WithExecDetachable.
	ErrNotDetachable = channel.ErrNotDetachable
	// ErrStdinBusy: somebody else writes the session's standard input; WithTakeover takes it.
	ErrStdinBusy = channel.ErrStdinBusy
	// ErrNoStdin: the session's standard input is not open.
	ErrNoStdin = channel.ErrNoStdin
	// ErrGap: output is not kept any more. The error is a *GapError.
	ErrGap = channel.ErrGap
)

// A GapError reports output bytes that the guest does not keep any more: those from the cursor Want up to the cursor Have. A cursor counts the
// bytes of one stream since the command started.
type GapError = channel.GapError

// Kept is what the guest keeps of one output stream: the bytes from the cursor From up to To, which is all that was printed so far.
type Kept = channel.Kept

// SessionInfo is what the guest says of a session. All text is the guest's.
type SessionInfo struct {
	ID         string        `json:"id"`
	PID        int           `json:"pid"`
	Args       []string      `json:"args"` // the start of the command line; ArgsCut says that there is more
	ArgsCut    bool          `json:"argsCut,omitempty"`
	TTY        bool          `json:"tty"`             // on a terminal, whose output is Stdout
	Running    bool          `json:"running"`         // not ended, or output is still being read
	Started    time.Time     `json:"started"`         // by the guest's clock, as Ended
	Ended      time.Time     `json:"ended,omitzero"`  // zero while it runs
	State      *ProcessState `json:"state,omitempty"` // how the command ended; nil before
	Watchers   int           `json:"watchers"`        // handles and terminals that follow it now
	StdinTaken bool          `json:"stdinTaken"`      // one of them writes its standard input
	Stdout     Kept          `json:"stdout"`
	Stderr     Kept          `json:"stderr"`
}

// Sessions lists the sandbox's sessions, running and ended, the oldest first: the commands that were started with WithExecDetachable, by
// StartSession or on an attached terminal. Of those that ended the guest keeps the last 256.
func (s *Sandbox) Sessions(ctx context.Context) ([]SessionInfo, error) {
	list, err := s.client.Sessions(ctx)
	if err != nil {
		return nil, s.failure(err)
	}
	out := make([]SessionInfo, len(list))
	for i, m := range list {
		out[i] = SessionInfo{
			ID: m.ID, PID: m.PID, Args: m.Args, ArgsCut: m.ArgsCut, TTY: m.TTY, Running: m.Running, Started: m.Started, Ended: m.Ended,
			Watchers: m.Watchers, StdinTaken: m.StdinTaken, Stdout: m.Stdout, Stderr: m.Stderr,
		}
		if m.Exit != nil {
			out[i].State = newProcessState(m.PID, m.Exit)
		}
	}
	return out, nil
}

// A Session is a command that goes on when nobody follows it, by its ID. Any number may come back to it, at the same time too. It ends by
// itself, by Kill, or with the sandbox. Safe for concurrent use.
type Session struct {
	sb *Sandbox
	id string
}

// Session returns the session with that ID, which need not exist: the methods report ErrSessionNotFound.
func (s *Sandbox) Session(id string) *Session { return &Session{s, id} }

// StartSession starts the program name with args as a session that nobody follows yet. ctx bounds the start only.
//
// Options: those of Exec, without WithExecStdin and WithExecMaxOutput; WithExecDetachable sets how much output is kept. Errors: those of
// Cmd.Start.
func (s *Sandbox) StartSession(ctx context.Context, name string, args []string, opts ...ExecOption) (*Session, error) {
	c := s.Command(ctx, name, args...)
	if c.Err != nil {
		return nil, c.Err
	}
	if err := c.apply("StartSession", opts); err != nil {
		return nil, err
	}
	if c.Stdin != nil || c.stdinPipe {
		return nil, &ConfigError{"StartSession", "WithExecStdin", "nobody is there to copy it; give WithExecOpenStdin and write through Session.Stream"}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.detachable, c.detached = true, true
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, func() { cancel(ctx.Err()) })
	c.ctx = causeContext{inner}
	proc, err := s.start(c)
	if err != nil {
		release()
		cancel(nil)
		return nil, err
	}
	if !release() { // ctx ended meanwhile, and the command must not outlive that
		_ = proc.p.Kill()
		_, _ = proc.p.Wait()
		proc.cancel()
		return nil, ctx.Err()
	}
	_ = proc.p.Detach() // it fails when the command has ended
	detached := make(chan struct{})
	go func() { // cancel ends this end only when the guest has confirmed that, which it may never do
		defer close(detached)
		<-proc.p.Done()
		proc.cancel()
		cancel(nil)
	}()
	await(detached, confirmGrace)
	return s.Session(proc.p.ID()), nil
}

// ID returns the session ID.
func (x *Session) ID() string { return x.id }

// Info returns what the guest knows of the session. Errors: ErrSessionNotFound, or why the sandbox cannot be asked.
func (x *Session) Info(ctx context.Context) (SessionInfo, error) {
	list, err := x.sb.Sessions(ctx)
	if err != nil {
		return SessionInfo{}, err
	}
	for _, info := range list {
		if info.ID == x.id {
			return info, nil
		}
	}
	return SessionInfo{}, fmt.Errorf("%w: %q", ErrSessionNotFound, x.id)
}

// Stream follows the session: first the output that the guest keeps, from the cursors on, then what comes, then its end. The handle is that of
// ExecStream but for Close and the end of ctx, which leave the command running.
//
// Errors: ErrSessionNotFound, ErrStdinBusy, ErrNoStdin, *GapError, *StartError for a cursor beyond the end.
func (x *Session) Stream(ctx context.Context, opts ...SessionOption) (*ExecHandle, error) {
	var v sessionView
	for _, o := range opts {
		if o == nil {
			return nil, &ConfigError{"Session.Stream", "nil", "an option is nil; leave it out instead"}
		}
		if err := o(&v); err != nil {
			return nil, err
		}
	}
	return x.stream(ctx, v)
}

func (x *Session) stream(ctx context.Context, v sessionView) (*ExecHandle, error) {
	if ctx == nil {
		return nil, &ConfigError{"Session.Stream", "nil", "the context is nil; give context.Background()"}
	}
	c := &Cmd{sb: x.sb, stdinPipe: v.stdin, maxOutput: v.maxOutput}
	h := newExecHandle(c)
	ctx, h.cancel = context.WithCancel(ctx)
	req := channel.AttachRequest{FromStdout: v.stdoutCursor, FromStderr: v.stderrCursor, ReadOnly: v.readOnly, AllowGap: v.gaps, Takeover: v.takeover}
	req.OnGap, req.Rows, req.Cols = h.gap, v.size.Rows, v.size.Cols
	proc, err := x.attach(ctx, req, channel.Stdio{Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
	if err != nil {
		h.cancel()
		return nil, err
	}
	proc.full = h.cancel
	h.begin(proc)
	return h, nil
}

// attach connects to the session.
func (x *Session) attach(ctx context.Context, req channel.AttachRequest, stdio channel.Stdio) (*process, error) {
	select {
	case <-x.sb.life.ended:
		return nil, x.sb.life.cause
	default:
	}
	p, err := x.sb.client.Attach(ctx, x.id, req, stdio)
	if err != nil {
		return nil, x.sb.failure(err)
	}
	return &process{sb: x.sb, p: p, cancel: func() {}, stop: func() {}}, nil
}

// Attach connects the caller's terminal to the session, which must be one with a terminal: what the guest keeps of its output is shown, its
// size is set, and from then on it is as Sandbox.Attach, but that the end of ctx leaves the program running. WithAttachView says what of the
// session is wanted. Options that start a command are a *ConfigError.
//
// Errors: those of Sandbox.Attach and of Stream.
func (x *Session) Attach(ctx context.Context, opts ...AttachOption) (exitCode int, err error) {
	return x.sb.attach(ctx, "Session.Attach", &attachment{}, opts, func(ctx context.Context, a *attachment) (*ExecHandle, error) {
		if len(a.args) > 0 || len(a.exec) > 0 {
			return nil, &ConfigError{"Session.Attach", "an option that starts a command", "the session's command runs already; leave it out"}
		}
		info, err := x.Info(ctx)
		if err != nil {
			return nil, err
		}
		if !info.TTY {
			return nil, &ConfigError{"Session.Attach", x.id, "the session has no terminal; follow it with Session.Stream"}
		}
		v := a.view
		v.stdin, v.gaps, v.size = !v.readOnly && info.Running, true, a.size
		return x.stream(ctx, v)
	})
}

// control runs f with a handle on the session that reads and writes nothing.
func (x *Session) control(ctx context.Context, f func(p *channel.Process) error) error {
	inner, cancel := context.WithCancel(ctx)
	proc, err := x.attach(inner, channel.AttachRequest{FromStdout: -1, FromStderr: -1, Uncounted: true}, channel.Stdio{})
	if err != nil {
		cancel()
		return err
	}
	err = f(proc.p)
	cancel()
	<-proc.p.Done()
	return x.sb.failure(err)
}

// Signal sends the signal number sig, 0 to 64, and returns when the guest has delivered it. Errors: os.ErrProcessDone when the command has
// exited, ErrSessionNotFound, ctx's error, or the guest's errno.
func (x *Session) Signal(ctx context.Context, sig syscall.Signal, target SignalTarget) error {
	return x.control(ctx, func(p *channel.Process) error {
		return p.Signal(ctx, channel.Signal(sig), target == SignalGroup)
	})
}

// Kill ends the command and every process it started, and returns when it is over. Errors: os.ErrProcessDone when it has exited already,
// ErrSessionNotFound, ctx's error.
func (x *Session) Kill(ctx context.Context) error {
	return x.control(ctx, func(p *channel.Process) error {
		if err := p.Signal(ctx, 0, false); err != nil { // whether it runs, by the guest's word
			return err
		}
		if err := p.Kill(); err != nil {
			return err
		}
		_, err := p.Wait()
		return err
	})
}

// Wait waits for the command's end; its output is left where it is. The state of one that has ended is returned at once. Errors:
// ErrSessionNotFound, and ctx's, which leaves the command running.
func (x *Session) Wait(ctx context.Context) (*ProcessState, error) {
	proc, err := x.attach(ctx, channel.AttachRequest{FromStdout: -1, FromStderr: -1, ReadOnly: true, Uncounted: true}, channel.Stdio{})
	if err != nil {
		return nil, err
	}
	return proc.wait()
}

// Forget drops what the guest keeps of an ended session, whose ID is free again. Errors: ErrSessionNotFound, ErrSessionRunning.
func (x *Session) Forget(ctx context.Context) error {
	return x.sb.failure(x.sb.client.Forget(ctx, x.id))
}
