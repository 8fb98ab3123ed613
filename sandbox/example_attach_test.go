package sandbox_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// This program's terminal becomes that of the guest's program.
func interact(ctx context.Context, sb *sandbox.Sandbox) error {
	// Attach to the default shell.
	exitCode, err := sb.AttachShell(ctx)
	if errors.Is(err, sandbox.ErrDetached) {
		return nil // the user typed ctrl-] and left the shell running
	}
	if err != nil {
		return err
	}
	fmt.Println("shell exited with", exitCode)

	// Attach to a specific command.
	exitCode, err = sb.Attach(ctx, "cat")
	if err != nil {
		return err
	}
	fmt.Println("cat exited with", exitCode)
	return nil
}

func ExampleSandbox_Attach() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := interact(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
