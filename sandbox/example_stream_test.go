package sandbox_test

import (
	"context"
	"fmt"
	"os"

	"github.com/hutchvm/hutch/sandbox"
)

// Output arrives as the command prints it.
func follow(ctx context.Context, sb *sandbox.Sandbox) error {
	handle, err := sb.ExecStream(ctx, "tail", []string{"-f", "/var/log/app.log"})
	if err != nil {
		return err
	}
	defer handle.Close() // ends the command if it still runs
	for {
		event, err := handle.Recv(ctx)
		if err != nil {
			return err
		}
		switch event.Kind {
		case sandbox.ExecEventStdout:
			os.Stdout.Write(event.Data)
		case sandbox.ExecEventStderr:
			os.Stderr.Write(event.Data)
		case sandbox.ExecEventExited:
			fmt.Printf("Exited: %d\n", event.ExitCode)
		case sandbox.ExecEventFailed:
			return event.Err
		case sandbox.ExecEventDone:
			return nil
		}
	}
}

func ExampleSandbox_ExecStream() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := follow(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
