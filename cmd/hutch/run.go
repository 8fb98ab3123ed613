package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

type runFlags struct {
	bootFlags
	cmdFlags
	heldFlags
	tty, noTTY, interactive bool
}

func newRun() *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run [flags] [--] CMD [ARG...]",
		Short: "Boot a microVM, run a command in it, and exit with the command's code",
		Long: `run boots a microVM, runs CMD in it and exits with its code. Standard input, output and error are passed through unchanged; on success
hutch prints nothing of its own. Flags end at CMD or at --. When standard input and output are a terminal, CMD gets one; --no-tty prevents that.
The microVM is gone when CMD ends, and so is every file that it wrote. --rlimit takes the names of setrlimit(2) in small letters, such as nofile, nproc
or fsize, with its units, or "unlimited".

The detach keys (ctrl-]) leave a command on a terminal running, --detach any command from the start: hutch attach comes back to it, hutch stop ends it.
Such a microVM, and one with a --name, is held by another process, and is for hutch exec, logs and ls, too. It ends with CMD all the same. Its log stays
until hutch rm when it was given a --name or --detach, and not --rm; otherwise nothing is left.`,
		Example: `  hutch run -- uname -a
  hutch run -w /tmp -- sh -c 'pwd; exit 3'; echo $?
  tar c . | hutch run -m 1G -- sh -c 'cat | sha256sum'
  hutch run -k linux-image-cloud-amd64 --timeout 30s -- dmesg
  hutch run -it --rm -- sh
  hutch run -d --name batch -- sh -c 'seq 1000 | sha256sum'; hutch logs -f batch; hutch rm -f batch`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return errors.New("run: no command is given; an example: hutch run -- uname -a (hutch run --help lists the flags)")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return runCommand(c, f, args) },
	}
	c.Flags().SetInterspersed(false)
	f.bootFlags.register(c)
	f.cmdFlags.register(c)
	f.heldFlags.register(c)
	fl := c.Flags()
	fl.BoolVarP(&f.detach, "detach", "d", false, "return when the command has started, and print the microVM's name; the microVM ends with the command")
	fl.BoolVarP(&f.tty, "tty", "t", false, "run the command on a terminal (the default when standard input and output are one)")
	fl.BoolVar(&f.noTTY, "no-tty", false, "run the command with pipes, also on a terminal")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "accepted for docker's -it; standard input is always passed on")
	return c
}

func runCommand(c *cobra.Command, f *runFlags, args []string) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.tty && f.noTTY {
		return errors.New("run: -t and --no-tty exclude each other")
	}
	if f.held() {
		return runHeld(c, f, args)
	}
	opts, cleanup, err := f.options()
	if err != nil {
		return err
	}
	defer cleanup()
	ctx, stop := endedBy(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	interrupts := make(chan os.Signal, 1) // registered during the boot already, so that none finds the default action
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)

	began := time.Now()
	bootCtx, bootDone := endedBy(ctx, os.Interrupt) // an interrupt ends the boot; afterwards it is passed on to the command
	sb, err := sandbox.New(bootCtx, opts...)
	code, ended := endingSignal(bootCtx)
	bootDone()
	switch {
	case ended:
		if err == nil {
			sb.Close()
		}
		return code
	case err != nil:
		return explainBoot(err)
	}
	defer sb.Close()
	if f.verbose {
		fmt.Fprintf(os.Stderr, "hutch: Linux %s is up after %v\n", sb.Info().Kernel, time.Since(began).Round(time.Millisecond))
	}
	if f.onTTY() {
		return f.attach(ctx, sb, args, sandbox.WithAttachDetachKeys("")) // the microVM ends with this process: there is nothing to come back to
	}
	return f.exec(ctx, sb, args, interrupts)
}

// endedBy returns a context that the first of the signals cancels, and a function that gives the signals up and cancels the context.
func endedBy(parent context.Context, signals ...os.Signal) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, signals...)
	go func() {
		select {
		case s := <-arrived:
			cancel(exitCode(128 + int(s.(syscall.Signal))))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(arrived)
		cancel(nil)
	}
}

// endingSignal says whether a signal cancelled the context of endedBy, and gives the exit code of a program that this signal ends.
func endingSignal(ctx context.Context) (code exitCode, ended bool) {
	ended = errors.As(context.Cause(ctx), &code)
	return code, ended
}

// explainBoot gives the words of package sandbox the names of the flags, and tells a machine without KVM of the lab.
func explainBoot(err error) error {
	err = optionError(err)
	switch {
	case errors.Is(err, sandbox.ErrNoKVM):
		return fmt.Errorf("%w; without hardware virtualisation, hutch's lab runs the same command in an emulated machine: bin/kvmlab -- bin/hutch run, in a checkout of hutch after make build", err)
	case errors.Is(err, sandbox.ErrBootTimeout):
		return fmt.Errorf("--boot-timeout waits longer: %w", err)
	}
	return err
}
