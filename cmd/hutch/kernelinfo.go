package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/boot"
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
	return &cobra.Command{
		Use:   "resolve [KERNEL]",
		Short: "Say which kernel --kernel KERNEL, or no --kernel, would boot",
		Long: `resolve walks the ladder that hutch run walks (the name given, HUTCH_KERNEL, the cache, the host's own kernel) and prints the release, the path and the
step that found it. When there is none it prints why each step has none.`,
		Example: "  hutch kernel resolve\n  hutch kernel resolve linux-image-cloud-amd64",
		Args:    atMostOne,
		RunE: func(c *cobra.Command, args []string) error {
			k, err := resolveKernel(c, args)
			if err != nil {
				return err
			}
			defer k.Close()
			fmt.Printf("%s\t%s\t%s\n", k.Release, k.Path, k.Origin)
			return nil
		},
	}
}

// features are what guests of hutch use, by the kernel's options.
var features = []struct{ option, use string }{
	{"VIRTIO_MMIO", "devices"}, {"VIRTIO_MMIO_CMDLINE_DEVICES", "devices without ACPI"}, {"ACPI", "devices by ACPI"},
	{"VIRTIO_VSOCKETS", "the agent's connection"}, {"KVM_GUEST", "clock without calibration"}, {"PVH", "64-bit entry"},
	{"SERIAL_8250_CONSOLE", "console"}, {"DEVTMPFS", "/dev"}, {"TMPFS", "/tmp, /run"}, {"UNIX98_PTYS", "terminals"},
	{"CGROUPS", "ending whole trees"}, {"MEMCG", "memory limits"}, {"CFS_BANDWIDTH", "CPU limits"}, {"CGROUP_PIDS", "process limits"},
	{"OVERLAY_FS", "layered root file systems"}, {"EROFS_FS", "images"}, {"VIRTIO_BLK", "disks"}, {"VIRTIO_FS", "shared directories"}, {"HW_RANDOM_VIRTIO", "randomness"},
}

// feature is a line of kernel inspect.
type feature struct {
	Option   string `json:"option"`
	Use      string `json:"use"`
	State    string `json:"state"`    // "built in", "module", "missing" or "unknown"
	Handling string `json:"handling"` // what hutch does about it
}

func featuresOf(k *boot.Kernel) []feature {
	var out []feature
	for _, f := range features {
		value, known := k.Config(f.option)
		line := feature{Option: "CONFIG_" + f.option, Use: f.use}
		switch {
		case known && value == "y":
			line.State, line.Handling = "built in", "used as it is"
		case known && value == "m":
			line.State, line.Handling = "module", "not loaded"
			if f.option == "VIRTIO_MMIO" || f.option == "VIRTIO_VSOCKETS" {
				line.Handling = "loaded by the agent"
			}
		case known:
			line.State, line.Handling = "missing", "done without"
		default:
			line.State, line.Handling = "unknown", "the guest will tell"
		}
		out = append(out, line)
	}
	return out
}

func newKernelInspect() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "inspect [KERNEL]",
		Short:   "Say what a kernel has built in, has as modules or lacks, and what hutch does about it",
		Example: "  hutch kernel inspect\n  hutch kernel inspect --json linux-image-cloud-amd64",
		Args:    atMostOne,
		RunE: func(c *cobra.Command, args []string) error {
			k, err := resolveKernel(c, args)
			if err != nil {
				return err
			}
			defer k.Close()
			mods, err := k.Modules(boot.DefaultModules...)
			if err != nil {
				return err
			}
			names := make([]string, 0, len(mods))
			for _, m := range mods {
				names = append(names, m.Name)
			}
			list := featuresOf(k)
			if asJSON {
				return printJSON(struct {
					Release  string    `json:"release"`
					Path     string    `json:"path"`
					Origin   string    `json:"origin"`
					Modules  []string  `json:"modules"` // that the agent loads, in this order
					Features []feature `json:"features"`
				}{k.Release, k.Path, k.Origin, names, list})
			}
			fmt.Printf("release  %s\npath     %s\norigin   %s\nmodules  %v\n\n", k.Release, k.Path, k.Origin, names)
			rows := [][]string{{"OPTION", "FOR", "STATE", "HANDLING"}}
			for _, f := range list {
				rows = append(rows, []string{f.Option, f.Use, f.State, f.Handling})
			}
			return table(rows)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newKernelImport() *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "Put the kernel of a .deb file into the cache",
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
		Use:     "prune [NAME...]",
		Short:   "Remove kernels from the cache",
		Example: "  hutch kernel prune linux-image-6.1.0-56-cloud-amd64\n  hutch kernel prune --all",
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
				if err := boot.Remove(c.Context(), name); err != nil && !(all && errors.Is(err, fs.ErrNotExist)) {
					errs = append(errs, err)
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
