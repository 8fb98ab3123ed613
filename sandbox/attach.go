package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// A WinSize is the size of a terminal in characters.
type WinSize struct{ Rows, Cols uint16 }

var (
	// ErrDetached: the detach keys were typed; the command goes on. The error is a *DetachedError.
	ErrDetached = errors.New("detached")
	// ErrNotTerminal: the program's standard input is no terminal. The error is a *TerminalError.
	ErrNotTerminal = errors.New("not a terminal")
)

// A DetachedError names the session that was left running, for errors.Is(err, ErrDetached). Err is not nil when the session may not have got
// the last bytes of its standard input.
type DetachedError struct {
	SessionID string
	Err       error
}

func (e *DetachedError) Error() string {
	msg := fmt.Sprintf("detached from session %s, which goes on until the sandbox is closed", e.SessionID)
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

func (e *DetachedError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrDetached) true.
func (e *DetachedError) Is(target error) bool { return target == ErrDetached }

// A TerminalError says why the caller's terminal cannot be used; for a file that is none, errors.Is(err, ErrNotTerminal).
type TerminalError struct {
	Op  string // what was tried
	Err error
}

func (e *TerminalError) Error() string {
	return "attach: " + e.Op + ": " + e.Err.Error() + "; run it in a terminal, or give WithAttachIO a reader and a writer"
}

func (e *TerminalError) Unwrap() error { return e.Err }

// attachment is what the options of AttachWith say.
type attachment struct {
	args   []string
	exec   []ExecOption
	keys   []byte
	size   WinSize
	in     io.Reader // nil = the caller's terminal
	out    io.Writer
	resize <-chan WinSize
	term   string // TERM of the caller's terminal
	open   func() (*terminal, error)

	view sessionView // of Session.Attach
}

// An AttachOption changes one setting of AttachWith.
type AttachOption func(*attachment) error

// WithAttachArgs sets the program's arguments.
func WithAttachArgs(args ...string) AttachOption {
	return func(a *attachment) error { a.args = args; return nil }
}

// WithAttachExec applies options of Exec. The terminal and the standard input are the attachment's own.
func WithAttachExec(opts ...ExecOption) AttachOption {
	return func(a *attachment) error { a.exec = append(a.exec, opts...); return nil }
}

// WithAttachCwd is WithExecCwd.
func WithAttachCwd(dir string) AttachOption { return WithAttachExec(WithExecCwd(dir)) }

// WithAttachUser is WithExecUser.
func WithAttachUser(user string) AttachOption { return WithAttachExec(WithExecUser(user)) }

// WithAttachEnv is WithExecEnv.
func WithAttachEnv(env map[string]string) AttachOption { return WithAttachExec(WithExecEnv(env)) }

// WithAttachDetachKeys sets the keys that detach: a comma-separated list of single characters and ctrl-X, where X is a letter or one of
// @ [ \ ] ^ _. The default is DefaultDetachKeys; the empty string switches detaching off.
func WithAttachDetachKeys(keys string) AttachOption {
	return func(a *attachment) (err error) { a.keys, err = parseDetachKeys(keys); return err }
}

// WithAttachSize sets the terminal's first size; zero is the caller's terminal's, or 24 and 80 with WithAttachIO.
func WithAttachSize(rows, cols uint16) AttachOption {
	return func(a *attachment) error { a.size = WinSize{rows, cols}; return nil }
}

// WithAttachIO connects the command's terminal to in and out instead of the caller's: what is read from in is typed, what the terminal shows
// is written to out. The end of in types the end-of-file character. Each value of resize, which may be nil, sets the size.
//
// If in has SetReadDeadline, as a net.Conn, a Read that waits at the end is interrupted by it; any other Read goes on, and what it returns is
// lost.
func WithAttachIO(in io.Reader, out io.Writer, resize <-chan WinSize) AttachOption {
	return func(a *attachment) error {
		if in == nil || out == nil {
			return &ConfigError{"WithAttachIO", "nil", "give a reader and a writer; io.Discard will do"}
		}
		a.in, a.out, a.resize = in, out, resize
		return nil
	}
}

// Attach runs the program name with args on a terminal that is the caller's: keys go to the program, its screen is shown, and a change of
// size follows. It returns the exit code when the program ends, 128+n when signal n ended it. It needs a terminal as the standard input; AttachWith has the options.
//
// Errors: those of Cmd.Start and Cmd.Wait but *ExitError; *TerminalError; *DetachedError when the detach keys were typed, with code -1. When
// ctx ends, the program is killed. The caller's terminal is as it was before, whatever happened, but for a signal that ends this program by its
// default action, such as SIGTERM or SIGHUP: end ctx instead, with signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP).
func (s *Sandbox) Attach(ctx context.Context, name string, args ...string) (exitCode int, err error) {
	return s.AttachWith(ctx, name, WithAttachArgs(args...))
}

// AttachShell attaches to the sandbox's shell (WithShell, by default /bin/sh). Otherwise it is Attach.
func (s *Sandbox) AttachShell(ctx context.Context) (exitCode int, err error) {
	return s.AttachWith(ctx, s.cfg.shell)
}

// AttachWith is Attach with options. Errors: also *ConfigError for an option.
func (s *Sandbox) AttachWith(ctx context.Context, name string, opts ...AttachOption) (exitCode int, err error) {
	return s.attach(ctx, "AttachWith", &attachment{}, opts, func(ctx context.Context, a *attachment) (*ExecHandle, error) {
		if a.view != (sessionView{}) {
			return nil, &ConfigError{"AttachWith", "WithAttachView", "it is for Session.Attach, which comes back to a command"}
		}
		opts := append(a.exec[:len(a.exec):len(a.exec)], WithExecTTY(a.size.Rows, a.size.Cols), WithExecStdinPipe(), withBridge(a))
		return s.ExecStream(ctx, name, a.args, opts...)
	})
}

// attach applies the options and bridges the caller's terminal to what open returns.
func (s *Sandbox) attach(ctx context.Context, op string, a *attachment, opts []AttachOption, open opener) (exitCode int, err error) {
	if ctx == nil {
		return -1, &ConfigError{op, "nil", "the context is nil; give context.Background()"}
	}
	if a.open == nil {
		a.open = openTerminal
	}
	if a.keys, err = parseDetachKeys(DefaultDetachKeys); err != nil {
		return -1, err
	}
	for _, o := range opts {
		if o == nil {
			return -1, &ConfigError{op, "nil", "an option is nil; leave it out instead"}
		}
		if err := o(a); err != nil {
			return -1, err
		}
	}
	enterRaw := func() error { return nil }
	if a.in == nil {
		t, err := a.open()
		if err != nil {
			return -1, err
		}
		defer t.close()
		a.in, a.out, a.resize, a.term = t, t.out(), t.sizes, hostTerm()
		if a.size == (WinSize{}) {
			a.size = t.size()
		}
		enterRaw = t.enterRaw
	}
	return s.runAttached(ctx, a, enterRaw, open)
}

// opener starts the command of an attachment, or comes back to it.
type opener func(context.Context, *attachment) (*ExecHandle, error)

// runAttached opens the command and bridges its terminal until the command, ctx or the user ends it.
func (s *Sandbox) runAttached(ctx context.Context, a *attachment, enterRaw func() error, open opener) (int, error) {
	// A command that was detached from must not end with ctx.
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, func() { cancel(ctx.Err()) })
	h, err := open(causeContext{inner}, a)
	if err != nil {
		release()
		cancel(nil)
		return -1, err
	}
	detached := false
	defer func() {
		if !detached {
			release()
			h.Close()
			cancel(nil)
		}
	}()
	if err := enterRaw(); err != nil {
		return -1, err
	}
	b := newBridge(h, a)
	b.start()
	select {
	case <-b.shown:
	case <-ctx.Done():
		// A Write to the caller's terminal may hang; what the command printed before gets a moment.
		await(b.shown, attachGrace)
	case <-b.found:
		if detached = release(); !detached {
			break // ctx ended at the same time, and the command with it
		}
		if h.Detach() == nil { // it fails when the command has just ended
			await(b.shown, attachGrace) // what came before the keys is shown; what comes later is kept in the guest
		}
		b.stop()
		confirmed := make(chan struct{})
		go func() { // until the guest has confirmed it, the output must not stall
			defer close(confirmed)
			defer cancel(nil)
			_, _ = h.Wait(context.Background())
		}()
		await(confirmed, confirmGrace) // who comes back at once finds the standard input free
		return -1, &DetachedError{SessionID: h.proc.p.ID()}
	}
	b.stop()
	if err := b.failure(); err != nil {
		return -1, fmt.Errorf("attach: writing to the terminal: %w", err)
	}
	if ctx.Err() != nil {
		h.Close()
	}
	res, err := h.Wait(context.Background())
	return res.ShellExitCode(), err
}

// attachGrace bounds how long an attachment that is over waits for a hanging Write.
const attachGrace = 500 * time.Millisecond

// confirmGrace bounds how long a detachment waits for the guest, which may itself wait for a command that does not read.
const confirmGrace = 2 * time.Second

// withBridge passes the caller's terminal type on, and lets the command go on after the detach keys.
func withBridge(a *attachment) ExecOption {
	return func(c *Cmd) error {
		c.TTY.Term = a.term
		c.detachable = len(a.keys) > 0
		return nil
	}
}

// causeContext is a context whose Err is its cause: WithoutCancel has hidden the caller's.
type causeContext struct{ context.Context }

func (c causeContext) Err() error {
	if c.Context.Err() == nil {
		return nil
	}
	return context.Cause(c.Context)
}
