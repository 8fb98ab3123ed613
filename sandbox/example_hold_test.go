package sandbox_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hutchvm/hutch/sandbox"
)

// A program that holds a sandbox for others, until a signal, or somebody's Stop, ends it.
func ExampleHold() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := sandbox.Hold(ctx, "worker", func(sb *sandbox.Sandbox) {
		fmt.Println("worker is up; its log is", sb.Info().Log)
	}, sandbox.WithMemory(1<<30))
	if err != nil {
		fmt.Println(err)
	}
}
