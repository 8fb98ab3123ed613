// Command hello is the program on the first screen of the README: it boots a microVM, runs a script in it, and prints what that printed and its
// exit code.
//
//	go run ./examples/hello
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/hutchvm/hutch/sandbox"
)

func main() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	out, err := sb.Shell(ctx, "uname -a; exit 3")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%sexit code %d\n", out.Stdout(), out.ExitCode())
}
