package main

import (
	"os"

	"golang.org/x/term"
)

// stderrIsTerminal says whether status lines may be shown: on a terminal they help, in a file or a pipe they are noise.
func stderrIsTerminal() bool { return term.IsTerminal(int(os.Stderr.Fd())) }

func stdinIsTerminal() bool { return term.IsTerminal(int(os.Stdin.Fd())) }

// onTerminal says whether somebody sits at both standard input and output.
func onTerminal() bool { return stdinIsTerminal() && stdoutIsTerminal() }

func stdoutIsTerminal() bool { return term.IsTerminal(int(os.Stdout.Fd())) }
