package sandbox_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/hutchvm/hutch/sandbox"
)

// A command goes on when its handle is given up, and its session ID leads back to it.
func comeBack(ctx context.Context, sb *sandbox.Sandbox) error {
	handle, err := sb.ExecStream(ctx, "sh", []string{"-c", "read line; echo got $line"},
		sandbox.WithExecDetachable(64<<10), sandbox.WithExecOpenStdin(), sandbox.WithExecStdinPipe())
	if err != nil {
		return err
	}
	sessionID, err := handle.ID()
	if err != nil {
		return err
	}
	if err := handle.Detach(); err != nil {
		return err
	}
	if _, err := handle.Wait(ctx); !errors.Is(err, sandbox.ErrDetached) { // the guest has let go of this handle
		return err
	}

	stdout, stderr := handle.Cursors() // nothing is shown twice
	handle, err = sb.Session(sessionID).Stream(ctx, sandbox.WithStdin(), sandbox.WithCursor(stdout, stderr))
	if err != nil {
		return err
	}
	defer handle.Close()
	stdin := handle.TakeStdin()
	_, _ = stdin.Write([]byte("a line\n"))
	_ = stdin.Close()
	output, err := handle.Collect(ctx)
	if err != nil {
		return err
	}
	fmt.Print(output.Stdout())
	return nil
}

func ExampleSandbox_Session() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := comeBack(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
