package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hutchvm/hutch/sandbox"
)

// exec runs the command with this process's standard streams and turns what happened into an exit code.
func (f *cmdFlags) exec(ctx context.Context, sb *sandbox.Sandbox, args []string, interrupts <-chan os.Signal) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	cmd := sb.Command(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if f.timeout > 0 {
		cmd.Timeout = f.timeout // else the sandbox's
	}
	if f.dir != "" {
		cmd.Dir = f.dir // else the sandbox's
	}
	if f.user != "" {
		cmd.User = f.user
	}
	if err := cmd.AddEnv(f.env...); err != nil {
		return err
	}
	cmd.Rlimits = append(cmd.Rlimits, f.limits...)
	started, done := make(chan struct{}), make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-interrupts:
				select {
				case <-started:
					_ = cmd.Process.Signal(syscall.SIGINT) // a command that has just exited is not an error
				default:
					giveUp(exitCode(128 + int(syscall.SIGINT)))
				}
			case <-done:
				return
			}
		}
	}()
	if err := cmd.Start(); err != nil {
		if code, ended := endingSignal(ctx); ended {
			return code
		}
		return startError(args[0], err)
	}
	close(started)
	err := cmd.Wait()
	code, ended := endingSignal(ctx)
	var ee *sandbox.ExitError
	switch {
	case err == nil, errors.Is(err, sandbox.ErrWaitDelay):
		return nil
	case ended:
		return code
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(os.Stderr, "hutch: %s: ended after the timeout of %v\n", args[0], cmd.Timeout)
		return exitCode(exitTimeout)
	case errors.As(err, &ee):
		return exitCode(ee.ShellExitCode())
	default:
		return err
	}
}

// attach runs the command on a terminal: this process's, or one of the guest between standard input and output.
func (f *cmdFlags) attach(ctx context.Context, sb *sandbox.Sandbox, args []string, opts ...sandbox.AttachOption) error {
	opts = append(opts, sandbox.WithAttachExec(f.execOptions()...), sandbox.WithAttachArgs(args[1:]...))
	if !stdinIsTerminal() {
		opts = append(opts, sandbox.WithAttachIO(os.Stdin, os.Stdout, nil))
	}
	defer guardTerminal()()
	code, err := sb.AttachWith(ctx, args[0], opts...)
	return f.attached(ctx, args[0], code, err)
}

// attached turns the end of an attachment into an exit code.
func (f *cmdFlags) attached(ctx context.Context, name string, code int, err error) error {
	ending, ended := endingSignal(ctx)
	var se *sandbox.StartError
	switch {
	case ended:
		return ending
	case errors.As(err, &se):
		return startError(name, err)
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(os.Stderr, "hutch: %s: ended after its timeout\n", name)
		return exitCode(exitTimeout)
	case err != nil:
		if de := (*sandbox.DetachedError)(nil); stdinIsTerminal() && !errors.As(err, &de) {
			fmt.Fprintln(os.Stderr) // what the guest last wrote, a prompt for example, may not have ended its line
		}
		return err
	case code != 0:
		return exitCode(code)
	}
	return nil
}

// startError gives a command that could not be started the code that a shell gives.
func startError(name string, err error) error {
	var se *sandbox.StartError
	if !errors.As(err, &se) {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(os.Stderr, "hutch: %s: %v\n", name, err)
	return exitCode(se.ShellExitCode())
}
