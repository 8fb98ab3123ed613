package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/initramfs"
	"github.com/hutchvm/hutch/kvm"
)

// A CheckStatus is the outcome of one precondition.
type CheckStatus string

// The outcomes.
const (
	CheckPass CheckStatus = "PASS"
	CheckWarn CheckStatus = "WARN" // New works, but not as well as it could
	CheckFail CheckStatus = "FAIL" // New fails
)

// A CheckResult is what Check found out about one precondition of New.
type CheckResult struct {
	Name   string // "device", "permission", "hardware", "kernel", "modules", "limits", "userland", "memory"
	Status CheckStatus
	Detail string // what was found
	Fix    string // what to do about it, where there is something
}

// Check looks at everything that New needs, with the options that New would get, and returns one result for each precondition, in the order in
// which New needs them. It boots nothing, builds nothing and fetches nothing; it may unpack a kernel into the cache, once.
func Check(ctx context.Context, opts ...Option) ([]CheckResult, error) {
	cfg, err := resolve(opts)
	if err != nil {
		return nil, err
	}
	if !supported() {
		return []CheckResult{{"device", CheckFail, ErrUnsupported.Error(), "run it on Linux on amd64"}}, nil
	}
	c := &checker{cfg: cfg}
	c.device()
	c.kernel(ctx)
	c.userland()
	c.memory()
	return c.results, ctx.Err()
}

type checker struct {
	cfg     *config
	results []CheckResult
}

func (c *checker) add(name string, status CheckStatus, fix, format string, a ...any) {
	c.results = append(c.results, CheckResult{name, status, fmt.Sprintf(format, a...), fix})
}

// device checks the KVM device by opening it, which is the only test of a permission, and its guest by running one.
func (c *checker) device() {
	path := c.cfg.kvmPath
	sys, err := kvm.OpenPath(path)
	switch {
	case errors.Is(err, kvm.ErrNoKVM):
		c.add("device", CheckFail, "load the module with `modprobe kvm_intel` or `modprobe kvm_amd` and enable virtualisation in the firmware; without hardware, run the program in the lab: kvmlab -- COMMAND", "%v", err)
		return
	case errors.Is(err, kvm.ErrPermission):
		c.add("device", CheckPass, "", "%s is there", path)
		c.add("permission", CheckFail, "join the group that owns it: `sudo usermod -aG kvm $USER`, then log in again", "%v", err)
		return
	case err != nil:
		c.add("device", CheckFail, "", "%v", err)
		return
	}
	defer sys.Close()
	c.add("device", CheckPass, "", "%s is there and answers", path)
	c.add("permission", CheckPass, "", "this user may open it")
	probe, err := sys.Probe()
	switch {
	case err != nil:
		c.add("hardware", CheckFail, "", "the probe guest: %v", err)
	case probe.SoftwareKVM():
		c.add("hardware", CheckFail, "run the program on a machine with hardware virtualisation, or in the lab: kvmlab -- COMMAND", "%v: ordinary guest kernels do not run on it", probe)
	default:
		c.add("hardware", CheckPass, "", "%v", probe)
	}
}

// kernel walks the ladder, and looks at what the kernel can do.
func (c *checker) kernel(ctx context.Context) {
	k, err := boot.Resolve(ctx, boot.ResolveOptions{Ref: c.cfg.kernel, Progress: c.cfg.progress})
	if err != nil {
		fix := "`hutch kernel fetch linux-image-cloud-amd64` fetches one, `hutch kernel build` builds hutch's own"
		if nk := (*boot.NoKernelError)(nil); errors.As(err, &nk) && nk.Fix != "" {
			fix = nk.Fix
		}
		c.add("kernel", CheckFail, fix, "%v", err)
		return
	}
	defer k.Close()
	from := ""
	if k.Origin != "" {
		from = ", from " + k.Origin
	}
	c.add("kernel", CheckPass, "", "%s (%s%s)", k.Release, k.Path, from)
	if mods, err := k.Modules(boot.DefaultModules...); err != nil {
		c.add("modules", CheckFail, "name a kernel with its modules: a package, or a folder with lib/modules", "%v", err)
	} else if len(mods) == 0 {
		c.add("modules", CheckPass, "", "everything needed is built in")
	} else {
		names := make([]string, len(mods))
		for i, m := range mods {
			names[i] = m.Name
		}
		c.add("modules", CheckPass, "", "the agent will load %s", strings.Join(names, ", "))
	}
	c.limits(k)
}

// limits looks for what WithExecLimits needs.
func (c *checker) limits(k *boot.Kernel) {
	var missing []string
	unknown := false
	for _, l := range []struct{ option, limit string }{{"MEMCG", "memory"}, {"CFS_BANDWIDTH", "CPU"}, {"CGROUP_PIDS", "process"}} {
		value, known := k.Config(l.option)
		unknown = unknown || !known && value == ""
		if known && value != "y" {
			missing = append(missing, l.limit+" (CONFIG_"+l.option+")")
		}
	}
	switch {
	case len(missing) > 0:
		c.add("limits", CheckWarn, "use another kernel for WithExecLimits: `hutch kernel build`", "this kernel cannot limit %s", strings.Join(missing, ", "))
	case unknown:
		c.add("limits", CheckPass, "", "this kernel's configuration is not known; WithExecLimits says when it cannot")
	default:
		c.add("limits", CheckPass, "", "commands can be limited in memory, CPU and processes")
	}
}

// userland checks the initial file system, or what builds it.
func (c *checker) userland() {
	if path := c.cfg.initramfs; path != "" {
		if err := checkInitramfs(path); err != nil {
			c.add("userland", CheckFail, "write one with `hutch image build -o FILE`", "%v", err)
			return
		}
		c.add("userland", CheckPass, "", "%s", path)
		return
	}
	if path, err := exec.LookPath("go"); err == nil {
		c.add("userland", CheckPass, "", "built into the cache with %s where it is not there yet", path)
		return
	}
	c.add("userland", CheckWarn, "install Go, or name an image that `hutch image build -o FILE` wrote elsewhere (WithInitramfs, "+EnvInitramfs+")",
		"there is no Go toolchain: a userland that is in the cache works, and none can be built")
}

// memory compares the guest's memory with what the host has.
func (c *checker) memory() {
	want := c.cfg.memory
	have, err := availableMemory()
	switch {
	case err != nil:
		c.add("memory", CheckWarn, "", "how much this host has is not known: %v", err)
	case have < want:
		c.add("memory", CheckWarn, "give the guest less (WithMemory, --memory), or the host more", "%d MiB are available, and the guest may come to use %d MiB", have>>20, want>>20)
	default:
		c.add("memory", CheckPass, "", "%d MiB are available, for a guest of %d MiB", have>>20, want>>20)
	}
}

// availableMemory is what this process can still get: the host's, or what is left of its control group's limit.
func availableMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	have := int64(-1)
	for l := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, err
			}
			have = kib << 10
		}
	}
	if have < 0 {
		return 0, errors.New("/proc/meminfo has no MemAvailable")
	}
	if left, ok := cgroupMemory(); ok {
		have = min(have, left)
	}
	return have, nil
}

// cgroupMemory is what is left of this process's own control group, if that has a limit. Source: cgroup-v2.rst, "Memory Interface Files".
func cgroupMemory() (left int64, ok bool) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	_, path, ok := strings.Cut(strings.TrimSpace(string(self)), "0::")
	if !ok {
		return 0, false
	}
	number := func(file string) (int64, bool) {
		b, err := os.ReadFile("/sys/fs/cgroup" + path + "/" + file)
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		return n, err == nil // "max" is no limit
	}
	limit, ok := number("memory.max")
	if !ok {
		return 0, false
	}
	used, ok := number("memory.current")
	return max(0, limit-used), ok
}

// checkInitramfs refuses a file that would only make the kernel panic.
func checkInitramfs(path string) error {
	a, err := initramfs.Open(path)
	if err != nil {
		return err
	}
	defer a.Close()
	if e, err := a.Lookup("init"); err != nil || !e.Mode.IsRegular() && e.Mode.Type() != os.ModeSymlink {
		return fmt.Errorf("initramfs %s: %w: it has no /init: build one with `hutch image build`, or add the agent as /init", path, ErrNoAgent)
	}
	return nil
}
