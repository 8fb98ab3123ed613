// Command named uses a sandbox that another process holds. It connects to the one called worker, runs a command in it, counts its visits in a file
// that stays there, and lists its sessions.
//
//	bin/hutch create worker      # or, in another terminal: go run ./examples/named -serve
//	go run ./examples/named      # any number of times
//	bin/hutch stop worker        # or Ctrl-C in the other terminal
//	bin/hutch rm worker          # frees the name and removes the log
//
// With -serve it is the process that holds the sandbox, as the one that hutch create starts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hutchvm/hutch/sandbox"
)

func main() {
	serve := flag.Bool("serve", false, "hold the sandbox, until a signal ends it")
	name := flag.String("name", "worker", "the sandbox")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := use
	if *serve {
		do = hold
	}
	if err := do(ctx, *name); err != nil {
		fmt.Fprintln(os.Stderr, "named:", err)
		os.Exit(1)
	}
}

// use connects to the sandbox. What it has not detached ends with it; the sandbox goes on.
func use(ctx context.Context, name string) error {
	sb, err := sandbox.Connect(ctx, name)
	if errors.Is(err, sandbox.ErrNotRunning) {
		return fmt.Errorf("%w; or hold it from another terminal with: named -serve -name %s", err, name)
	}
	if err != nil {
		return err
	}
	defer sb.Close()
	out, err := sb.Shell(ctx, "uname -r; echo visit >>/tmp/visits; wc -l </tmp/visits")
	if err != nil {
		return err
	}
	if err := out.Err(); err != nil { // an exit code other than 0
		return err
	}
	fmt.Printf("in %s, the kernel and the number of visits:\n%s", name, out.Stdout())
	sessions, err := sb.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		fmt.Printf("session %s runs %t: %q\n", s.ID, s.Running, s.Args)
	}
	return nil
}

// hold makes the sandbox and holds it until ctx ends, somebody stops it, or it ends by itself. Its log stays, until sandbox.Remove or hutch rm.
func hold(ctx context.Context, name string) error {
	return sandbox.Hold(ctx, name, func(sb *sandbox.Sandbox) {
		fmt.Printf("%s is up, with Linux %s; its log is %s\n", name, sb.Info().Kernel, sb.Info().Log)
	}, sandbox.WithMemory(128<<20))
}
