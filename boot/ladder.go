package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// EnvKernel is the environment variable that names the kernel when no option does.
const EnvKernel = "HUTCH_KERNEL"

// References that Resolve takes beside paths and names of packages.
const (
	RefAuto = "auto" // the whole ladder
	RefHost = "host" // the kernel of this machine
	RefOwn  = "own"  // the kernel of our own, built by `make kernel`
)

// fixNoKernel is the one command that gives every machine a kernel.
const fixNoKernel = "hutch kernel fetch linux-image-cloud-amd64"

// ResolveOptions say which kernel to use. The zero value walks the ladder.
type ResolveOptions struct {
	// Ref names the kernel: a path of a vmlinux, bzImage, folder or .deb; auto, host, own; or the name of a package in the cache. Empty
	// means $HUTCH_KERNEL, else auto. What is named must be usable: there is no falling back to another kernel.
	Ref string

	// Progress, if not nil, is called with a line before something that takes seconds: unpacking, once for each kernel.
	Progress func(string)

	hostRoot string // replaces / for tests
}

// Step is one thing that Resolve tried.
type Step struct {
	Name string // option, environment, cache, host
	Try  string // the path or reference
	Err  error  // why it gave no kernel
}

// NoKernelError lists why no step of the ladder gave a kernel. errors.Is(err, ErrNoKernel) holds, and errors.Is and As reach the errors of the
// steps.
type NoKernelError struct {
	Steps []Step
	Fix   string // the command that helps
}

func (e *NoKernelError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v:", ErrNoKernel)
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "\n  %s: %s: %v", s.Name, s.Try, s.Err)
	}
	fmt.Fprintf(&b, "\nrun: %s", e.Fix)
	return b.String()
}

// Unwrap returns ErrNoKernel and the errors of the steps.
func (e *NoKernelError) Unwrap() []error {
	out := []error{ErrNoKernel}
	for _, s := range e.Steps {
		out = append(out, s.Err)
	}
	return out
}

var (
	errNotSet    = errors.New("not set")
	errNoneThere = errors.New("none there")
)

// Resolve finds and opens a kernel: the option, the environment, the cache (our own kernel, then fetched packages, the latest first), the
// running host's.
//
// Errors: *NoKernelError with all reasons; for a kernel that was named and is there but bad, the error of Open.
func Resolve(ctx context.Context, o ResolveOptions) (*Kernel, error) {
	if o.Progress == nil {
		o.Progress = quiet
	}
	step, ref := "option", o.Ref
	if ref == "" {
		step, ref = "environment", os.Getenv(EnvKernel)
	}
	if ref != "" && ref != RefAuto {
		return resolveNamed(ctx, o, step, ref)
	}
	steps := []Step{{"option", "kernel", errNotSet}}
	if o.Ref == "" {
		steps = append(steps, Step{"environment", "$" + EnvKernel, errNotSet})
	}
	k, tried, err := fromCache(ctx, o, "")
	steps = append(steps, tried...)
	if k != nil || err != nil {
		return k, err
	}
	k, tried, err = fromHost(ctx, o)
	steps = append(steps, tried...)
	if k != nil || err != nil {
		return k, err
	}
	return nil, &NoKernelError{Steps: steps, Fix: fixNoKernel}
}

// resolveNamed opens the kernel ref.
func resolveNamed(ctx context.Context, o ResolveOptions, step, ref string) (*Kernel, error) {
	var k *Kernel
	var tried []Step
	var err error
	fix := fixNoKernel
	switch {
	case ref == RefHost:
		k, tried, err = fromHost(ctx, o)
	case ref == RefOwn:
		fix = "make kernel"
		k, tried, err = fromCache(ctx, o, RefOwn)
	case strings.ContainsRune(ref, filepath.Separator) || exists(ref):
		k, err = open(ctx, ref, o.Progress)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			tried, err = []Step{{step, ref, err}}, nil
			if errors.Is(tried[0].Err, fs.ErrPermission) {
				fix = "sudo install -m 0644 " + ref + " ~/vmlinuz-for-hutch, or: " + fixNoKernel
			}
		}
	default:
		if packageLike(ref) {
			fix = "hutch kernel fetch " + ref
		}
		k, tried, err = fromCache(ctx, o, ref)
		if k == nil && err == nil && len(tried) == 0 {
			tried = []Step{{step, ref, errors.New("no such file, and no kernel of that name in the cache")}}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("kernel %q (%s): %w", ref, step, err)
	}
	if k == nil {
		return nil, &NoKernelError{Steps: tried, Fix: fix}
	}
	if k.Origin == "" {
		k.Origin = step
	}
	return k, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func packageLike(ref string) bool {
	return strings.HasPrefix(ref, "linux-image-")
}

// fromCache opens a cached kernel: the one called name, or the first usable one for "". err is only that of ctx, or the one of a kernel that
// was named.
func fromCache(ctx context.Context, o ResolveOptions, name string) (*Kernel, []Step, error) {
	list, err := Cached()
	if err != nil {
		return nil, []Step{{"cache", "kernels", err}}, nil
	}
	var steps []Step
	sawOwn := false
	for _, c := range list {
		sawOwn = sawOwn || c.Name == RefOwn
		if name != "" && name != c.Name && name != c.Release && !contains(c.Aliases, name) {
			continue
		}
		k, err := openDir(ctx, c.Path, o.Progress)
		if err == nil {
			k.Origin = "cache"
			return k, steps, nil
		}
		if name != "" || ctx.Err() != nil {
			return nil, steps, err
		}
		steps = append(steps, Step{"cache", c.Name, err})
	}
	if !sawOwn && (name == "" || name == RefOwn) {
		steps = append(steps, Step{"cache", "own kernel", errors.New("not built (make kernel)")})
	}
	if name == "" && len(steps) == 1 && !sawOwn {
		steps = append(steps, Step{"cache", "fetched kernels", errNoneThere})
	}
	return nil, steps, nil
}

// fromHost opens the kernel that runs on this machine, or the newest readable one. err is only that of ctx.
func fromHost(ctx context.Context, o ResolveOptions) (*Kernel, []Step, error) {
	root := o.hostRoot
	if root == "" {
		root = "/"
	}
	if hostArch != loadArch {
		return nil, []Step{{"host", root, &ArchError{File: "this machine's kernel", Arch: hostArch, Want: loadArch}}}, nil
	}
	var steps []Step
	tried := map[string]bool{}
	try := func(path string) (*Kernel, error) {
		if tried[path] {
			return nil, nil
		}
		tried[path] = true
		k, err := open(ctx, path, o.Progress)
		if err == nil {
			k.Origin = "host"
			return k, nil
		}
		steps = append(steps, Step{"host", path, err})
		return nil, ctx.Err()
	}
	release := ""
	if b, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/osrelease")); err == nil {
		release = releaseWord(append(b, '\n'))
	}
	if release != "" {
		for _, path := range []string{filepath.Join(root, "lib/modules", release, "vmlinuz"), filepath.Join(root, "boot", "vmlinuz-"+release)} {
			if k, err := try(path); k != nil || err != nil {
				return k, steps, err
			}
		}
	}
	var others []string
	for _, pattern := range []string{"lib/modules/*/vmlinuz", "boot/vmlinuz-*"} {
		found, _ := filepath.Glob(filepath.Join(escapeGlob(root), pattern))
		others = append(others, found...)
	}
	sort.SliceStable(others, func(i, j int) bool { return compareVersions(hostVersion(others[i]), hostVersion(others[j])) > 0 })
	for _, path := range others {
		if k, err := try(path); k != nil || err != nil {
			return k, steps, err
		}
	}
	if len(steps) == 0 {
		steps = []Step{{"host", filepath.Join(root, "boot"), errNoneThere}}
	}
	return nil, steps, nil
}

// hostVersion is the version part of a kernel's path.
func hostVersion(path string) string {
	if base := filepath.Base(path); base != "vmlinuz" {
		return strings.TrimPrefix(base, "vmlinuz-")
	}
	return filepath.Base(filepath.Dir(path))
}
