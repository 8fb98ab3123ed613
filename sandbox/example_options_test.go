package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hutchvm/hutch/sandbox"
)

// These options are for a single command.
func executeWithOptions(ctx context.Context, sb *sandbox.Sandbox) error {
	output, err := sb.Exec(ctx, "sh", []string{"compute.sh"},
		sandbox.WithExecCwd("/app"),
		sandbox.WithExecEnv(map[string]string{"PYTHONPATH": "/app/lib"}),
		sandbox.WithExecTimeout(30*time.Second),
		sandbox.WithExecRlimit("nofile", 512, 1024),
	)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("too slow; until then it printed %q: %w", output.Stdout(), err)
	}
	if err != nil {
		return err
	}
	fmt.Print(output.Stdout())
	return nil
}

func ExampleSandbox_Exec_options() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := executeWithOptions(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
