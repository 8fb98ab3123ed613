package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

type execFlags struct {
	cmdFlags
	tty, noTTY, interactive bool
	detachKeys              string
}

func newExec() *cobra.Command {
	f := &execFlags{}
	c := &cobra.Command{
		Use:   "exec [flags] NAME [flags] [-- CMD [ARG...]]",
		Short: "Run a command in a named microVM and exit with its code",
		Long: `exec runs CMD in the microVM NAME. Standard input, output and error are passed through unchanged, and the exit code is the command's. With -t the
command runs on a terminal; the detach keys (ctrl-]) leave it running, and hutch attach comes back to it. Without CMD, -t opens a shell. Flags
may stand before or after NAME; write -- before CMD. A command ends with the hutch exec that runs it, unless that was left with the detach keys.
KEYS is a list with commas: single characters, and ctrl-X with a letter or one of @ [ \ ] ^ _. --rlimit takes the names of setrlimit(2) in small letters,
such as nofile, nproc or fsize, with its units, or "unlimited".`,
		Example: `  hutch exec worker -- sh -c "ls -la /tmp && echo done"
  hutch exec -w /tmp -e GREETING=hi --timeout 30s --rlimit nofile=1024 worker -- env
  tar c . | hutch exec worker -- sh -c 'cat >/tmp/all.tar'
  hutch exec -t worker`,
		Args: func(c *cobra.Command, args []string) error { return oneName(c, args[:nameArgs(c, args)]) },
		RunE: func(c *cobra.Command, args []string) error { return execIn(f, args[0], args[1:]) },

		ValidArgsFunction: names(true),
	}
	f.register(c)
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w (write -- before the command when it has flags; hutch exec --help lists hutch's)", flagError(err))
	})
	fl := c.Flags()
	fl.BoolVarP(&f.tty, "tty", "t", false, "run the command on a terminal; the default for a shell")
	fl.BoolVar(&f.noTTY, "no-tty", false, "run the command with pipes")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "accepted for docker's -it; standard input is always passed on")
	fl.StringVar(&f.detachKeys, "detach-keys", sandbox.DefaultDetachKeys, "`KEYS` that leave the command running, such as ctrl-p,ctrl-q; empty for none")
	return c
}

// nameArgs is how many arguments stand before the command: those before --, or the first.
func nameArgs(c *cobra.Command, args []string) int {
	if n := c.ArgsLenAtDash(); n >= 0 {
		return n
	}
	return min(1, len(args))
}

func execIn(f *execFlags, name string, args []string) error {
	if err := f.check(); err != nil {
		return err
	}
	if len(args) > 0 && args[0] == "" {
		return errors.New("exec: the command is empty; an example: hutch exec worker -- uname -a")
	}
	if f.tty && f.noTTY {
		return errors.New("exec: -t and --no-tty exclude each other")
	}
	tty := f.tty || len(args) == 0 && !f.noTTY && onTerminal()
	if len(args) == 0 && !tty {
		return fmt.Errorf("exec: no command is given; an example: hutch exec %s -- uname -a, or hutch exec -t %s for a shell", name, name)
	}
	ctx, stop := endedBy(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	connecting, connected := endedBy(ctx, os.Interrupt) // afterwards an interrupt is passed on to the command
	sb, err := sandbox.Connect(connecting, name)
	code, ended := endingSignal(connecting)
	connected()
	if err == nil {
		defer sb.Close()
	}
	switch {
	case ended:
		return code
	case err != nil:
		return err
	}
	if !tty {
		interrupts := make(chan os.Signal, 1)
		signal.Notify(interrupts, os.Interrupt)
		defer signal.Stop(interrupts)
		return stopped(name, f.exec(ctx, sb, args, interrupts))
	}
	if len(args) == 0 {
		args = []string{sb.Info().Shell}
	}
	return stopped(name, detached(name, f.attach(ctx, sb, args, sandbox.WithAttachDetachKeys(f.detachKeys))))
}

// stopped says which microVM somebody has stopped meanwhile.
func stopped(name string, err error) error {
	if errors.Is(err, sandbox.ErrClosed) {
		return fmt.Errorf("%s was stopped meanwhile, and all that ran in it (%w)", name, err)
	}
	return err
}

// detached says how to come back to what was left running, which is no failure.
func detached(name string, err error) error {
	var de *sandbox.DetachedError
	if !errors.As(err, &de) {
		return err
	}
	fmt.Fprintf(os.Stderr, "\nhutch: detached; it goes on. Come back with: hutch attach %s %s\n", name, clean(de.SessionID))
	return nil
}
