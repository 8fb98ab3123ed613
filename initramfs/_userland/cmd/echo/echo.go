// Command echo prints its arguments: GNU's, which expands escapes after -e only.
//
//	echo [-neE]... [STRING...]
package main

import (
	"os"

	"userland.hutch.invalid/lib/echo"
)

func main() {
	if _, err := os.Stdout.Write(echo.Text(os.Args[1:])); err != nil {
		os.Exit(1)
	}
}
