// Command logs-slog keeps what guest commands print in two places at once: as slog records on standard error, one for each line, and in a file of
// JSON lines that it reads back, as hutch logs would.
//
//	go run ./examples/logs-slog             # the file is in a temporary folder, and is removed
//	go run ./examples/logs-slog exec.log    # the file stays; the next run goes on in it
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hutchvm/hutch/sandbox"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "logs-slog:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	path := ""
	if len(args) > 0 {
		path = args[0]
	} else {
		dir, err := os.MkdirTemp("", "logs-slog")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		path = filepath.Join(dir, "exec.log")
	}
	file, err := execlog.OpenFile(path, execlog.FileOptions{MaxSize: 1 << 20, MaxFiles: 3}) // rotates: 3 MiB at most
	if err != nil {
		return err
	}
	defer file.Close()
	records := execlog.NewHandler(slog.NewTextHandler(os.Stderr, nil))
	if err := work(ctx, file, records); err != nil {
		return err
	}

	// The sandbox is closed, so the log is complete.
	fmt.Println("standard error of the session \"build\":")
	if err := show(ctx, file, execlog.Query{Session: "build", Sources: []execlog.Source{execlog.Stderr}}); err != nil {
		return err
	}
	fmt.Println("the last three events:")
	return show(ctx, file, execlog.Query{Sources: []execlog.Source{execlog.System}, Tail: 3})
}

// work runs commands. Nobody here looks at what they print.
func work(ctx context.Context, sinks ...execlog.Sink) error {
	sb, err := sandbox.New(ctx, sandbox.WithLogs(sinks...))
	if err != nil {
		return err
	}
	defer sb.Close()
	if _, err := sb.Exec(ctx, "uname", []string{"-r"}); err != nil {
		return err
	}
	_, err = sb.Shell(ctx, "echo compiling; echo 'main.c:1: no such thing' >&2; exit 2", sandbox.WithExecID("build"))
	return err
}

func show(ctx context.Context, log execlog.Reader, q execlog.Query) error {
	for entry, err := range log.Read(ctx, q) {
		if err != nil {
			return err
		}
		fmt.Printf("  %s %-6s %q\n", entry.Time.Format("15:04:05.000"), entry.Source, entry.Data)
	}
	return nil
}
