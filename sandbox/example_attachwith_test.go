package sandbox_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/hutchvm/hutch/sandbox"
)

// A terminal without a user: keys come from a reader, the screen goes to a writer.
func interactWithOptions(ctx context.Context, sb *sandbox.Sandbox) error {
	exitCode, err := sb.AttachWith(ctx, "sh",
		sandbox.WithAttachArgs("-c", "read name; echo hello $name; pwd; echo DEBUG=$DEBUG; exit 3"),
		sandbox.WithAttachEnv(map[string]string{"DEBUG": "1"}),
		sandbox.WithAttachCwd("/tmp"),
		sandbox.WithAttachDetachKeys("ctrl-q"),
		sandbox.WithAttachSize(40, 120),
		sandbox.WithAttachIO(strings.NewReader("world\n"), os.Stdout, nil),
	)
	if err != nil {
		return err
	}
	fmt.Println("sh exited with", exitCode)
	return nil
}

func ExampleSandbox_AttachWith() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := interactWithOptions(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
