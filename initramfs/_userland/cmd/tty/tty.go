// Command tty prints the name of the terminal of standard input, to standard output: u-root's writes to the terminal itself.
//
//	tty [-s]
package main

import (
	"fmt"
	"os"

	"golang.org/x/term"
)

func main() {
	silent := len(os.Args) > 1 && os.Args[1] == "-s"
	name, err := os.Readlink("/proc/self/fd/0")
	switch {
	case !term.IsTerminal(0):
		if !silent {
			fmt.Println("not a tty")
		}
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "tty:", err)
		os.Exit(3)
	case !silent:
		fmt.Println(name)
	}
}
