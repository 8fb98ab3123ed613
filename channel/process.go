package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// Stdio connects an exec to the caller. A nil Stdin is an empty file, a nil
// Stdout or Stderr discards in the guest, as in os/exec. If Stdout and Stderr
// are the same writer, both share one pipe in the guest, so that their order
// is kept, and only one goroutine writes. With a TTY everything arrives on Stdout.
//
// A Stdin whose Read blocks does not delay Wait; the goroutine that reads it
// ends after that Read returns, and the bytes it returned are lost.
type Stdio struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exit says how a process ended.
type Exit struct {
	Code     int    // exit code, -1 if a signal ended it
	Signal   Signal // the signal that ended it, or 0
	Core     bool   // it dumped core
	OOM      bool   // the guest's OOM killer ended something of this exec
	TimedOut bool   // Request.Timeout ended it
	// Orphaned: a descendant still held an output pipe when WaitDelay had
	// passed; what it wrote later is lost.
	Orphaned bool
	Wall     time.Duration // from start to reaping, by the guest's clock
	Usage    Rusage
	// Stdin is how many bytes the process's stdin took; Stdout and Stderr are
	// how many bytes it wrote, all of which arrived unless Wait says otherwise.
	Stdin, Stdout, Stderr int64
	// StdinErr is ErrStdinClosed if the process did not take all of Stdin, or
	// the error of Stdin's Read. It does not make the exec fail.
	StdinErr error
}

// Success reports whether the process exited with code 0.
func (e *Exit) Success() bool { return e.Code == 0 }

// ShellExitCode is the code that a shell shows: 128+n for death by signal n.
func (e *Exit) ShellExitCode() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Process is one running or finished exec. All methods may be called from
// several goroutines.
type Process struct {
	c     *Client
	ctx   context.Context
	req   Request
	stdio Stdio

	ctl       *yamux.Stream // valid once started or failed
	stdin     *yamux.Stream
	outs      []*outCopy
	stdinGone atomic.Bool // the process takes no more stdin

	started chan struct{} // closed when pid is known
	exited  chan struct{} // closed at the exit record
	silent  chan struct{} // closed when the agent has sent its last message
	done    chan struct{} // closed when exit and err are final
	abandon chan struct{} // closed when nobody waits for the guest any more

	mu        sync.Mutex
	pid       int
	exit      *Exit
	err       error
	cancelled error // the context's error, if it ended the exec
	killed    bool  // the context ended before the process did
	abandoned bool
	stdinErr  error
	seq       uint32
	acks      map[uint32]chan Errno
	size      *resizeMsg // waiting to be sent
	resizing  bool
	sendMu    sync.Mutex // one message at a time on ctl

	stdinMu sync.Mutex // held while stdin bytes are written to the stream
	sent    int64      // stdin bytes written to the stream

	attach *AttachRequest // nil for an exec
	number uint32         // of the attachment, 0 for an exec
	tag    uint32         // Open.Attach of its streams

	// Guarded by mu.
	from      [2]int64   // cursors of stdout and stderr at the start
	skipped   [2]int64   // bytes that were not kept
	untold    []GapError // of one message, for OnGap
	tty       bool
	detaching bool
	detached  *detachedMsg
}

// sessionKey names an exec (number 0) or an attachment.
type sessionKey struct {
	id     string
	number uint32
}

// outCopy moves one output stream to its writer.
type outCopy struct {
	name string
	s    *yamux.Stream
	w    io.Writer
	n    atomic.Int64 // bytes that arrived; final after done
	err  error        // the writer's error, or yamux's
	werr bool         // err is the writer's
	done chan struct{}
}

// Start runs a process in the guest and returns when it has started. If it
// could not, the error is a *StartError (what and where), a *LimitError, the
// context's, or ErrAgentLost.
//
// When ctx ends before the process does, the process's whole tree is killed:
// SIGTERM, Request.Grace, SIGKILL (SIGKILL at once if Grace is 0), and Wait
// returns an error that wraps the context's.
func (c *Client) Start(ctx context.Context, req *Request, stdio Stdio) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("channel: start: %w", err)
	}
	return c.launch(c.newProcess(ctx, req, stdio))
}

func (c *Client) newProcess(ctx context.Context, req *Request, stdio Stdio) *Process {
	return &Process{
		c: c, ctx: ctx, req: *req, stdio: stdio, tty: req.TTY != nil,
		started: make(chan struct{}), exited: make(chan struct{}), silent: make(chan struct{}),
		done: make(chan struct{}), abandon: make(chan struct{}),
		acks: make(map[uint32]chan Errno),
	}
}

// launch runs p and returns when it has started or failed to.
func (c *Client) launch(p *Process) (*Process, error) {
	if p.attach == nil {
		if err := p.complete(); err != nil {
			return nil, err
		}
	}
	if err := c.register(p); err != nil {
		return nil, err
	}
	select {
	case <-p.started:
		return p, nil
	case <-p.done:
		select {
		case <-p.started:
			return p, nil
		default:
			return nil, p.err
		}
	}
}

// complete checks the request and fills in what is left out.
func (p *Process) complete() error {
	r := &p.req
	if r.Session == "" {
		r.Session = NewSessionID()
	}
	if len(r.Args) == 0 {
		r.Args = []string{r.Path}
	}
	r.Detachable = r.Detachable || r.Detached
	if err := r.check(); err != nil {
		return err
	}
	r.Wired = p.stdio.wired(r.TTY != nil)
	return nil
}

// prepare encodes the first message of each stream.
func (p *Process) prepare() (frames map[streamKind][]byte, err error) {
	if p.attach != nil {
		return p.prepareAttach()
	}
	r := &p.req
	frames = make(map[streamKind][]byte, 4)
	add := func(k streamKind, wired bool) {
		if wired && err == nil {
			frames[k], err = appendFrame(nil, &open{Kind: k, Session: r.Session, Attach: p.tag})
		}
	}
	add(kindExec, true)
	add(kindStdin, r.Wired&wiredStdin != 0)
	add(kindStdout, r.Wired&wiredStdout != 0)
	add(kindStderr, r.Wired&wiredStderr != 0)
	if err == nil {
		frames[kindExec], err = appendFrame(frames[kindExec], r)
	}
	return frames, err
}

// wired is the set of streams that s needs.
func (s Stdio) wired(tty bool) (w wired) {
	if s.Stdin != nil {
		w |= wiredStdin
	}
	if s.Stdout != nil {
		w |= wiredStdout
	}
	if s.Stderr != nil && !tty {
		if SameWriter(s.Stdout, s.Stderr) {
			return w | wiredMerged
		}
		w |= wiredStderr
	}
	return w
}

// SameWriter reports a == b without the panic for incomparable types.
func SameWriter(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.TypeOf(a).Comparable() && reflect.ValueOf(a).Comparable() && a == b
}

// check refuses a request that no agent can run.
func (r *Request) check() error {
	bad := func(path, msg string) error {
		return &StartError{Stage: StageRequest, Errno: EINVAL, Path: path, Msg: msg}
	}
	if r.Path == "" {
		return &StartError{Stage: StageLookup, Errno: ENOENT, Msg: "empty command"}
	}
	if len(r.Session) > maxSessionID {
		return bad(r.Session[:maxSessionID], fmt.Sprintf("session ID of %d bytes, at most %d", len(r.Session), maxSessionID))
	}
	for _, list := range [][]string{{r.Path, r.Dir, r.User}, r.Args, r.Env} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return bad(s, "contains a NUL byte")
			}
		}
	}
	for _, e := range r.Env {
		if strings.IndexByte(e, '=') <= 0 {
			return bad(e, "environment entry is not K=V")
		}
	}
	if r.Timeout < 0 || r.Grace < 0 {
		return bad("", fmt.Sprintf("negative timeout %v or grace %v", r.Timeout, r.Grace))
	}
	if l := r.Limits; l != nil && (min(l.Memory, l.CPU, l.Pids) < 0 || l.CPU > maxCPU) {
		return bad("", fmt.Sprintf("limits %+v: must be 0 to their maxima", *l))
	}
	if r.Replay < 0 || r.Replay > MaxReplay {
		return bad("", fmt.Sprintf("replay of %d bytes, must be 0 to %d", r.Replay, MaxReplay))
	}
	if !r.Detachable && (r.Replay != 0 || r.OpenStdin) {
		return bad("", "replay or open stdin without Detachable")
	}
	return nil
}

// register takes a place in the table of sessions and starts p's goroutine.
func (c *Client) register(p *Process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		if errors.Is(c.err, ErrAgentLost) {
			return c.err
		}
		return fmt.Errorf("%w: %w", ErrAgentLost, c.err)
	case p.attach == nil && c.sessions[p.key()] != nil:
		return &StartError{Stage: StageSession, Path: p.req.Session, Msg: "session ID is in use"}
	case len(c.sessions) >= c.cfg.MaxSessions:
		return &LimitError{What: LimitSessions, Max: c.cfg.MaxSessions}
	}
	p.tag = c.countAttach()
	if p.attach != nil {
		p.number = p.tag
	}
	frames, err := p.prepare()
	if err != nil {
		return err
	}
	c.sessions[p.key()] = p
	c.wg.Go(func() {
		stop := context.AfterFunc(p.ctx, p.cancel)
		defer stop()
		p.run(frames)
	})
	return nil
}

// countAttach numbers the streams of a new exec or attachment; 0 is no number.
// The caller holds c.mu.
func (c *Client) countAttach() uint32 {
	c.attaches = max(c.attaches+1, 1)
	return c.attaches
}

func (c *Client) unregister(p *Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, p.key())
}

func (p *Process) key() sessionKey { return sessionKey{p.req.Session, p.number} }

// ID returns the session ID.
func (p *Process) ID() string { return p.req.Session }

// PID returns the process ID in the guest.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Exited is closed when the process was reaped, which is before Done if output
// is still on its way.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitRecord returns how the process ended, as soon as that is known: nil
// until Exited is closed. Byte totals and Orphaned are not in it; Wait has them.
func (p *Process) ExitRecord() *Exit {
	if !isClosed(p.exited) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := *p.exit
	return &e
}

// Done is closed when Wait would return at once.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the process ended and all its output was written to Stdout
// and Stderr. A non-zero exit is not an error. With an error the *Exit is not
// nil if the exit record arrived. Errors, all for errors.Is: the context's, if
// it ended the exec; ErrAgentLost; ErrExecLost; ErrOutputTruncated; what
// Stdout or Stderr returned from Write.
func (p *Process) Wait() (*Exit, error) {
	<-p.done
	return p.exit, p.err
}

// cancel is called when the context ends before the exec.
func (p *Process) cancel() {
	p.mu.Lock()
	if p.attach != nil || p.detaching {
		// The end of an attachment's context is not the process's.
		p.cancelled = p.ctx.Err()
		p.mu.Unlock()
		p.giveUp()
		return
	}
	select {
	case <-p.exited:
		// The process ended by itself: what is left is its output, and a
		// cancelled caller wants no more of it.
	default:
		p.killed = true // a success from here on is the context's end, as in os/exec
		p.post(&hostMsg{Kill: &killMsg{Grace: p.req.Grace}})
	}
	p.cancelled = p.ctx.Err()
	p.mu.Unlock()
	wait := p.c.cfg.CancelWait
	select {
	case <-p.started:
		wait += p.req.Grace
	default:
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		p.giveUp()
	}
}

// giveUp completes the exec without the guest.
func (p *Process) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.abandoned {
		p.abandoned = true
		close(p.abandon)
	}
}
