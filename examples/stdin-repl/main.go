// Command stdin-repl drives an interactive program of the guest: it writes lines to a shell's standard input and reads each answer before it
// writes the next line.
//
//	go run ./examples/stdin-repl
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hutchvm/hutch/sandbox"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "stdin-repl:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sb, err := sandbox.New(ctx)
	if err != nil {
		return err
	}
	defer sb.Close()
	handle, err := sb.ExecStream(ctx, "sh", nil, sandbox.WithExecStdinPipe())
	if err != nil {
		return err
	}
	defer handle.Close()
	stdin := handle.TakeStdin()
	for _, line := range []string{"uname -r", "x=6", "echo $((x * 7))"} {
		fmt.Println(">", line)
		// The marker tells where the answer ends.
		if _, err := io.WriteString(stdin, line+"; echo done\n"); err != nil {
			return err
		}
		answer, err := untilMarker(ctx, handle)
		if err != nil {
			return err
		}
		fmt.Print(answer)
	}
	if err := stdin.Close(); err != nil { // end of input: the shell exits
		return err
	}
	result, err := handle.Wait(ctx)
	if err != nil {
		return err
	}
	fmt.Println("exit code", result.ExitCode())
	return nil
}

// untilMarker returns the output up to the line "done".
func untilMarker(ctx context.Context, handle *sandbox.ExecHandle) (string, error) {
	var all string
	for {
		event, err := handle.Recv(ctx)
		if err != nil {
			return all, err
		}
		all += string(event.Data)
		if answer, ok := strings.CutSuffix(all, "done\n"); ok {
			return answer, nil
		}
	}
}
