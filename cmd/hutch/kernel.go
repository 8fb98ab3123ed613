package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/boot/ownkernel"
)

func newKernel() *cobra.Command {
	c := group(&cobra.Command{Use: "kernel", Short: "Fetch, build, inspect and remove guest kernels"})
	c.AddCommand(newKernelBuild(), newKernelFetch(), newKernelList(), newKernelResolve(), newKernelInspect(), newKernelImport(), newKernelPrune())
	return c
}

func newKernelBuild() *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build hutch's own small kernel from the distribution's source package",
		Long: `build fetches the distribution's kernel source and the build tools that are missing, builds a kernel with hutch's configuration and keeps it in the
cache, where "own" names it. It installs nothing and needs no root. The first time takes about ten minutes on two processors; when the
kernel is there already, it returns at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			res, err := ownkernel.Build(cmd.Context(), ownkernel.Options{Progress: toStderr})
			if err != nil {
				return err
			}
			fmt.Printf("own\t%s\t%s\n", res.Release, res.Vmlinux)
			return nil
		},
	}
}

func newKernelFetch() *cobra.Command {
	return &cobra.Command{
		Use:     "fetch PACKAGE",
		Short:   "Fetch a kernel package with the distribution's client, without installing it",
		Example: "  hutch kernel fetch linux-image-cloud-amd64\n  hutch run -k linux-image-cloud-amd64 -- uname -r",
		Args:    one("the name of one package, such as linux-image-cloud-amd64"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := boot.Fetch(cmd.Context(), args[0], toStderr)
			if err != nil {
				return err
			}
			defer k.Close()
			fmt.Printf("%s\t%s\t%s\n", args[0], k.Release, k.Path)
			return nil
		},
	}
}

func newKernelList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the kernels in the cache by the names that --kernel takes",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			kernels, err := boot.Cached()
			if err != nil {
				return err
			}
			rows := [][]string{{"NAME", "RELEASE", "PATH"}}
			for _, k := range kernels {
				rows = append(rows, []string{k.Name, k.Release, k.Path})
				for _, alias := range k.Aliases {
					rows = append(rows, []string{alias, k.Release, ""})
				}
			}
			return table(rows)
		},
	}
}

// one wants one argument, which is what.
func one(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("kernel %s: give %s; got %d arguments", c.Name(), what, len(args))
		}
		return nil
	}
}
