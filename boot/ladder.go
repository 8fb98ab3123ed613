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
	RefOwn  = "own"  // the kernel of our own, built by `hutch kernel build`
)

// The commands that give a machine a kernel: in seconds, and in minutes.
const (
	fixNoKernel  = "hutch kernel fetch linux-image-cloud-amd64"
	fixOwnKernel = "hutch kernel build"
)

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

// Reason is Err in words, without the path that Try has already, on one line; "" without an Err.
func (s Step) Reason() string {
	if s.Err == nil {
		return ""
	}
	text := strings.TrimPrefix(s.Err.Error(), "kernel: ")
	for _, op := range []string{"", "open ", "stat "} {
		text = strings.TrimPrefix(text, op+s.Try+": ")
	}
	return strings.ReplaceAll(text, "\n", "; ")
}

// NoKernelError lists why no step of the ladder gave a kernel. errors.Is(err, ErrNoKernel) holds, and errors.Is and As reach the errors of the
// steps.
type NoKernelError struct {
	Steps []Step
	Fix   string // the command that helps
	Also  string // another way, or ""
}

func (e *NoKernelError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v:", ErrNoKernel)
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "\n  %s: %s: %s", s.Name, s.Try, s.Reason())
	}
	fmt.Fprintf(&b, "\nrun: %s", e.Fix)
	if e.Also != "" {
		fmt.Fprintf(&b, "\nor:  %s", e.Also)
	}
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
	steps := []Step{{"option", "WithKernel, --kernel", errNotSet}}
	if o.Ref == "" {
		steps = append(steps, Step{"environment", "$" + EnvKernel, errNotSet})
	}
	for _, from := range []func() (*Kernel, []Step, error){
		func() (*Kernel, []Step, error) { return fromCache(ctx, o, "") }, func() (*Kernel, []Step, error) { return fromHost(ctx, o) },
	} {
		k, tried, err := from()
		steps = append(steps, tried...)
		if err != nil {
			return nil, err
		}
		if k != nil {
			k.Tried = steps
			return k, nil
		}
	}
	return nil, noKernel(steps, fixNoKernel, fixOwnKernel)
}

// noKernel is the error of these steps. When one of them met a file that only root may read, making it readable is the other way.
func noKernel(steps []Step, fix, also string) *NoKernelError {
	for _, s := range steps {
		var u *UnreadableError
		if errors.As(s.Err, &u) {
			also = u.fix()
			break
		}
	}
	return &NoKernelError{Steps: steps, Fix: fix, Also: also}
}

// resolveNamed opens the kernel ref.
func resolveNamed(ctx context.Context, o ResolveOptions, step, ref string) (*Kernel, error) {
	var k *Kernel
	var tried []Step
	var err error
	fix, also := fixNoKernel, "hutch kernel list, which names the kernels that are there"
	switch {
	case ref == RefHost:
		also = fixOwnKernel
		k, tried, err = fromHost(ctx, o)
	case ref == RefOwn:
		fix, also = fixOwnKernel, fixNoKernel+", and name that package"
		k, tried, err = fromCache(ctx, o, RefOwn)
	case strings.ContainsRune(ref, filepath.Separator) || exists(ref):
		k, err = open(ctx, ref, o.Progress)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			tried, err = []Step{{step, ref, err}}, nil
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
		return nil, noKernel(tried, fix, also)
	}
	if k.Origin == "" {
		k.Origin = step
	}
	k.Tried = tried
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
		if name != "" && !c.called(name) {
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
		steps = append(steps, Step{"cache", "own kernel", errors.New("not built")})
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
