package sandbox_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// The sandbox of `hutch create worker`, or of a program that calls Hold, from another process.
func visit(ctx context.Context) error {
	sb, err := sandbox.Connect(ctx, "worker")
	if errors.Is(err, sandbox.ErrNotRunning) {
		return fmt.Errorf("start it with: hutch create worker: %w", err)
	}
	if err != nil {
		return err
	}
	defer sb.Close() // of the connection; sb.Stop ends the sandbox
	output, err := sb.Shell(ctx, "hostname")
	if err != nil {
		return err
	}
	fmt.Print(output.Stdout())
	return nil
}

func ExampleConnect() {
	if err := visit(context.Background()); err != nil {
		fmt.Println(err)
	}
}
