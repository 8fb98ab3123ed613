// Command env runs a command in a changed environment, or prints the environment.
//
//	env [-i] [-u NAME]... [-0] [NAME=VALUE]... [COMMAND [ARG...]]
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	env := os.Environ()
	end := "\n"
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
		case arg == "-" || arg == "-i" || arg == "--ignore-environment":
			env = nil
			continue
		case arg == "-0":
			end = "\x00"
			continue
		case arg == "-u" && len(args) > 0:
			env = without(env, args[0])
			args = args[1:]
			continue
		case strings.HasPrefix(arg, "--unset="):
			env = without(env, strings.TrimPrefix(arg, "--unset="))
			continue
		default:
			fmt.Fprintf(os.Stderr, "env: unknown option %s\n", arg)
			return 125
		}
		break
	}
	for len(args) > 0 && strings.Contains(args[0], "=") {
		name, _, _ := strings.Cut(args[0], "=")
		env = append(without(env, name), args[0])
		args = args[1:]
	}
	if len(args) == 0 {
		for _, kv := range env {
			fmt.Print(kv, end)
		}
		return 0
	}
	// The search uses the new PATH, as execvp in the changed environment would.
	os.Setenv("PATH", "")
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			os.Setenv("PATH", v)
		}
	}
	path, err := exec.LookPath(args[0])
	if err == nil {
		err = syscall.Exec(path, args, env)
	}
	fmt.Fprintf(os.Stderr, "env: %s: %v\n", args[0], err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return 127
	}
	return 126
}

func without(env []string, name string) []string {
	var kept []string
	for _, kv := range env {
		if !strings.HasPrefix(kv, name+"=") {
			kept = append(kept, kv)
		}
	}
	return kept
}
