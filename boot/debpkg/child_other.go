//go:build !linux

package debpkg

import "syscall"

// dieWithUs does nothing: there is no such thing here.
func dieWithUs(*syscall.SysProcAttr) {}
