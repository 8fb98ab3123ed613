package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
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

// A CheckResult is what Check found out about one precondition of New. Every text is one line.
type CheckResult struct {
	Name   string      `json:"name"` // "device", "permission", "hardware", "kernel", "modules", "limits", "userland", "memory", "cgroup"
	Status CheckStatus `json:"status"`
	Detail string      `json:"detail"`          // what was found
	Fix    string      `json:"fix,omitempty"`   // what to do about it, where there is something
	Also   string      `json:"also,omitempty"`  // another way, where there is one
	Steps  []CheckStep `json:"steps,omitempty"` // of "kernel": where it was looked for, in this order
}

// A CheckStep is one place where a kernel was looked for.
type CheckStep struct {
	Name   string `json:"name"`   // "option", "environment", "cache" or "host"
	Try    string `json:"try"`    // the path or name
	Reason string `json:"reason"` // why it gave none, or "used"
}

// Check looks at everything that New needs, with the options that New would get, and returns one result for each precondition, in the order in
// which New needs them. New works when none of them is a CheckFail; what comes after a failed one may be missing.
//
// It boots no kernel, builds nothing and fetches nothing. To tell hardware from software it runs a guest of a few instructions for at most 20 ms
// (kvm.System.Probe), and it may unpack a kernel into the cache, once.
//
// Errors: *ConfigError for an option that New would refuse; ctx's. What it finds is a result and no error.
func Check(ctx context.Context, opts ...Option) ([]CheckResult, error) {
	cfg, err := resolve(opts)
	if err != nil {
		return nil, err
	}
	if !supported() {
		return []CheckResult{{Name: "device", Status: CheckFail, Detail: ErrUnsupported.Error(), Fix: "run it on Linux on amd64"}}, nil
	}
	c := &checker{cfg: cfg, seen: thisHost}
	c.all(ctx)
	return c.results, ctx.Err()
}

// surroundings are what Check looks at outside of this program. Tests give others.
type surroundings struct {
	root    string // the folder with proc and sys
	probe   func(path string) (kvm.Probe, error)
	resolve func(context.Context, boot.ResolveOptions) (*boot.Kernel, error)
	cached  func(context.Context, initramfs.Options) (*initramfs.Image, string, error)
	space   func() (limit uint64, limited bool) // RLIMIT_AS in bytes
}

var thisHost = surroundings{root: "/", probe: probeKVM, resolve: boot.Resolve, cached: initramfs.Current, space: addressSpace}

type checker struct {
	cfg     *config
	seen    surroundings
	results []CheckResult
}

func (c *checker) all(ctx context.Context) {
	c.device()
	c.kernel(ctx)
	c.userland(ctx)
	c.memory()
	c.cgroup()
}

func (c *checker) pass(name, format string, a ...any) {
	c.add(CheckResult{Name: name, Status: CheckPass, Detail: fmt.Sprintf(format, a...)})
}

func (c *checker) add(r CheckResult) {
	for _, text := range []*string{&r.Detail, &r.Fix, &r.Also} {
		*text = strings.ReplaceAll(strings.TrimSpace(*text), "\n", "; ")
	}
	c.results = append(c.results, r)
}

// device checks the KVM device by opening it, which is the only test of a permission, and its guest by running one.
func (c *checker) device() {
	path := c.cfg.kvmPath
	probe, err := c.seen.probe(path)
	detail, fix := explained(err)
	switch {
	case errors.Is(err, kvm.ErrNoKVM):
		c.add(CheckResult{Name: "device", Status: CheckFail, Detail: detail, Fix: fix, Also: "without hardware virtualisation: " + labHint})
		return
	case errors.Is(err, kvm.ErrPermission):
		c.pass("device", "%s is there", path)
		c.add(CheckResult{Name: "permission", Status: CheckFail, Detail: detail, Fix: fix})
		return
	case errors.Is(err, errNotOpened):
		c.add(CheckResult{Name: "device", Status: CheckFail, Detail: detail, Fix: fix})
		return
	}
	c.pass("device", "%s is there and answers", path)
	c.pass("permission", "this user may open it")
	switch {
	case err != nil:
		c.add(CheckResult{Name: "hardware", Status: CheckFail, Detail: "the probe guest: " + detail, Fix: fix})
	case probe.SoftwareKVM():
		c.add(CheckResult{Name: "hardware", Status: CheckFail, Detail: probe.String() + ": ordinary guest kernels do not run on it",
			Fix: "use a machine with hardware virtualisation", Also: labHint})
	default:
		c.pass("hardware", "%v", probe)
	}
}

// errNotOpened is a device that could not be opened, for whatever reason.
var errNotOpened = errors.New("the device cannot be used")

// notOpened is err as an errNotOpened, with its own words.
type notOpened struct{ error }

func (n notOpened) Is(target error) bool { return target == errNotOpened }
func (n notOpened) Unwrap() error        { return n.error }

// probeKVM opens the device and runs the probe guest.
func probeKVM(path string) (kvm.Probe, error) {
	sys, err := kvm.OpenPath(path)
	if err != nil {
		return kvm.Probe{}, notOpened{err}
	}
	defer sys.Close()
	return sys.Probe()
}

// explained splits an error of package kvm into what was found and what helps.
func explained(err error) (detail, fix string) {
	if err == nil {
		return "", ""
	}
	const otherwise = "run it on another machine, or in " + labHint
	var ke *kvm.Error
	if !errors.As(err, &ke) {
		return strings.TrimPrefix(err.Error(), "kvm: "), otherwise
	}
	bare := *ke
	bare.Hint = ""
	return strings.TrimPrefix(bare.Error(), "kvm: "), cmp.Or(ke.Hint, otherwise)
}

// kernel walks the ladder, and looks at what the kernel can do.
func (c *checker) kernel(ctx context.Context) {
	k, err := c.seen.resolve(ctx, boot.ResolveOptions{Ref: c.cfg.kernel, Progress: c.cfg.progress})
	if err != nil {
		r := CheckResult{Name: "kernel", Status: CheckFail, Detail: err.Error(), Fix: "hutch kernel fetch linux-image-cloud-amd64", Also: "hutch kernel build"}
		if nk := (*boot.NoKernelError)(nil); errors.As(err, &nk) {
			r.Detail, r.Fix, r.Also, r.Steps = boot.ErrNoKernel.Error(), nk.Fix, nk.Also, checkSteps(nk.Steps)
		}
		c.add(r)
		return
	}
	defer k.Close()
	c.describe(k)
}

// describe says what a kernel that was found can do.
func (c *checker) describe(k *boot.Kernel) {
	steps := checkSteps(k.Tried)
	if k.Origin != "" {
		steps = append(steps, CheckStep{k.Origin, k.Path, "used"})
	}
	if err := k.CheckFeatures(); err != nil {
		c.add(CheckResult{Name: "kernel", Status: CheckFail, Detail: err.Error(), Fix: "use another kernel: hutch kernel fetch linux-image-cloud-amd64",
			Also: "hutch kernel build", Steps: steps})
		return
	}
	release := k.Release
	if release == "" {
		release = "a kernel that does not tell its release"
	}
	c.add(CheckResult{Name: "kernel", Status: CheckPass, Detail: fmt.Sprintf("%s (%s)", release, k.Path), Steps: steps})
	if mods, err := k.Modules(boot.DefaultModules...); err != nil {
		c.add(CheckResult{Name: "modules", Status: CheckFail, Detail: err.Error(), Fix: "name a kernel with its modules: a package, or a folder with lib/modules"})
	} else if len(mods) == 0 {
		c.pass("modules", "everything needed is built in")
	} else {
		names := make([]string, len(mods))
		for i, m := range mods {
			names[i] = m.Name
		}
		c.pass("modules", "the agent will load %s", strings.Join(names, ", "))
	}
	c.limits(k)
}

func checkSteps(tried []boot.Step) []CheckStep {
	var steps []CheckStep
	for _, s := range tried {
		steps = append(steps, CheckStep{s.Name, s.Try, s.Reason()})
	}
	return steps
}

// limits looks for what WithExecLimits needs.
func (c *checker) limits(k *boot.Kernel) {
	var missing []string
	unknown := false
	for _, l := range []struct{ option, limit string }{{"MEMCG", "memory"}, {"CFS_BANDWIDTH", "CPU"}, {"CGROUP_PIDS", "process"}} {
		value, known := k.Config(l.option)
		unknown = unknown || !known
		if known && value != "y" {
			missing = append(missing, l.limit+" (CONFIG_"+l.option+")")
		}
	}
	switch {
	case len(missing) > 0:
		c.add(CheckResult{Name: "limits", Status: CheckWarn, Detail: "this kernel cannot limit " + strings.Join(missing, ", "),
			Fix: "for WithExecLimits use another kernel: hutch kernel build"})
	case unknown:
		c.pass("limits", "this kernel's configuration is not known; WithExecLimits says when it cannot")
	default:
		c.pass("limits", "commands can be limited in memory, CPU and processes")
	}
}

// userland checks the initial file system, or what builds it.
func (c *checker) userland(ctx context.Context) {
	const embed = "name an image that `hutch image build -o FILE` wrote elsewhere (WithInitramfs, --initramfs, " + EnvInitramfs + ")"
	if path := c.cfg.initramfs; path != "" {
		if err := checkInitramfs(path); err != nil {
			c.add(CheckResult{Name: "userland", Status: CheckFail, Detail: err.Error(), Fix: "hutch image build -o FILE, and name that file"})
			return
		}
		c.pass("userland", "the image %s", path)
		return
	}
	img, goTool, err := c.seen.cached(ctx, initramfs.Options{Progress: c.cfg.progress})
	switch {
	case errors.Is(err, initramfs.ErrNoToolchain):
		c.add(CheckResult{Name: "userland", Status: CheckFail, Detail: "there is no cached userland, and no Go toolchain to build it with", Fix: "install Go, then: hutch image build", Also: embed})
	case err != nil:
		c.add(CheckResult{Name: "userland", Status: CheckFail, Detail: err.Error(), Fix: embed})
	case img != nil:
		c.pass("userland", "cached userland at %s", img.Path)
	default:
		c.pass("userland", "not cached yet: will be built with %s, which takes half a minute", goTool)
	}
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
