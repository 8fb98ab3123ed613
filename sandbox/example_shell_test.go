package sandbox_test

import (
	"context"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// The guest's shell knows pipelines, redirections and the rest of its syntax.
func runScript(ctx context.Context, sb *sandbox.Sandbox) error {
	output, err := sb.Shell(ctx, "ls -la /app && echo done")
	if err != nil {
		return err
	}
	fmt.Print(output.Stdout())
	return nil
}

func ExampleSandbox_Shell() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := runScript(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
