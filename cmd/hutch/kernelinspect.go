package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/boot"
)

// What inspect says about the need for an option.
const (
	required = "required" // no guest without it
	either   = "either"   // no guest without one of those that say this
	useful   = "useful"   // guests run without it, with less
	unused   = "not yet"  // hutch does nothing with it so far
)

// loadedNow is what hutch does about a module of boot.DefaultModules.
const loadedNow = "copied into the guest and loaded by the agent at boot"

// defaultModules are boot.DefaultModules by their options.
var defaultModules = map[string]string{"VIRTIO_MMIO": "virtio_mmio", "VIRTIO_VSOCKETS": "vmw_vsock_virtio_transport"}

const unknownConfig = "put the kernel's configuration beside it, as config-RELEASE or config"

// notLoaded is what hutch does about the other modules.
const notLoaded = "the module is not loaded"

// features are what guests of hutch use, by the kernel's options. What is built in is used as it is, unless builtIn says more.
var features = []struct{ option, use, need, builtIn, module, missing string }{
	{"BLK_DEV_INITRD", "initial file system", required, "", "", "the guest has no files"},
	{"VIRTIO_MMIO", "devices", required, "", loadedNow, "the guest finds no device"},
	{"VIRTIO_VSOCKETS", "connection to the agent", required, "", loadedNow, "the agent cannot be reached"},
	{"BINFMT_ELF", "programs", required, "", "", "no program can be started"},
	{"FUTEX", "the agent's runtime", required, "", "", "the agent cannot start"},
	{"EPOLL", "the agent's runtime", required, "", "", "the agent cannot start"},
	{"KVM_GUEST", "clock", useful, "the clock needs no calibration", "", "the guest may hang: it has no timer to calibrate its clock by"},
	{"DEVTMPFS", "/dev", useful, "", "", "/dev has only what the initial file system brings"},
	{"TMPFS", "/tmp, /run", useful, "", "", "/tmp and /run are part of the initial file system"},
	{"UNIX98_PTYS", "terminals", useful, "", "", "no command can have a terminal"},
	{"SERIAL_8250_CONSOLE", "console", useful, "", "", "the console stays empty, also when the kernel panics"},
	{"SMP", "several processors", useful, "", "", "the guest has one processor, whatever --cpus says"},
	{"MAGIC_SYSRQ", "/proc/sysrq-trigger", useful, "", "", "the guest cannot be made to panic for a test"},
	{"CGROUPS", "ending all of a command", useful, "", "", "what leaves its process group survives the command; no limits"},
	{"MEMCG", "limit of memory", useful, "", "", "a command with this limit is refused"},
	{"CFS_BANDWIDTH", "limit of processors", useful, "", "", "a command with this limit is refused"},
	{"CGROUP_PIDS", "limit of processes", useful, "", "", "a command with this limit is refused"},
	{"HW_RANDOM_VIRTIO", "random numbers of the host", unused, "", notLoaded, ""},
	{"OVERLAY_FS", "root file systems in layers", unused, "", notLoaded, ""},
	{"EROFS_FS", "root file systems in images", unused, "", notLoaded, ""},
	{"VIRTIO_BLK", "disks", unused, "", notLoaded, ""},
	{"VIRTIO_FS", "directories of the host", unused, "", notLoaded, ""},
	{"VIRTIO_NET", "network", unused, "", notLoaded, ""},
}

// feature is a line of kernel inspect.
type feature struct {
	Option   string `json:"option"`
	Use      string `json:"use"`
	Need     string `json:"need"`     // "required", "either" (one of these), "useful" or "not yet"
	State    string `json:"state"`    // "built in", "module", "missing" or "unknown"
	Handling string `json:"handling"` // what hutch does about it
}

// inspection is what kernel inspect prints.
type inspection struct {
	Release  string    `json:"release"`
	Path     string    `json:"path"`
	Image    string    `json:"image"`   // the unpacked kernel, which is loaded
	Origin   string    `json:"origin"`  // the step of the ladder that found it
	Boots    bool      `json:"boots"`   // sandbox.New would try it
	Problem  string    `json:"problem"` // why not; empty if it boots
	Devices  string    `json:"devices"` // how the guest learns of them: "ACPI", "command line", or "unknown"
	Modules  []string  `json:"modules"` // that the agent loads, in this order
	Bytes    int       `json:"moduleBytes"`
	Features []feature `json:"features"`
}

func inspectKernel(k *boot.Kernel) inspection {
	in := inspection{Release: k.Release, Path: k.Path, Image: k.Image, Origin: k.Origin, Modules: []string{}}
	mods, err := k.Modules(boot.DefaultModules...)
	if lacks := k.CheckFeatures(); lacks != nil {
		err = lacks // which New looks at first
	}
	for _, m := range mods {
		in.Modules = append(in.Modules, m.Name)
		in.Bytes += len(m.Data)
	}
	if in.Boots = err == nil; !in.Boots {
		in.Problem = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	list := deviceFeatures(k)
	in.Features = list
	in.Devices = map[bool]string{true: "ACPI", false: "command line"}[list[0].State == "built in"]
	if list[0].State == "unknown" {
		in.Devices = "unknown"
	}
	for _, f := range features {
		value, known := k.Config(f.option)
		line := feature{Option: "CONFIG_" + f.option, Use: f.use, Need: f.need, State: stateOf(value, known)}
		switch line.State {
		case "built in":
			line.Handling = f.builtIn
			if f.builtIn == "" && f.need != unused {
				line.Handling = "used as it is"
			}
		case "module":
			switch line.Handling = f.module; f.module {
			case "":
				line.Handling = "counts as missing: " + f.missing
			case loadedNow:
				if _, err := k.Modules(defaultModules[f.option]); err != nil {
					line.Handling = "the module is not there: " + f.missing
				}
			}
		case "missing":
			line.Handling = f.missing
		default:
			line.Handling = unknownConfig
		}
		if line.Handling == "" {
			line.Handling = "nothing: hutch does not use it yet"
		}
		in.Features = append(in.Features, line)
	}
	return in
}

// deviceFeatures are the two ways in which a guest learns of its devices: one of them will do.
func deviceFeatures(k *boot.Kernel) []feature {
	acpi, known := k.Config("ACPI")
	cmdline, _ := k.Config("VIRTIO_MMIO_CMDLINE_DEVICES")
	list := []feature{
		{"CONFIG_ACPI", "description of the devices", either, stateOf(acpi, known), "hutch describes them in ACPI tables"},
		{"CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES", "the same, without ACPI", either, stateOf(cmdline, known), "hutch names them on the kernel's command line"},
	}
	switch {
	case !known:
		list[0].Handling, list[1].Handling = unknownConfig, unknownConfig
	case acpi == "y":
		list[1].Handling = "not needed: there is ACPI"
	case cmdline == "y":
		list[0].Handling = "not needed: the kernel takes devices from its command line"
	default:
		list[0].Handling, list[1].Handling = "the guest finds no device", "the guest finds no device"
	}
	return list
}

func stateOf(value string, known bool) string {
	switch {
	case !known:
		return "unknown"
	case value == "y":
		return "built in"
	case value == "m":
		return "module"
	}
	return "missing"
}

func newKernelInspect() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect [KERNEL]",
		Short: "Say what a kernel has built in, has as modules or lacks, and what hutch does about it",
		Long: `inspect looks at the configuration and the modules of a kernel, without booting it. NEED says what guests of hutch cannot do without, of "either" one;
"not yet" is what hutch makes no use of so far. It exits with 1 when something that is required is missing.`,
		Example: "  hutch kernel inspect\n  hutch kernel inspect linux-image-cloud-amd64\n  hutch kernel inspect --json ./vmlinux",
		Args:    atMostOne, ValidArgsFunction: oneKernel,
		RunE: func(c *cobra.Command, args []string) error {
			k, err := resolveKernel(c, args)
			if err != nil {
				return err
			}
			defer k.Close()
			in := inspectKernel(k)
			err = in.print(asJSON)
			if err == nil && !in.Boots {
				return exitCode(1)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (in *inspection) print(asJSON bool) error {
	if asJSON {
		return printJSON(in)
	}
	boots := "yes"
	if !in.Boots {
		boots = "no: " + in.Problem
	}
	modules := "none"
	if len(in.Modules) > 0 {
		modules = fmt.Sprintf("%s (%d KB, loaded in this order)", strings.Join(in.Modules, ", "), (in.Bytes+999)/1000)
	}
	head := [][]string{{"release", in.Release}, {"path", in.Path}, {"image", in.Image}, {"found by", in.Origin}, {"boots", boots},
		{"devices", map[string]string{"ACPI": "described by ACPI tables", "command line": "named on the kernel's command line", "unknown": "unknown"}[in.Devices]},
		{"modules", modules}}
	rows := [][]string{{"FOR", "NEED", "OPTION", "STATE", "WHAT HUTCH DOES"}}
	for _, f := range in.Features {
		rows = append(rows, []string{f.Use, f.Need, f.Option, f.State, f.Handling})
	}
	err := table(head)
	fmt.Fprintln(os.Stdout)
	return errors.Join(err, table(rows))
}
