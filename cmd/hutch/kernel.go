package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/boot/ownkernel"
)

func newKernel() *cobra.Command {
	c := group(&cobra.Command{Use: "kernel", Short: "Fetch, build, inspect and remove guest kernels",
		Long: `kernel fills and shows the cache of guest kernels. --kernel names one of them, or a file, a folder with a kernel and its modules, a .deb file, "own" or
"host". Without --kernel, hutch takes what HUTCH_KERNEL names, else the newest of the cache ("own" first), else the host's own.`,
		Example: "  hutch kernel fetch linux-image-cloud-amd64\n  hutch kernel list\n  hutch kernel resolve",
	})
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
		Example: "  hutch kernel build\n  hutch run -k own -- uname -r",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return interruptible(cmd, func(ctx context.Context) error {
				res, err := ownkernel.Build(ctx, ownkernel.Options{Progress: toStderr})
				if err != nil {
					return err
				}
				fmt.Printf("own\t%s\t%s\n", res.Release, res.Vmlinux)
				return nil
			})
		},
	}
}

func newKernelFetch() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch PACKAGE",
		Short: "Fetch a kernel package with the distribution's client, without installing it",
		Long: `fetch downloads a kernel package from the sources that the system's package client is configured for, as an ordinary user, and unpacks what hutch needs of
it into the cache: kernel, configuration, and the modules that a guest may load. Tested are, of Debian: linux-image-cloud-amd64, linux-image-amd64,
linux-image-6.12-cloud-amd64 and linux-image-6.12-amd64. The cloud kernels are smaller and boot a little faster; the generic ones have more drivers, which
no guest of hutch needs.`,
		Example:    "  hutch kernel fetch linux-image-cloud-amd64\n  hutch run -k linux-image-cloud-amd64 -- uname -r",
		SuggestFor: []string{"pull", "get", "download", "install"},
		Args:       one("the name of one package, such as linux-image-cloud-amd64"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return interruptible(cmd, func(ctx context.Context) error {
				k, err := boot.Fetch(ctx, args[0], toStderr)
				if err != nil {
					return err
				}
				defer k.Close()
				fmt.Printf("%s\t%s\t%s\n", args[0], k.Release, k.Path)
				return nil
			})
		},
	}
}

// kernelLine is a kernel in the cache, as kernel list prints it.
type kernelLine struct {
	boot.CachedKernel
	Path string `json:"path"`
	Size int64  `json:"size"` // in bytes, of all it takes in the cache
}

func newKernelList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the kernels in the cache by the names that --kernel takes",
		Long:    `list prints a line for each name. A name without a path is another one of the kernel above it.`,
		Example: "  hutch kernel list\n  hutch kernel list --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			kernels, err := boot.Cached()
			if err != nil {
				return err
			}
			lines := []kernelLine{}
			rows := [][]string{{"NAME", "ALSO", "RELEASE", "SIZE", "ADDED"}}
			for _, k := range kernels {
				k.Added = k.Added.UTC().Truncate(time.Second)
				line := kernelLine{k, k.Path, k.DiskSize()}
				lines = append(lines, line)
				also := "-"
				if len(k.Aliases) > 0 {
					also = strings.Join(k.Aliases, ", ")
				}
				rows = append(rows, []string{k.Name, also, k.Release, megabytes(line.Size), k.Added.Local().Format(time.DateTime)})
			}
			if asJSON {
				return printJSON(lines)
			}
			return table(rows)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// interruptible runs f with a context that a signal ends, so that what f has begun is given up in order.
func interruptible(c *cobra.Command, f func(context.Context) error) error {
	ctx, done := endedBy(c.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer done()
	err := f(ctx)
	if code, ended := endingSignal(ctx); ended && err != nil {
		return code
	}
	return err
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
