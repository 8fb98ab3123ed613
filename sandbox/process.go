package sandbox

import (
	"context"
	"errors"
	"fmt"
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
}

// killGrace is the time between SIGTERM and SIGKILL when a command's own timeout ends it.
const killGrace = 500 * time.Millisecond

// start asks the agent to start c.
func (s *Sandbox) start(c *Cmd) (*process, error) {
	if c.Path == "" {
		return nil, &ConfigError{"Cmd.Path", `""`, "there is no command; give its name or path"}
	}
	if c.Dir != "" && !strings.HasPrefix(c.Dir, "/") {
		return nil, &ConfigError{"Cmd.Dir", fmt.Sprintf("%q", c.Dir), "give an absolute path in the guest"}
	}
	for _, kv := range c.Env {
		if err := checkEnv("Cmd.Env", kv); err != nil {
			return nil, err
		}
	}
	for _, l := range c.rlimits {
		if err := l.check(); err != nil {
			return nil, err
		}
	}
	select {
	case <-s.machine.ended:
		return nil, s.machine.cause
	default:
	}
	req := &channel.Request{
		Path: c.Path, Args: c.argv(), Dir: c.Dir, User: c.User, Env: s.environ(c), ClearEnv: c.Env != nil,
		Timeout: c.timeout, WaitDelay: c.WaitDelay,
	}
	if c.timeout > 0 {
		req.Grace = killGrace
	}
	for _, l := range c.rlimits {
		req.Rlimits = append(req.Rlimits, channel.Rlimit{Name: l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	if c.TTY != nil {
		req.TTY = &channel.TTY{Rows: c.TTY.Rows, Cols: c.TTY.Cols, Term: c.TTY.Term}
	}
	req.Session, req.Detachable = c.SessionID, c.detachable
	ctx, cancel, stop := c.ctx, context.CancelFunc(func() {}), func() {}
	if c.timeout > 0 {
		// The guest keeps the time as well; the host is later by what the guest needs to report it.
		ctx, cancel, stop = limitTime(ctx, c.timeout+killGrace+timeoutSlack)
	}
	p, err := s.client.Start(ctx, req, channel.Stdio{Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
	if err != nil {
		cancel()
		return nil, s.failure(err)
	}
	return &process{sb: s, p: p, cancel: cancel, stop: stop}, nil
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

// environ is what the command gets beyond, or instead of, the agent's default environment.
func (s *Sandbox) environ(c *Cmd) []string {
	env := c.Env
	if c.Env == nil {
		env = append(env, s.cfg.env...)
	}
	return append(env[:len(env):len(env)], c.extraEnv...)
}

// awaitOutput waits until the process has exited and then for its output, at most for delay.
func (p *process) awaitOutput(delay time.Duration) {
	select {
	case <-p.p.Exited():
	case <-p.p.Done():
		return
	}
	if delay == 0 {
		delay = DefaultWaitDelay
	}
	var over <-chan time.Time
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		over = t.C
	}
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
		state = &ProcessState{pid: p.p.PID(), exit: *exit, total: Totals{exit.Stdin, exit.Stdout, exit.Stderr}}
	}
	if err == nil && exit.TimedOut {
		err = fmt.Errorf("sandbox: the command's timeout is over: %w", context.DeadlineExceeded)
	}
	if err == nil && exit.StdinErr != nil && !errors.Is(exit.StdinErr, channel.ErrStdinClosed) && exit.Success() {
		err = fmt.Errorf("sandbox: reading the command's standard input: %w", exit.StdinErr)
	}
	return state, p.sb.failure(err)
}

// Signal sends a signal to the command's process group. Errors: os.ErrProcessDone when the process has exited.
func (c *Cmd) Signal(sig syscall.Signal) error {
	p, err := c.process()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	return p.sb.failure(p.p.Signal(ctx, channel.Signal(sig), true))
}

// signalTimeout bounds the wait for a guest that does not confirm a signal.
const signalTimeout = 10 * time.Second

// Kill ends the command and every process it started. It does not wait: Wait does. Errors: os.ErrProcessDone when the process has exited.
func (c *Cmd) Kill() error {
	p, err := c.process()
	if err != nil {
		return err
	}
	return p.sb.failure(p.p.Kill())
}

// Pid returns the process's number in the guest, 0 before Start.
func (c *Cmd) Pid() int {
	p, err := c.process()
	if err != nil {
		return 0
	}
	return p.p.PID()
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
