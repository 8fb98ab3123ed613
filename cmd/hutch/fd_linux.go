package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// replaceFD makes fd another descriptor of f's open file.
func replaceFD(fd int, f *os.File) error { return unix.Dup3(int(f.Fd()), fd, 0) }
