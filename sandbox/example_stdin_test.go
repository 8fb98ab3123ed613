package sandbox_test

import (
	"context"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// What is written to the handle is the command's standard input.
func drive(ctx context.Context, sb *sandbox.Sandbox) error {
	handle, err := sb.ExecStream(ctx, "sh", nil, sandbox.WithExecStdinPipe())
	if err != nil {
		return err
	}
	stdin := handle.TakeStdin()
	_, _ = stdin.Write([]byte("echo hello\n"))
	_, _ = stdin.Write([]byte("exit 3\n"))
	_ = stdin.Close()
	output, err := handle.Collect(ctx) // Wait, if nobody wants to see the output
	if err != nil {
		return err
	}
	fmt.Print(output.Stdout())
	fmt.Println("exit code", output.ExitCode())
	return nil
}

func ExampleExecHandle_TakeStdin() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := drive(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
