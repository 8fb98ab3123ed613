package main

import (
	"os"

	"golang.org/x/term"
)

// stderrIsTerminal says whether status lines may be shown: on a terminal they help, in a file or a pipe they are noise.
func stderrIsTerminal() bool { return term.IsTerminal(int(os.Stderr.Fd())) }
