//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "kvmlab: the lab needs a Linux host (the emulated machine shares the host's files and runs its programs)")
	os.Exit(exitOwn)
}
