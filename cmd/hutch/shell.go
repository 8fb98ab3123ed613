package main

import "github.com/spf13/cobra"

func newShell() *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "shell [flags]",
		Short: "Boot a microVM and open a shell in it",
		Long: `shell boots a microVM and connects this terminal to a shell in it; the microVM is gone when the shell ends, and so
is every file that was written in it. hutch create makes one that stays. The detach keys (ctrl-]) leave the shell running; hutch attach comes back.`,
		Example: "  hutch shell\n  hutch shell -m 1G -k linux-image-cloud-amd64",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.tty = true
			return runCommand(c, f, []string{"/bin/sh"})
		},
	}
	f.bootFlags.register(c)
	f.cmdFlags.register(c)
	f.heldFlags.register(c)
	return c
}
