package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

type attachFlags struct {
	cmdFlags
	readOnly, takeover bool
	detachKeys         string
}

func newAttach() *cobra.Command {
	f := &attachFlags{}
	c := &cobra.Command{
		Use:   "attach [flags] NAME [SESSION]",
		Short: "Come back to a session of a named microVM",
		Long: `attach connects this terminal to a session that was left with the detach keys, or is attached elsewhere: what it printed is shown again, and
its exit code is hutch's. Without SESSION it takes the newest running one, one on a terminal first. A session without a terminal is followed. The
detach keys leave the session running again. KEYS is a list with commas: single characters, and ctrl-X with a letter or one of @ [ \ ] ^ _.`,
		Example: "  hutch sessions worker\n  hutch attach worker\n  hutch attach --read-only worker",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 2 {
				return fmt.Errorf("attach: give a sandbox and a session, not %d words", len(args))
			}
			return oneName(c, args[:min(1, len(args))])
		},
		RunE: func(_ *cobra.Command, args []string) error { return attach(f, args) },

		ValidArgsFunction: sessionsOf,
	}
	fl := c.Flags()
	fl.BoolVar(&f.readOnly, "read-only", false, "only look")
	fl.BoolVar(&f.takeover, "takeover", false, "take the keyboard from whoever has it")
	fl.StringVar(&f.detachKeys, "detach-keys", sandbox.DefaultDetachKeys, "`KEYS` that leave the session running; empty for none")
	return c
}

func attach(f *attachFlags, args []string) error {
	ctx, stop := endedBy(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	sb, err := sandbox.Connect(ctx, args[0])
	if err != nil {
		return err
	}
	defer sb.Close()
	info, err := findSession(ctx, sb, args)
	if err != nil {
		return err
	}
	if !info.TTY {
		return stopped(args[0], follow(ctx, sb, info))
	}
	var view []sandbox.SessionOption
	if f.readOnly {
		view = append(view, sandbox.WithReadOnly())
	}
	if f.takeover {
		view = append(view, sandbox.WithTakeover())
	}
	opts := []sandbox.AttachOption{sandbox.WithAttachView(view...), sandbox.WithAttachDetachKeys(f.detachKeys)}
	if !stdinIsTerminal() {
		opts = append(opts, sandbox.WithAttachIO(os.Stdin, os.Stdout, nil))
	}
	defer guardTerminal()()
	code, err := sb.Session(info.ID).Attach(ctx, opts...)
	if errors.Is(err, sandbox.ErrStdinBusy) {
		return fmt.Errorf("%w (--takeover takes it, --read-only looks on)", err)
	}
	return stopped(args[0], detached(args[0], f.attached(ctx, clean(info.ID), code, err)))
}

// plainID is an ID that can be shown and pasted. The guest names its sessions, and may be hostile; who gives one another ID names it.
var plainID = regexp.MustCompile(`^[A-Za-z0-9._:@-]{1,128}$`)

// findSession finds the session that the words name: the one of that ID, or the newest that runs, one on a terminal first.
func findSession(ctx context.Context, sb *sandbox.Sandbox, args []string) (*sandbox.SessionInfo, error) {
	if len(args) == 2 {
		info, err := sb.Session(args[1]).Info(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w (hutch sessions %s lists them)", err, args[0])
		}
		return &info, nil
	}
	list, err := sb.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	for _, tty := range []bool{true, false} {
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].TTY == tty && list[i].Running && plainID.MatchString(list[i].ID) {
				return &list[i], nil
			}
		}
	}
	return nil, fmt.Errorf("attach: no session of %s runs; hutch exec -t %s starts one", args[0], args[0])
}

// follow shows the output of a session without a terminal until its end.
func follow(ctx context.Context, sb *sandbox.Sandbox, info *sandbox.SessionInfo) error {
	h, err := sb.Session(info.ID).Stream(ctx, sandbox.WithReadOnly(), sandbox.WithGaps())
	if err != nil {
		return err
	}
	defer h.Close()
	for ev, err := range h.Events(ctx) {
		if code, ended := endingSignal(ctx); ended {
			return code
		}
		if err != nil {
			return err
		}
		var to io.Writer = os.Stdout
		switch ev.Kind {
		case sandbox.ExecEventStderr:
			to = os.Stderr
		case sandbox.ExecEventGap:
			fmt.Fprintf(os.Stderr, "hutch: %v\n", ev.Gap)
		case sandbox.ExecEventFailed:
			return ev.Err
		}
		if _, err := to.Write(ev.Data); err != nil {
			return err
		}
	}
	res, err := h.Wait(ctx)
	if err != nil {
		return err
	}
	if code := res.ShellExitCode(); code != 0 {
		return exitCode(code)
	}
	return nil
}
