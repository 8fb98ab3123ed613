// Command kill sends a signal to processes: with the names of POSIX, which u-root's does not know.
//
//	kill [-s SIGNAL | -SIGNAL] PID...
//	kill -l [NUMBER]
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"userland.hutch.invalid/lib/sig"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	number := unix.SIGTERM
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "--" {
		name := args[0][1:]
		args = args[1:]
		switch {
		case name == "l":
			return list(args)
		case name[0] == 's' && len(name) > 1 && name[1] >= 'A' && name[1] <= 'Z':
			name = name[1:]
		case name == "s":
			if len(args) == 0 {
				return usage("option -s needs a signal")
			}
			name, args = args[0], args[1:]
		}
		var err error
		if number, err = sig.Parse(name); err != nil {
			return usage(err.Error())
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return usage("name at least one process")
	}
	status := 0
	for _, arg := range args {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return usage(fmt.Sprintf("%q is no process number", arg))
		}
		if err := syscall.Kill(pid, number); err != nil {
			fmt.Fprintf(os.Stderr, "kill: %d: %v\n", pid, err)
			status = 1
		}
	}
	return status
}

// list prints the name of a number, or of an exit status above 128, or all of them.
func list(args []string) int {
	if len(args) > 0 {
		n, err := strconv.Atoi(args[0])
		name := unix.SignalName(syscall.Signal(n & 0x7f))
		if err != nil || name == "" {
			return usage(fmt.Sprintf("%q is no signal", args[0]))
		}
		fmt.Println(strings.TrimPrefix(name, "SIG"))
		return 0
	}
	var names []string
	for n := 1; n < 32; n++ {
		names = append(names, strings.TrimPrefix(unix.SignalName(syscall.Signal(n)), "SIG"))
	}
	fmt.Println(strings.Join(names, " "))
	return 0
}

func usage(what string) int {
	fmt.Fprintf(os.Stderr, "kill: %s\nusage: kill [-s SIGNAL | -SIGNAL] PID..., kill -l [NUMBER]\n", what)
	return 2
}
