package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hutchvm/hutch/sandbox"
)

// A Cmd is used like that of os/exec.
func commandLikeOSExec(ctx context.Context, sb *sandbox.Sandbox) error {
	cmd := sb.Command(ctx, "tr", "a-z", "A-Z")
	cmd.Stdin = strings.NewReader("shout\n")
	out, err := cmd.Output()
	var ee *sandbox.ExitError
	if errors.As(err, &ee) {
		return fmt.Errorf("%v: exit code %d: %s", cmd, ee.ExitCode(), ee.Stderr)
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s", out)
	return nil
}

func ExampleSandbox_Command() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := commandLikeOSExec(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
