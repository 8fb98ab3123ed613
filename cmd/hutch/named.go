package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hutchvm/hutch/sandbox"
)

// flagArgs is a flag as it was given, for another command line.
func flagArgs(f *pflag.Flag) []string {
	if s, ok := f.Value.(pflag.SliceValue); ok {
		var out []string
		for _, v := range s.GetSlice() {
			out = append(out, "--"+f.Name+"="+v)
		}
		return out
	}
	return []string{"--" + f.Name + "=" + f.Value.String()}
}

// table prints rows in columns.
func table(rows [][]string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i := range r {
			r[i] = clean(r[i]) // some of it is a guest's
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

func newLs() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "ls", Short: "List the named microVMs, running and stopped",
		Long: `ls prints a line for each named microVM of this user. STATE is "running", "holder killed" when its process went without a word, or how it ended.
Stopped ones are listed until hutch rm.`,
		Example: "  hutch ls\n  hutch ls --json", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			list, err := sandbox.Named()
			if asJSON {
				if list == nil {
					list = []sandbox.Record{}
				}
				return errors.Join(printJSON(list), err)
			}
			rows := [][]string{{"NAME", "STATE", "CREATED", "KERNEL", "CPUS", "MEMORY"}}
			for _, r := range list {
				rows = append(rows, []string{r.Name, state(&r), r.Created.Format(time.DateTime), r.Kernel, fmt.Sprint(r.CPUs), fmt.Sprintf("%dM", r.Memory>>20)})
			}
			return errors.Join(table(rows), err)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func state(r *sandbox.Record) string {
	switch {
	case r.Running:
		return "running"
	case r.Ended.IsZero():
		return "holder killed"
	}
	return r.End
}

func newInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect NAME", Short: "Print what is known of a named microVM, as JSON",
		Long: `inspect prints the record of a named microVM, also of one that has stopped; of a running one also how it booted, and its sessions. Times are RFC 3339,
sizes are in bytes, durations in nanoseconds.`,
		Example: "  hutch inspect worker", Args: oneName, ValidArgsFunction: names(false),
		RunE: func(_ *cobra.Command, args []string) error {
			rec, err := sandbox.Inspect(args[0])
			if err != nil {
				return err
			}
			out := struct {
				*sandbox.Record
				Info     *sandbox.Info         `json:"info,omitempty"`
				Sessions []sandbox.SessionInfo `json:"sessions,omitempty"`
			}{Record: rec}
			if rec.Running {
				err = ask(args[0], askTime, func(ctx context.Context, sb *sandbox.Sandbox) (err error) {
					info := sb.Info()
					out.Info = &info
					out.Sessions, err = sb.Sessions(ctx)
					return err
				})
			}
			return errors.Join(printJSON(out), err) // the record helps all the more then: it has the holder's process
		},
	}
}

// askTime is what a holder and a guest get to answer, which takes them milliseconds; either may be stuck, and the guest may not want to.
const askTime = time.Minute

// ask calls f with a running sandbox, and gives it and the connecting no more than d.
func ask(name string, d time.Duration, f func(context.Context, *sandbox.Sandbox) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	sb, err := sandbox.Connect(ctx, name)
	if err == nil {
		defer sb.Close()
		err = f(ctx, sb)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s has not answered after %v; hutch stop %s ends it", name, d, name)
	}
	return err
}

func newStop() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "stop NAME", Short: "Stop a named microVM; its log stays",
		Long: `stop ends the microVM with everything that runs in it, and returns when its holder has ended. Its files are gone; its record and its log stay until
hutch rm. --timeout bounds the waiting.`,
		Example: "  hutch stop worker", Args: oneName, ValidArgsFunction: names(true),
		RunE: func(_ *cobra.Command, args []string) error {
			return stopAndWait(args[0], timeout)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this long")
	return c
}

func newRm() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rm NAME", Short: "Remove a stopped microVM's name and log",
		Long:    `rm forgets a stopped microVM: its record and its log are removed, and its name is free. One that runs is refused; -f stops it first.`,
		Example: "  hutch rm worker\n  hutch rm -f worker", Args: oneName, ValidArgsFunction: names(false),
		RunE: func(_ *cobra.Command, args []string) error {
			if force {
				if err := stopAndWait(args[0], time.Minute); err != nil && !errors.Is(err, sandbox.ErrNotRunning) {
					return err
				}
			}
			return sandbox.Remove(args[0])
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "stop it first")
	return c
}

// stopAndWait stops a sandbox that runs and waits until its holder has let go of it.
func stopAndWait(name string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := stopIn(ctx, name)
	if rec, ierr := sandbox.Inspect(name); errors.Is(err, context.DeadlineExceeded) && ierr == nil {
		return fmt.Errorf("stop: the holder of %s has not ended after %v: wait longer, or end it with: kill -9 %d", name, timeout, rec.PID)
	}
	return err
}

func stopIn(ctx context.Context, name string) error {
	sb, err := sandbox.Connect(ctx, name)
	if err != nil {
		return err
	}
	defer sb.Close()
	if err := sb.Stop(ctx); err != nil {
		return err
	}
	for { // the holder writes its record after the answer
		rec, err := sandbox.Inspect(name)
		switch {
		case errors.Is(err, sandbox.ErrNoSuchSandbox): // its holder leaves nothing
			return nil
		case err != nil || !rec.Running:
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newSessions() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "sessions NAME", Short: "List the sessions of a named microVM",
		Long: `sessions lists the commands of the microVM that can be come back to: those that hutch exec -t runs on a terminal, and those that a program started
detachable. It lists running ones and the last 256 that ended, the oldest first. Times are the guest's clock.`,
		Example: "  hutch sessions worker\n  hutch sessions --json worker", Args: oneName, ValidArgsFunction: names(true),
		RunE: func(_ *cobra.Command, args []string) error {
			var list []sandbox.SessionInfo
			err := ask(args[0], askTime, func(ctx context.Context, sb *sandbox.Sandbox) (err error) {
				list, err = sb.Sessions(ctx)
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(list)
			}
			rows := [][]string{{"SESSION", "PID", "STATE", "TTY", "FOLLOWERS", "STARTED", "COMMAND"}}
			for _, s := range list {
				st, tty := "running", "no"
				if s.State != nil {
					st = s.State.String()
				}
				if s.TTY {
					tty = "yes"
				}
				command := strings.Join(s.Args, " ")
				if s.ArgsCut {
					command += " ..."
				}
				rows = append(rows, []string{s.ID, fmt.Sprint(s.PID), st, tty, fmt.Sprint(s.Watchers), s.Started.Format(time.DateTime), command})
			}
			return table(rows)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// clean shows a guest's text on one line and without control characters.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, s)
}
