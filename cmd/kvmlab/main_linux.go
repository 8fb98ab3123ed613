package main

import (
	"errors"
	"fmt"
	"os"
)

func main() {
	if os.Getpid() == 1 && os.Args[0] == "/init" {
		guestInit()
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case brokerCommand:
			exitOn(brokerMain(argument(2)))
		case serverCommand:
			exitOn(guestServer())
		case sessionCommand:
			exitOn(guestSession(argument(2), argument(3)))
		case agentCommand:
			exitOn(guestAgent())
		}
	}
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvmlab:", err)
		if errors.Is(err, errUsage) {
			fmt.Fprint(os.Stderr, usage)
		}
	}
	os.Exit(code)
}

func argument(i int) string {
	if i < len(os.Args) {
		return os.Args[i]
	}
	return ""
}

// exitOn ends a process of a hidden command.
func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvmlab:", err)
		os.Exit(exitOwn)
	}
	os.Exit(0)
}
