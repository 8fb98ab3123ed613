package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/boot/ownkernel"
)

// atMostOne wants a kernel's name or nothing.
func atMostOne(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("kernel %s: give one kernel at most; got %d arguments", c.Name(), len(args))
	}
	return nil
}

func resolveKernel(c *cobra.Command, args []string) (*boot.Kernel, error) {
	ref := ""
	if len(args) == 1 {
		ref = args[0]
	}
	return boot.Resolve(c.Context(), boot.ResolveOptions{Ref: ref, Progress: toStderr})
}

func newKernelResolve() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "resolve [KERNEL]",
		Short: "Say which kernel --kernel KERNEL, or no --kernel, would boot",
		Long: `resolve walks the ladder that hutch run walks (the name given, HUTCH_KERNEL, the cache, the host's own kernel) and prints the release, the path and the
step that found it. When there is none it prints why each step has none.`,
		Example: "  hutch kernel resolve\n  hutch kernel resolve linux-image-cloud-amd64",
		Args:    atMostOne, ValidArgsFunction: oneKernel,
		RunE: func(c *cobra.Command, args []string) error {
			k, err := resolveKernel(c, args)
			if err != nil {
				return err
			}
			defer k.Close()
			if asJSON {
				return printJSON(struct {
					Release string `json:"release"`
					Path    string `json:"path"`
					Image   string `json:"image"`
					Origin  string `json:"origin"`
				}{k.Release, k.Path, k.Image, k.Origin})
			}
			fmt.Printf("%s\t%s\t%s\n", k.Release, k.Path, k.Origin)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newKernelImport() *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "Put the kernel of a .deb file into the cache",
		Long:    `import unpacks a kernel package that is there as a file, for machines without a network. It prints the release and the path.`,
		Example: "  hutch kernel import linux-image-6.12.0-cloud-amd64_6.12.1-1_amd64.deb",
		Args:    one("one .deb file"),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := boot.Import(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer k.Close()
			fmt.Printf("%s\t%s\n", k.Release, k.Path)
			return nil
		},
	}
}

func newKernelPrune() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:        "prune NAME... | --all",
		Short:      "Remove kernels from the cache",
		Long:       "prune removes kernels with all that belongs to them: unpacked image, modules, the package file. A microVM that runs on one is not disturbed.",
		Example:    "  hutch kernel prune linux-image-6.1.0-56-cloud-amd64\n  hutch kernel prune --all",
		SuggestFor: []string{"rm", "remove", "delete"},

		ValidArgsFunction: kernelNames,
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("kernel prune: name kernels, or give --all; hutch kernel list lists them")
			}
			if all {
				list, err := boot.Cached()
				if err != nil {
					return err
				}
				for _, k := range list {
					args = append(args, k.Name)
				}
			}
			var errs []error
			for _, name := range args {
				if err := removeKernel(c.Context(), name); err != nil {
					if !all || !errors.Is(err, fs.ErrNotExist) { // another prune was quicker
						errs = append(errs, err)
					}
					continue
				}
				fmt.Println(name)
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "remove all of them")
	return c
}

func removeKernel(ctx context.Context, name string) error {
	if name == boot.RefOwn {
		return ownkernel.Remove(ctx)
	}
	return boot.Remove(ctx, name)
}
