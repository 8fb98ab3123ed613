package sandbox_test

import (
	"context"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// A sandbox lives from New to Close.
func boot(ctx context.Context) error {
	sb, err := sandbox.New(ctx, sandbox.WithMemory(512<<20), sandbox.WithCPUs(2))
	if err != nil {
		return err // it says what is missing, and what helps
	}
	defer sb.Close()
	fmt.Println("Linux", sb.Info().Kernel, "is up")
	return nil
}

func ExampleNew() {
	if err := boot(context.Background()); err != nil {
		fmt.Println(err)
	}
}
