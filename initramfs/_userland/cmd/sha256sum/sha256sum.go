// Command sha256sum prints SHA-256 digests of files, or of standard input when none is named or for "-".
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
)

func main() {
	names := os.Args[1:]
	if len(names) == 0 {
		names = []string{"-"}
	}
	status := 0
	for _, name := range names {
		sum, err := digest(name)
		if err != nil {
			fmt.Fprintf(os.Stderr, "sha256sum: %v\n", err)
			status = 1
			continue
		}
		fmt.Printf("%x  %s\n", sum, name)
	}
	os.Exit(status)
}

func digest(name string) ([]byte, error) {
	in := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{in}, make([]byte, 256<<10)); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
