//go:build !linux

package main

import (
	"errors"
	"os"
)

// replaceFD is for holders, which need Linux.
func replaceFD(int, *os.File) error { return errors.ErrUnsupported }
