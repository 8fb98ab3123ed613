package sandbox_test

import (
	"context"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// The session ID is the same in events, logs and lists of sessions.
func identify(ctx context.Context, sb *sandbox.Sandbox) error {
	handle, err := sb.ExecStream(ctx, "sleep", []string{"1000"})
	if err != nil {
		return err
	}
	defer handle.Close()
	sessionID, err := handle.ID()
	if err != nil {
		return err
	}
	fmt.Println("session", sessionID)
	return nil
}

func ExampleExecHandle_ID() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := identify(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
