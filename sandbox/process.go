package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// process is a started command.
type process struct {
	sb     *Sandbox
	p      *channel.Process
	cancel context.CancelFunc // frees the timeout's timer
	stop   func()             // stops that timer: the process has exited, only its output is still on the way
	full   func()             // ends what prints more than its reader collects
}

// killGrace is the time between SIGTERM and SIGKILL when a command's own timeout ends it.
const killGrace = 500 * time.Millisecond

// check refuses what cannot work before anything is sent.
func (c *Cmd) check() error {
	switch {
	case c.Path == "":
		return &ConfigError{"Cmd.Path", `""`, "there is no command; give its name or path"}
	case c.Dir != "" && !strings.HasPrefix(c.Dir, "/"):
		return &ConfigError{"Cmd.Dir", fmt.Sprintf("%q", c.Dir), "give an absolute path in the guest"}
	case c.Timeout < 0:
		return &ConfigError{"Cmd.Timeout", c.Timeout.String(), "give a positive duration, or zero for none"}
	}
	for _, kv := range c.Env {
		if err := checkEnv("Cmd.Env", kv); err != nil {
			return err
		}
	}
	for _, l := range c.Rlimits {
		if err := l.check(); err != nil {
			return err
		}
	}
	return c.Limits.check()
}

// request is what the agent is asked to run.
func (c *Cmd) request() *channel.Request {
	req := &channel.Request{
		Session: c.SessionID, Path: c.Path, Args: c.argv(), Dir: c.Dir, User: c.User, Env: c.environ(), ClearEnv: c.Env != nil,
		Timeout: c.Timeout, WaitDelay: c.WaitDelay, Limits: c.Limits.request(),
		Detachable: c.detachable, Detached: c.detached, Replay: int64(c.replay), OpenStdin: c.openStdin,
	}
	if c.Timeout > 0 {
		req.Grace = killGrace
	}
	for _, l := range c.Rlimits {
		req.Rlimits = append(req.Rlimits, channel.Rlimit{Name: l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	if c.TTY != nil {
		req.TTY = &channel.TTY{Rows: c.TTY.Rows, Cols: c.TTY.Cols, Term: c.TTY.Term}
	}
	return req
}

// start asks the agent to start c.
func (s *Sandbox) start(c *Cmd) (*process, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	select {
	case <-s.life.ended:
		return nil, s.life.cause
	default:
	}
	ctx, cancel, stop := c.ctx, context.CancelFunc(func() {}), func() {}
	if c.Cancel != nil {
		ctx, cancel = c.withCancel()
	}
	if c.Timeout > 0 {
		// The guest keeps the time as well; the host is later by what the guest needs to report it.
		outer := cancel
		ctx, cancel, stop = limitTime(ctx, c.Timeout+killGrace+timeoutSlack)
		inner := cancel
		cancel = func() { inner(); outer() }
	}
	start := s.logs.start
	if c.detachable {
		start = s.startDetachable
	}
	p, err := start(ctx, s.client, c.request(), channel.Stdio{Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
	if err != nil {
		cancel()
		return nil, s.failure(limitUnsupported(err, s.info.Kernel))
	}
	return &process{sb: s, p: p, cancel: cancel, stop: stop, full: func() { _ = p.Kill() }}, nil
}

// startDetachable starts a command that would survive the end of ctx during its start: the agent keeps what it has started, and nobody would know
// of it. So ctx does not reach the start, and what was started too late is killed.
func (s *Sandbox) startDetachable(ctx context.Context, client *channel.Client, req *channel.Request, stdio channel.Stdio) (*channel.Process, error) {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	type result struct {
		p   *channel.Process
		err error
	}
	ch := make(chan result, 1)
	go func() {
		p, err := s.logs.start(causeContext{inner}, client, req, stdio)
		ch <- result{p, err}
	}()
	select {
	case r := <-ch:
		if r.err != nil {
			cancel(nil)
			return nil, r.err
		}
		stop := context.AfterFunc(ctx, func() { cancel(ctx.Err()) })
		go func() {
			<-r.p.Done()
			stop()
			cancel(nil)
		}()
		return r.p, nil
	case <-ctx.Done():
		go func() {
			defer cancel(nil)
			if r := <-ch; r.err == nil {
				_ = r.p.Kill() // one that has ended needs none
				select {
				case <-r.p.Exited():
				case <-r.p.Done():
				}
				cancel(ctx.Err()) // nobody takes its output
				<-r.p.Done()
			}
		}()
		return nil, ctx.Err()
	}
}

// limitedContext is a context whose deadline can be lifted.
type limitedContext struct{ context.Context }

func (c limitedContext) Err() error {
	err := c.Context.Err()
	if err != nil && context.Cause(c.Context) == context.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	return err
}

// limitTime is context.WithTimeout with a way to stop the clock.
func limitTime(parent context.Context, d time.Duration) (ctx context.Context, cancel context.CancelFunc, stop func()) {
	inner, end := context.WithCancelCause(parent)
	t := time.AfterFunc(d, func() { end(context.DeadlineExceeded) })
	return limitedContext{inner}, func() { t.Stop(); end(context.Canceled) }, func() { t.Stop() }
}

// timeoutSlack is how much later than the guest the host enforces a command's timeout.
const timeoutSlack = time.Second

// afterWaitDelay returns a channel that fires when a Cmd's WaitDelay is over, and what frees its timer; nil for no bound.
func afterWaitDelay(delay time.Duration) (over <-chan time.Time, stop func() bool) {
	if delay == 0 {
		delay = DefaultWaitDelay
	}
	if delay < 0 {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(delay)
	return t.C, t.Stop
}

// awaitOutput waits until the process has exited and then for its output, at most for delay.
func (p *process) awaitOutput(delay time.Duration) {
	select {
	case <-p.p.Exited():
	case <-p.p.Done():
		return
	}
	over, stop := afterWaitDelay(delay)
	defer stop()
	select {
	case <-p.p.Done():
	case <-over:
	}
}

// wait waits for the process and its output.
func (p *process) wait() (*ProcessState, error) {
	exit, err := p.p.Wait()
	p.cancel()
	var state *ProcessState
	if exit != nil {
		state = newProcessState(p.p.PID(), exit)
	}
	if err == nil && exit.TimedOut {
		err = fmt.Errorf("sandbox: the command's timeout is over: %w", context.DeadlineExceeded)
	}
	if err == nil && exit.StdinErr != nil && !errors.Is(exit.StdinErr, channel.ErrStdinClosed) && exit.Success() {
		err = fmt.Errorf("sandbox: reading the command's standard input: %w", exit.StdinErr)
	}
	if errors.Is(err, channel.ErrDetached) {
		return nil, &DetachedError{SessionID: p.p.ID(), Err: errors.Unwrap(err)}
	}
	return state, p.sb.failure(err)
}

// signalTimeout bounds the wait for a guest that does not confirm a signal.
const signalTimeout = 10 * time.Second

// A Process is the running process of a Cmd. Safe for concurrent use.
type Process struct {
	Pid  int // its number in the guest
	proc *process
}

// Signal sends sig, a syscall.Signal, to the command's process group. Errors: os.ErrProcessDone when the process has exited.
func (p *Process) Signal(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return &ConfigError{"Process.Signal", fmt.Sprint(sig), "give a syscall.Signal, such as syscall.SIGTERM"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	return p.proc.sb.failure(p.proc.p.Signal(ctx, channel.Signal(n), true))
}

// Kill ends the process and every process it started, also those that left its group. It does not wait: Wait does. Errors:
// os.ErrProcessDone when the process has exited.
func (p *Process) Kill() error { return p.proc.sb.failure(p.proc.p.Kill()) }

// kill ends a command whose output is not wanted any more.
func (c *Cmd) kill() {
	if p, err := c.process(); err == nil {
		_ = p.p.Kill() // one that has ended already needs no killing
	}
}

func (c *Cmd) process() (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return nil, errors.New("sandbox: Cmd not started")
	}
	return c.proc, nil
}

// StartStage returns the stage at which a command's start failed, such as "lookup" or "chdir", or "" when err is no *StartError.
func StartStage(err error) string {
	var e *StartError
	if errors.As(err, &e) {
		return e.Stage
	}
	return ""
}
