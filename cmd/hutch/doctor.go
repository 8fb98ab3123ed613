package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

func newDoctor() *cobra.Command {
	f := &bootFlags{}
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Check what hutch needs on this machine, and say how to fix what is missing",
		Long: `doctor checks each precondition of booting a microVM here, with the kernel and memory that the flags name, and prints PASS, WARN or FAIL for it,
with what helps below it. It boots no kernel, builds nothing and fetches nothing; to tell hardware from software it runs a guest of a few instructions.

Exit codes: 0 when hutch run would work here, warnings or not; 1 when something fails; 125 when the flags are wrong.
The words are coloured on a terminal, unless NO_COLOR is set.`,
		Example: "  hutch doctor\n  hutch doctor -k linux-image-cloud-amd64 -m 2G\n  hutch doctor --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			opts, cleanup, err := f.options()
			if err != nil {
				return err
			}
			defer cleanup()
			results, err := sandbox.Check(context.Background(), opts...)
			if err != nil {
				return explainBoot(err)
			}
			failed := failedChecks(results) > 0
			if asJSON {
				err = printJSON(results)
			} else {
				_, err = io.WriteString(os.Stdout, checksText(results, stdoutIsTerminal() && os.Getenv("NO_COLOR") == ""))
			}
			if err == nil && failed {
				err = exitCode(1)
			}
			return err
		},
	}
	f.registerMachine(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func failedChecks(results []sandbox.CheckResult) int {
	n := 0
	for _, r := range results {
		if r.Status == sandbox.CheckFail {
			n++
		}
	}
	return n
}

// checksText is a table with a line for each result, below it where a kernel was looked for and what helps, and the verdict at its end.
func checksText(results []sandbox.CheckResult, colour bool) string {
	colours := map[sandbox.CheckStatus]string{sandbox.CheckPass: "\x1b[32m", sandbox.CheckWarn: "\x1b[33m", sandbox.CheckFail: "\x1b[31m"}
	width := len("permission") // the same whichever checks there are
	for _, r := range results {
		width = max(width, len(r.Name))
	}
	var b strings.Builder
	below := func(format string, a ...any) {
		fmt.Fprintf(&b, "%*s%s\n", len("PASS")+2+width+2, "", fmt.Sprintf(format, a...))
	}
	for _, r := range results {
		status := string(r.Status)
		if colour {
			status = colours[r.Status] + status + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s  %-*s  %s\n", status, width, r.Name, r.Detail)
		for _, s := range r.Steps {
			below("%s: %s: %s", s.Name, s.Try, s.Reason)
		}
		if r.Fix != "" {
			below("fix: %s", r.Fix)
		}
		if r.Also != "" {
			below("or:  %s", r.Also)
		}
	}
	if n := failedChecks(results); n > 0 {
		fmt.Fprintf(&b, "\nhutch cannot boot a microVM here: %d of %d checks failed.\n", n, len(results))
	} else {
		b.WriteString("\nhutch can boot a microVM here.\n")
	}
	return b.String()
}
