package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

type createFlags struct {
	bootFlags
	cmdFlags
}

func newCreate() *cobra.Command {
	f := &createFlags{}
	c := &cobra.Command{
		Use:   "create [flags] NAME",
		Short: "Start a microVM that stays, under a name",
		Long: `create boots a microVM that a background process of hutch holds until hutch stop. hutch exec runs commands in it, from any terminal; hutch ls
lists what runs. -e, -w, -u, --timeout and --rlimit are defaults for its commands. NAME has 1 to 40 letters, digits, '.', '-' and '_', and begins
with a letter or a digit. create prints NAME when the microVM can be used; --console needs a file here.`,
		Example: "  hutch create worker\n  hutch exec worker -- uname -a\n  hutch create -m 1G -c 2 -e LANG=C.UTF-8 builder",
		Args:    oneName,
		RunE:    func(c *cobra.Command, args []string) error { return create(c, f, args[0]) },
	}
	f.bootFlags.register(c)
	f.cmdFlags.register(c)
	return c
}

// oneName wants the name of a sandbox.
func oneName(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		hint := "hutch ls lists them"
		if c.Name() == "create" {
			hint = "an example: hutch create worker"
		}
		return fmt.Errorf("%s: give the name of one sandbox (%d were given); %s", c.Name(), len(args), hint)
	}
	return sandbox.CheckName(args[0])
}

// create starts a holder and waits until its sandbox can be used.
func create(c *cobra.Command, f *createFlags, name string) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.console == "-" {
		return errors.New("--console: - is this terminal, which the microVM outlives: give a file")
	}
	ctx, stop := endedBy(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	h, err := startHolder(ctx, name, &holdSpec{Flags: givenFlags(c)}, f.verbose)
	if err != nil {
		return err
	}
	fmt.Println(name)
	h.release()
	return nil
}
