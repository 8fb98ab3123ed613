package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hutchvm/hutch/channel"
)

// cancellation is what became of Cmd.Cancel.
type cancellation struct {
	kill context.CancelCauseFunc // ends the command the hard way
	over chan struct{}           // closed when err is final
	err  error                   // for Wait, of a command that exited with code 0 all the same
}

// withCancel returns a context that does not end with the command's own: Cancel comes first.
func (c *Cmd) withCancel() (context.Context, context.CancelFunc) {
	inner, kill := context.WithCancelCause(context.WithoutCancel(c.ctx))
	c.cancellation = &cancellation{kill: kill, over: make(chan struct{})}
	return causeContext{inner}, func() { kill(context.Canceled) }
}

// watchContext calls Cancel when the command's context ends before the command, and kills the command when that did not help within WaitDelay.
func (c *Cmd) watchContext(p *channel.Process) {
	cn := c.cancellation
	defer close(cn.over)
	select {
	case <-p.Exited():
		return
	case <-p.Done():
		return
	case <-c.ctx.Done():
	}
	switch err := c.Cancel(); {
	case err == nil:
		cn.err = c.ctx.Err()
	case !errors.Is(err, os.ErrProcessDone):
		cn.err = fmt.Errorf("sandbox: cancelling the command: %w", err)
	}
	over, stop := afterWaitDelay(c.WaitDelay)
	defer stop()
	select {
	case <-p.Exited():
	case <-p.Done():
	case <-over:
		cn.kill(c.ctx.Err())
	}
}

// result is Wait's error for a command that ended with state and err.
func (c *Cmd) result(state *ProcessState, err error) error {
	if c.cancellation != nil {
		<-c.cancellation.over
	}
	switch {
	case err != nil && state != nil && !state.Success() && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return &endedError{err, &ExitError{ProcessState: state}}
	case err != nil:
		return err
	case state.Success() && c.cancellation != nil && c.cancellation.err != nil:
		return c.cancellation.err
	}
	return state.err()
}

// endedError is the error of a command that its context or its timeout ended, and how it ended.
type endedError struct {
	cause error
	exit  *ExitError
}

func (e *endedError) Error() string { return fmt.Sprintf("%v (%v)", e.cause, e.exit) }

func (e *endedError) Unwrap() []error { return []error{e.cause, e.exit} }
