// Command hello is the program on the first screen of the README.
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
	out, err := sb.Shell(ctx, "uname -a | tee /dev/stderr; exit 3")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s(exit code %d)\n", out.Stdout(), out.ExitCode())
}
