package sandbox_test

import (
	"context"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// Run a command and wait for it.
func execute(ctx context.Context, sb *sandbox.Sandbox) error {
	output, err := sb.Exec(ctx, "sh", []string{"-c", "echo hello"})
	if err != nil {
		return err // it did not run to its end; an exit code other than 0 is no error
	}
	fmt.Print(output.Stdout())     // "hello\n"
	fmt.Println(output.Success())  // true
	fmt.Println(output.ExitCode()) // 0
	return nil
}

func ExampleSandbox_Exec() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := execute(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
