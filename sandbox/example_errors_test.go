package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/hutchvm/hutch/sandbox"
)

// What can be wrong with a command is told apart by the error's type.
func explain(ctx context.Context, sb *sandbox.Sandbox) error {
	_, err := sb.Exec(ctx, "no-such-program", nil)
	var se *sandbox.StartError
	if errors.As(err, &se) {
		fmt.Println("not started, at the stage", se.Stage, "with", se.Path, errors.Is(err, exec.ErrNotFound))
	}

	_, err = sb.Exec(ctx, "true", nil, sandbox.WithExecCwd("not/absolute"))
	var ce *sandbox.ConfigError
	if errors.As(err, &ce) {
		fmt.Println("a mistake in", ce.Option, ce.Value)
	}

	err = sb.Command(ctx, "sh", "-c", "exit 3").Run()
	var ee *sandbox.ExitError
	if errors.As(err, &ee) {
		fmt.Println("exit code", ee.ExitCode())
	}

	_, err = sb.Session("never-was").Info(ctx)
	fmt.Println("no such session:", errors.Is(err, sandbox.ErrSessionNotFound))
	return nil
}

func ExampleStartError() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := explain(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
