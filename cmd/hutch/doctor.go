package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

func newDoctor() *cobra.Command {
	f := &bootFlags{}
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Check what hutch needs on this machine, and say how to fix what is missing",
		Long: `doctor checks each precondition of booting a microVM here, with the kernel and memory that the flags name, and prints PASS, WARN or FAIL for it. It
exits with 1 when something fails.`,
		Example: "  hutch doctor\n  hutch doctor -k linux-image-cloud-amd64 -m 2G\n  hutch doctor --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if f.console != "" {
				return errors.New("--console: doctor boots no guest that could write to it; leave it out")
			}
			opts, cleanup, err := f.options()
			if err != nil {
				return err
			}
			defer cleanup()
			results, err := sandbox.Check(context.Background(), opts...)
			if err != nil {
				return explainBoot(err)
			}
			if asJSON {
				err = printJSON(results)
			} else {
				printChecks(results)
			}
			for _, r := range results {
				if r.Status == sandbox.CheckFail && err == nil {
					err = exitCode(1)
				}
			}
			return err
		},
	}
	f.register(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printChecks prints a line for each result, and a line with what helps below it.
func printChecks(results []sandbox.CheckResult) {
	colour := map[sandbox.CheckStatus]string{sandbox.CheckPass: "\x1b[32m", sandbox.CheckWarn: "\x1b[33m", sandbox.CheckFail: "\x1b[31m"}
	reset := "\x1b[0m"
	if os.Getenv("NO_COLOR") != "" || !stdoutIsTerminal() {
		colour, reset = nil, ""
	}
	for _, r := range results {
		fmt.Printf("%s%s%s  %-10s  %s\n", colour[r.Status], r.Status, reset, r.Name, r.Detail)
		if r.Fix != "" {
			fmt.Printf("      %-10s  fix: %s\n", "", r.Fix)
		}
	}
}
