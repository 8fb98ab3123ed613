package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Limits of replay, in bytes per output stream.
const (
	// DefaultReplay is Request.Replay's default.
	DefaultReplay = 1 << 20
	// MaxReplay is the largest Request.Replay.
	MaxReplay = 16 << 20
)

// maxListed bounds what Sessions takes from a guest: more than an agent keeps.
const maxListed = 16 << 10

var (
	// ErrSessionNotFound means that the agent has no detachable session of this
	// ID: there never was one, or it was forgotten.
	ErrSessionNotFound = errors.New("channel: no such session in the agent")
	// ErrSessionRunning means that Forget was asked to forget a running session.
	ErrSessionRunning = errors.New("channel: the session is still running; kill it first")
	// ErrDetached is Wait's error after Detach: the process goes on.
	ErrDetached = errors.New("channel: detached; the process goes on")
	// ErrNotDetachable is Detach's error for a Request without Detachable.
	ErrNotDetachable = errors.New("channel: the exec was not started with Detachable")
	// ErrStdinBusy means that another attachment writes the session's stdin; see
	// AttachRequest.Takeover.
	ErrStdinBusy = errors.New("channel: another attachment writes the session's stdin")
	// ErrNoStdin means that the session's stdin is not open: it was started
	// without one, or its input has ended.
	ErrNoStdin = errors.New("channel: the session's stdin is not open")
	// ErrGap is what a *GapError is, for errors.Is.
	ErrGap = errors.New("channel: output is not kept any more")
)

// GapError reports output bytes that the agent no longer keeps: those from the
// cursor Want up to the cursor Have. Cursors count the bytes of the stream since
// the process started.
type GapError struct {
	Stream     string // "stdout" or "stderr"
	Want, Have int64
}

func (e *GapError) Error() string {
	return fmt.Sprintf("channel: %d bytes of %s from cursor %d to %d are not kept any more; attach with AllowGap or a larger Replay",
		e.Have-e.Want, e.Stream, e.Want, e.Have)
}

// Is makes errors.Is(err, ErrGap) true.
func (e *GapError) Is(target error) bool { return target == ErrGap }

// SessionInfo is a detachable session as the agent describes it. All text is
// the guest's.
type SessionInfo struct {
	ID   string
	PID  int
	Args []string // at most 16 and 1 KiB of them; see ArgsCut
	// ArgsCut: Args is not the whole argv.
	ArgsCut bool
	TTY     bool
	// Running: not ended, which includes the time in which output is drained.
	Running bool
	// Started and Ended are the guest's wall clock; Ended is zero while running.
	Started, Ended time.Time
	Exit           *Exit // nil until the process was reaped
	Watchers       int   // attachments now
	StdinTaken     bool  // an attachment writes stdin
	Stdout, Stderr Kept
}

// Kept is what the agent keeps of one output stream: the bytes between two
// cursors. From is also how many bytes were dropped.
type Kept struct {
	From int64 `cbor:"1,keyasint" json:"from"`
	To   int64 `cbor:"2,keyasint" json:"to"`
}

// AttachRequest says what an attachment wants of a session. The zero value
// replays everything that is kept and follows.
type AttachRequest struct {
	// FromStdout and FromStderr are the cursors to begin at: -1 = now, 0 =
	// the oldest byte that is kept. Any other one must be kept, or Attach
	// returns a *GapError.
	FromStdout int64 `cbor:"1,keyasint,omitempty"`
	FromStderr int64 `cbor:"2,keyasint,omitempty"`
	// ReadOnly takes no Stdin, and the agent refuses signals, kills and sizes.
	ReadOnly bool `cbor:"3,keyasint,omitempty"`
	// AllowGap goes on after bytes that are not kept. They are counted in
	// Process.Skipped and told to OnGap.
	AllowGap bool `cbor:"4,keyasint,omitempty"`
	// Takeover takes stdin from the attachment that writes it, which sees a
	// closed stdin, instead of failing with ErrStdinBusy.
	Takeover bool `cbor:"5,keyasint,omitempty"`
	// Rows and Cols set the size of the session's terminal, before anything is
	// typed or shown; 0 = leave it.
	Rows uint16 `cbor:"7,keyasint,omitempty"`
	Cols uint16 `cbor:"8,keyasint,omitempty"`
	// Uncounted leaves it out of SessionInfo.Watchers: a log, or who only waits,
	// is nobody that a user would miss.
	Uncounted bool `cbor:"9,keyasint,omitempty"`
	// OnGap is called for each gap with AllowGap, from the goroutine that reads
	// the agent's messages: it must not block or call
	// the Process. nil = nothing.
	OnGap func(GapError) `cbor:"-"`

	// Set by Attach from Stdio.
	Wired wired `cbor:"6,keyasint,omitempty"`
}

// Attach connects to a detachable session, whether this client started it or
// one before it, running or ended. Several attachments to one session are
// independent; Stdin goes to one at a time. Its end is the end of the process's
// stdin; detaching is not. The Process is as from Start, with these differences:
// the end of ctx ends the attachment only, an output error too, and with a
// reader that falls further behind than what the agent keeps Wait returns a *GapError.
//
// Errors: ErrSessionNotFound, ErrStdinBusy, ErrNoStdin, *GapError, *StartError
// for a cursor beyond the end, and those of Start.
func (c *Client) Attach(ctx context.Context, id string, req AttachRequest, stdio Stdio) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("channel: attach: %w", err)
	}
	bad := func(msg string) error {
		return &StartError{Stage: StageRequest, Errno: EINVAL, Path: id[:min(len(id), maxSessionID)], Msg: msg}
	}
	switch {
	case len(id) == 0 || len(id) > maxSessionID:
		return nil, bad(fmt.Sprintf("session ID of %d bytes, must be 1 to %d", len(id), maxSessionID))
	case req.FromStdout < -1 || req.FromStderr < -1:
		return nil, bad(fmt.Sprintf("cursor %d or %d below -1", req.FromStdout, req.FromStderr))
	case req.ReadOnly && (stdio.Stdin != nil || req.Takeover):
		return nil, bad("a read-only attachment has no stdin")
	}
	if SameWriter(stdio.Stdout, stdio.Stderr) {
		w := &lockedWriter{w: stdio.Stdout}
		stdio.Stdout, stdio.Stderr = w, &lockedWriter{w: w}
	}
	p := c.newProcess(ctx, &Request{Session: id}, stdio)
	p.attach = &req
	req.Wired = stdio.wired(false)
	return c.launch(p)
}

// lockedWriter lets two copies share a caller's writer.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// Sessions lists the detachable sessions of the agent, running and ended, the
// oldest first, whichever client started them.
func (c *Client) Sessions(ctx context.Context) ([]SessionInfo, error) {
	var list []SessionInfo
	for after := int64(0); ; {
		r, err := c.call(ctx, &callReq{Sessions: &sessionsReq{After: after}})
		if err != nil {
			return nil, err
		}
		if r.Sessions == nil {
			return nil, &ProtocolError{Op: "sessions", Msg: "reply without a list"}
		}
		for i := range r.Sessions.List {
			m := &r.Sessions.List[i]
			if m.Seq <= after || !m.valid() || len(list) == maxListed {
				return nil, &ProtocolError{Op: "sessions", Msg: fmt.Sprintf("entry %d with number %d after %d", len(list), m.Seq, after)}
			}
			after = m.Seq
			list = append(list, m.info())
		}
		if !r.Sessions.More {
			return list, nil
		}
		if len(r.Sessions.List) == 0 {
			return nil, &ProtocolError{Op: "sessions", Msg: "empty page with more to follow"}
		}
	}
}

// Forget drops what the agent keeps of an ended session: its ID is free again.
// Errors: ErrSessionNotFound, ErrSessionRunning, and those of the connection.
func (c *Client) Forget(ctx context.Context, id string) error {
	r, err := c.call(ctx, &callReq{Forget: &forgetReq{Session: id}})
	if err != nil {
		return err
	}
	switch r.Reason {
	case 0:
		return nil
	case ReasonNotFound:
		return fmt.Errorf("%w: %q", ErrSessionNotFound, id)
	case ReasonRunning:
		return fmt.Errorf("%w: %q", ErrSessionRunning, id)
	}
	return &ProtocolError{Op: "forget", Msg: fmt.Sprintf("unknown reason %d", r.Reason)}
}

// Detach ends the attachment and leaves the process running; Wait returns
// ErrDetached when the output up to the detachment was written to Stdout and
// Stderr. Stdin bytes that were written before are delivered if the process
// takes them soon; Wait's error says so if not. ErrNotDetachable for an exec
// started without Detachable; when the result is final os.ErrProcessDone or, as
// from Signal, why it is not known how the process ended.
func (p *Process) Detach() error { return p.detach() }

// Cursors are the positions after the last bytes that arrived: where a later
// Attach goes on without loss or repetition. They are exact when Wait has returned.
func (p *Process) Cursors() (stdout, stderr int64) {
	return p.cursor("stdout"), p.cursor("stderr")
}

// Skipped is how many bytes were not kept for this attachment, with AllowGap.
func (p *Process) Skipped() (stdout, stderr int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.skipped[0], p.skipped[1]
}

// Began are the cursors at which an attachment began: where its request named
// one, that one, else where the agent says. Final once Attach has returned.
func (p *Process) Began() (stdout, stderr int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.from[0], p.from[1]
}
