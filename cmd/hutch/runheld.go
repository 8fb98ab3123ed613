package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

// heldFlags are those of the commands that run one command in a microVM, which they may leave: then another process must hold it.
type heldFlags struct {
	name       string
	detach     bool
	remove     bool
	detachKeys string
}

func (f *heldFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "`NAME` the microVM for the other commands; its log stays until hutch rm, unless --rm is given")
	fl.BoolVar(&f.remove, "rm", false, "leave nothing, which is what happens anyway without --name and --detach")
	fl.StringVar(&f.detachKeys, "detach-keys", sandbox.DefaultDetachKeys, "`KEYS` that leave a command on a terminal running, such as ctrl-p,ctrl-q; empty for none")
}

// held says whether another process is to hold the microVM: one that has a name, or can be left.
func (f *runFlags) held() bool {
	return f.name != "" || f.detach || f.onTTY() && stdinIsTerminal() && f.console != "-" && f.detachKeys != ""
}

// onTTY says whether the command gets a terminal.
func (f *runFlags) onTTY() bool { return f.tty || !f.noTTY && !f.detach && onTerminal() }

// runHeld runs the command in a microVM that another process holds, and that ends with the command.
func runHeld(c *cobra.Command, f *runFlags, args []string) error {
	name := f.name
	if name == "" {
		id := make([]byte, 4)
		_, _ = rand.Read(id) // it cannot fail
		name = "run-" + hex.EncodeToString(id)
	}
	if err := sandbox.CheckName(name); err != nil {
		return err
	}
	if f.console == "-" {
		return errors.New("--console: - is this terminal, which the microVM may outlive: give a file")
	}
	ctx, stop := endedBy(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	interrupts := make(chan os.Signal, 1) // registered during the boot already, so that none finds the default action
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	booting, booted := endedBy(ctx, os.Interrupt)
	h, err := startHolder(booting, name, &holdSpec{Flags: givenFlags(c), Once: true, Remove: f.remove || f.name == "" && !f.detach}, f.verbose)
	code, ended := endingSignal(booting)
	booted()
	switch {
	case ended && err == nil:
		_ = h.end()
		return code
	case err != nil:
		return err
	}
	left, err := f.inHeld(ctx, name, args, interrupts)
	if left != "" {
		return errors.Join(err, h.leave(left))
	}
	if herr := h.end(); herr != nil { // the command's end is what counts
		fmt.Fprintf(os.Stderr, "hutch: the process that held the microVM: %v\n", herr)
	}
	return err
}

// inHeld runs the command, or starts it, and returns the session that goes on.
func (f *runFlags) inHeld(ctx context.Context, name string, args []string, interrupts <-chan os.Signal) (session string, err error) {
	sb, err := sandbox.Connect(ctx, name)
	if err != nil {
		return "", err
	}
	defer sb.Close()
	switch {
	case f.detach:
		opts := f.execOptions()
		if f.onTTY() {
			opts = append(opts, sandbox.WithExecTTY(0, 0))
		}
		x, err := sb.StartSession(ctx, args[0], args[1:], opts...)
		if err != nil {
			return "", startError(args[0], err)
		}
		fmt.Println(name)
		return x.ID(), nil
	case f.onTTY():
		err := f.attach(ctx, sb, args, sandbox.WithAttachDetachKeys(f.detachKeys))
		if de := (*sandbox.DetachedError)(nil); errors.As(err, &de) {
			return de.SessionID, detached(name, err)
		}
		return "", err
	}
	return "", f.exec(ctx, sb, args, interrupts)
}
