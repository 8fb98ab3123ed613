package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hutchvm/hutch/sandbox"
)

// A script that nobody has read gets bounds, and its end is told apart.
func runUntrusted(ctx context.Context, sb *sandbox.Sandbox, script string) error {
	output, err := sb.Shell(ctx, script,
		sandbox.WithExecUser("nobody"),
		sandbox.WithExecLimits(sandbox.Limits{Memory: 64 << 20, CPUs: 0.5, Pids: 32}),
		sandbox.WithExecTimeout(10*time.Second),
		sandbox.WithExecMaxOutput(64<<10),
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Println("it took too long")
	case err != nil:
		return err
	case output.State().OOMKilled():
		fmt.Println("it ran out of memory")
	default:
		fmt.Println("exit code", output.ExitCode())
	}
	return nil
}

func ExampleWithExecLimits() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := runUntrusted(ctx, sb, "id -u; exit 7"); err != nil {
		fmt.Println(err)
	}
}
