// Command attach boots a sandbox and puts this terminal into it: the guest's shell, or the command given as arguments. Ctrl-] detaches.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hutchvm/hutch/sandbox"
)

func main() {
	code, err := run(context.Background(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "attach:", err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (code int, err error) {
	sb, err := sandbox.New(ctx)
	if err != nil {
		return 1, err
	}
	defer sb.Close()
	if len(args) == 0 {
		code, err = sb.AttachShell(ctx)
	} else {
		code, err = sb.Attach(ctx, args[0], args[1:]...)
	}
	if errors.Is(err, sandbox.ErrDetached) {
		fmt.Println(err)
		return 0, nil
	}
	return code, err
}
