// Command attach boots a sandbox and puts this terminal into it: the guest's shell, or the command given as arguments. Ctrl-] detaches, and
// Enter comes back. It needs a terminal.
//
//	go run ./examples/attach
//	go run ./examples/attach cat
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

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
	attach := sb.AttachShell
	if len(args) > 0 {
		attach = func(ctx context.Context) (int, error) { return sb.Attach(ctx, args[0], args[1:]...) }
	}
	for {
		code, err := untilSignal(ctx, attach)
		var detached *sandbox.DetachedError
		if !errors.As(err, &detached) {
			return code, err
		}
		fmt.Printf("\n%v; Enter comes back, Ctrl-D ends it\n", err)
		if n, err := os.Stdin.Read(make([]byte, 256)); n == 0 || err != nil {
			return 0, nil
		}
		attach = func(ctx context.Context) (int, error) { return sb.Session(detached.SessionID).Attach(ctx) }
	}
}

// untilSignal ends attach when a signal asks this program to end. Without it the signal would end the program at once, and leave the terminal as
// an attachment needs it: without echo, lines and Ctrl-C.
func untilSignal(ctx context.Context, attach func(context.Context) (int, error)) (int, error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return attach(ctx)
}
