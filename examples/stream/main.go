// Command stream shows a guest command's output as it comes: a log that grows for a while, as `tail -f` would show it, with the time
// of each piece, and its exit code.
//
//	go run ./examples/stream
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hutchvm/hutch/sandbox"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "stream:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sb, err := sandbox.New(ctx)
	if err != nil {
		return err
	}
	defer sb.Close()
	handle, err := sb.ShellStream(ctx, `for i in 1 2 3 4 5; do printf 'entry %d\n' $i; sleep 1; done; printf 'last words\n' >&2; exit 3`)
	if err != nil {
		return err
	}
	defer handle.Close()
	id, err := handle.ID()
	if err != nil {
		return err
	}
	began := time.Now()
	for event, err := range handle.Events(ctx) {
		if err != nil {
			return err
		}
		at := time.Since(began).Round(time.Millisecond)
		switch event.Kind {
		case sandbox.ExecEventStarted:
			fmt.Printf("%8v session %s, process %d\n", at, id, event.PID)
		case sandbox.ExecEventStdout, sandbox.ExecEventStderr: // what one read gave, which need not be a line
			fmt.Printf("%8v %v: %s", at, event.Kind, event.Data)
		case sandbox.ExecEventExited:
			fmt.Printf("%8v exit code %d\n", at, event.ExitCode)
		case sandbox.ExecEventFailed:
			return event.Err
		}
	}
	return nil
}
