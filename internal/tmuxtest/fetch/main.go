// Command fetch makes sure that there is a tmux for the tests, and prints its path, for HUTCH_TMUX.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hutchvm/hutch/internal/tmuxtest"
)

func main() {
	p, err := tmuxtest.Find(context.Background(), func(line string) { fmt.Fprintln(os.Stderr, "tmux:", line) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(p.Path)
}
