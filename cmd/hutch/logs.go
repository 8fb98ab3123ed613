package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

type logFlags struct {
	session      string
	tail         int
	since, until string
	follow       bool
	sources      []string
	asJSON       bool
	timestamps   bool
}

func newLogs() *cobra.Command {
	f := &logFlags{}
	c := &cobra.Command{
		Use:   "logs [flags] NAME",
		Short: "Print what the commands of a named microVM printed",
		Long: `logs prints the output of all commands of the microVM NAME, also of one that has stopped, until hutch rm: standard error to standard error, all
else to standard output, byte for byte. --source system shows when sessions started and exited. -f ends when the microVM does.

--json prints an object for each entry: "t" its time, "s" the source, "id" the session, "n" its number, "d" the bytes, or "b" the same in base64 where they
are no text, "e" what happened, in those of system.`,
		Example: "  hutch logs worker\n  hutch logs -f --since 10m worker\n  hutch logs --source stderr --tail 20 worker\n  hutch logs --source system --timestamps worker\n  hutch logs --json worker",
		Args:    oneName,
		RunE:    func(_ *cobra.Command, args []string) error { return printLogs(f, args[0]) },

		ValidArgsFunction: names(false),
	}
	fl := c.Flags()
	fl.StringVar(&f.session, "session", "", "only the session with this `ID`")
	fl.IntVar(&f.tail, "tail", 0, "only the last `N` lines; with --json, entries")
	fl.StringVar(&f.since, "since", "", "only entries from this `TIME` on: a duration back from now (10m) or a time (2026-01-02T15:04:05Z)")
	fl.StringVar(&f.until, "until", "", "only entries up to this `TIME`")
	fl.BoolVarP(&f.follow, "follow", "f", false, "go on with what comes")
	fl.StringSliceVar(&f.sources, "source", nil, "only these `SOURCES`: stdout, stderr, output (a terminal), system, all (default all but system)")
	fl.BoolVar(&f.asJSON, "json", false, "print the entries as JSON lines")
	fl.BoolVar(&f.timestamps, "timestamps", false, "begin every line with its time and session")
	return c
}

func (f *logFlags) query() (execlog.Query, error) {
	q := execlog.Query{Session: f.session, Tail: f.tail, Follow: f.follow}
	if f.tail < 0 {
		return q, fmt.Errorf("--tail: %d: give a number of lines", f.tail)
	}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"--since", f.since, &q.Since}, {"--until", f.until, &q.Until}} {
		if t.text == "" {
			continue
		}
		if d, err := time.ParseDuration(t.text); err == nil {
			*t.to = time.Now().Add(-d)
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return q, fmt.Errorf("%s: %q: give a duration such as 10m, or a time such as 2026-01-02T15:04:05Z", t.flag, t.text)
		}
		*t.to = at
	}
	for _, s := range f.sources {
		switch src := execlog.Source(s); {
		case s == "all":
			q.Sources = execlog.Sources()
		case slices.Contains(execlog.Sources(), src):
			q.Sources = append(q.Sources, src)
		default:
			return q, fmt.Errorf("--source: %q: known are stdout, stderr, output, system and all", s)
		}
	}
	if len(f.sources) == 0 && !f.asJSON {
		q.Sources = []execlog.Source{execlog.Stdout, execlog.Stderr, execlog.Output}
	}
	return q, nil
}

// followGrace is how long the log is still read after the sandbox has gone without an entry that says so.
const followGrace = 2 * time.Second

func printLogs(f *logFlags, name string) error {
	q, err := f.query()
	if err != nil {
		return err
	}
	rec, err := sandbox.Inspect(name)
	if err != nil {
		return err
	}
	if err := hasSession(rec, f.session); err != nil {
		return err
	}
	ctx, stop := endedBy(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	reading := ctx
	if q.Follow = f.follow && rec.Running; q.Follow {
		sb, err := sandbox.Connect(ctx, name)
		if err != nil {
			return err
		}
		defer sb.Close()
		var cancel context.CancelFunc
		reading, cancel = context.WithCancel(ctx)
		defer cancel()
		// The log's last entry ends it. A holder that was killed writes none: what it has written is read soon.
		go func() {
			select {
			case <-sb.Done():
				time.AfterFunc(followGrace, cancel)
			case <-reading.Done():
			}
		}()
	}
	p := &logPrinter{stdout: os.Stdout, stderr: os.Stderr, asJSON: f.asJSON, timestamps: f.timestamps}
	if err := p.log(reading, rec.Log, q); err != nil {
		return err
	}
	if code, ended := endingSignal(ctx); ended {
		return code
	}
	return nil
}

// hasSession finds a session that the log does not know and the sandbox does not have: most likely it was mistyped.
func hasSession(rec *sandbox.Record, id string) error {
	if id == "" {
		return nil
	}
	for _, err := range execlog.Read(context.Background(), rec.Log, execlog.Query{Session: id, Sources: execlog.Sources()}) {
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("logs: the log of %s has nothing of a session %s (hutch sessions %s lists those that run, hutch logs --source system %s all that ran)", rec.Name, clean(id), rec.Name, rec.Name)
}
