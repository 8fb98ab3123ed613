package ownkernel

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hutchvm/hutch/boot/debpkg"
	"github.com/hutchvm/hutch/internal/cachedir"
)

const (
	// builderVersion changes when Build makes something else from the same options and source.
	builderVersion = "1"
	currentLink    = "current"
	infoName       = "build.json"
)

// Options are the inputs of Build; the zero value is the usual build.
type Options struct {
	// Progress, when not nil, is called with a line of text per step and every ten seconds of a long one, from the calling goroutine.
	Progress func(string)
	// Update looks for a newer source package although a kernel with the current options is there. Without it, such a kernel is returned
	// and no network is used.
	Update bool
	// Source is a package file (.deb) of the kernel source to use instead of the distribution's newest.
	Source string
	// Jobs is how many compilers run at once; zero means one per processor.
	Jobs int
	// Keep leaves source and object files in the cache, in the folder Result.WorkDir.
	Keep bool
}

// A Result is a kernel in the cache.
type Result struct {
	Vmlinux string // path of the ELF image, without symbols
	Config  string // path of its complete .config
	Release string // as uname -r prints it
	Key     string // of options, source and builder
	Cached  bool   // it was there already
	WorkDir string // with Options.Keep, after a real build
}

// info is what is stored beside a kernel.
type info struct {
	Options string // options and builder version, hashed
	Source  string // file name of the source package
	Built   string // time, RFC 3339
	Seconds int    // the build took
}

// Current returns the kernel that the last Build made, whatever its options were.
//
// Errors: ErrNotBuilt (wrapped, with the command that builds it), or those of the file system. It uses no network.
func Current() (*Result, error) {
	root, err := cachedir.Dir("kernels", "own")
	if err != nil {
		return nil, &Error{Op: "find", Err: err}
	}
	return read(filepath.Join(root, currentLink))
}

// read returns the kernel in a folder.
func read(dir string) (*Result, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, &Error{Op: "find", Err: fmt.Errorf("%w: %w", ErrNotBuilt, err), Fix: "run: hutch kernel build"}
	}
	release, err := os.ReadFile(filepath.Join(real, "release"))
	if err == nil {
		_, err = os.Stat(filepath.Join(real, "vmlinux"))
	}
	if err != nil {
		return nil, &Error{Op: "find", Err: fmt.Errorf("%w: %w", ErrNotBuilt, err), Fix: "run: hutch kernel build"}
	}
	return &Result{Vmlinux: filepath.Join(real, "vmlinux"), Config: filepath.Join(real, "config"),
		Release: strings.TrimSpace(string(release)), Key: filepath.Base(real), Cached: true}, nil
}

// Build makes our own kernel and points kernels/own/current in the cache at it.
//
// It returns at once when a kernel with the current options is there (see Options.Update). Otherwise it takes minutes: some 10 on two
// processors, 150 MB of download and 1.5 GB of disk space, freed at the end. Processes that build at once wait for one another.
// It needs no privileges; on a machine without apt, name a package file and have the tools installed.
//
// Errors: *Error, which wraps ErrUnsupported, ErrToolchain, ErrSource, an error of debpkg or ctx.Err; *ConfigError. A failed
// build leaves the cache as it was.
func Build(ctx context.Context, opts Options) (*Result, error) {
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	if opts.Jobs <= 0 {
		opts.Jobs = runtime.NumCPU()
	}
	fragment, err := Fragment()
	if err != nil {
		return nil, err
	}
	root, err := cachedir.Dir("kernels", "own")
	if err != nil {
		return nil, &Error{Op: "prepare", Err: err}
	}
	if strings.ContainsAny(root, " \t:") {
		return nil, &Error{Op: "prepare", Err: fmt.Errorf("the kernel's makefiles do not work in %q", root),
			Fix: "set " + cachedir.Env + " to a folder without spaces and colons in its path"}
	}
	unlock, err := cachedir.Lock(ctx, filepath.Join(root, "lock"))
	if err != nil {
		return nil, &Error{Op: "prepare", Err: err}
	}
	defer unlock()
	b := &build{opts: opts, root: root, fragment: fragment, optionsKey: hash(builderVersion, runtime.GOARCH, string(fragment))}
	return b.run(ctx)
}

// build is one call of Build, with the lock held.
type build struct {
	opts       Options
	root       string
	fragment   []byte
	optionsKey string
}

func (b *build) run(ctx context.Context) (*Result, error) {
	if !b.opts.Update && b.opts.Source == "" {
		if r := b.upToDate(); r != nil {
			return r, nil
		}
	}
	deb := b.opts.Source
	if deb == "" {
		b.opts.Progress("fetching the source package " + sourcePackage)
		var err error
		if deb, err = debpkg.Fetch(ctx, sourcePackage, b.opts.Progress); err != nil {
			return nil, &Error{Op: "fetch the source", Err: err}
		}
	}
	source := filepath.Base(deb)
	dir := filepath.Join(b.root, hash(b.optionsKey, source)[:32])
	if r, err := read(dir); err == nil {
		return r, b.point(dir)
	}
	removeRests(b.root)
	work, err := os.MkdirTemp(b.root, "tmp-")
	if err != nil {
		return nil, &Error{Op: "prepare", Err: err}
	}
	if !b.opts.Keep {
		defer os.RemoveAll(work)
	}
	start := time.Now()
	out := filepath.Join(work, "out")
	if err := b.compile(ctx, deb, work, out); err != nil {
		return nil, err
	}
	took := time.Since(start)
	if err := writeInfo(out, info{b.optionsKey, source, start.UTC().Format(time.RFC3339), int(took.Seconds())}); err != nil {
		return nil, &Error{Op: "store", Err: err}
	}
	if err = os.RemoveAll(dir); err == nil {
		err = os.Rename(out, dir)
	}
	if err != nil {
		return nil, &Error{Op: "store", Err: err}
	}
	if err := b.point(dir); err != nil {
		return nil, err
	}
	r, err := read(dir)
	if err != nil {
		return nil, err
	}
	r.Cached = false
	if b.opts.Keep {
		r.WorkDir = work
	}
	b.opts.Progress(fmt.Sprintf("kernel %s is ready after %s", r.Release, took.Round(time.Second)))
	return r, nil
}

// upToDate returns the current kernel when it was built with the present options.
func (b *build) upToDate() *Result {
	r, err := read(filepath.Join(b.root, currentLink))
	if err != nil {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(r.Vmlinux), infoName))
	var i info
	if err != nil || json.Unmarshal(data, &i) != nil || i.Options != b.optionsKey {
		return nil
	}
	return r
}

// compile does the work from package file to the finished folder out.
func (b *build) compile(ctx context.Context, deb, work, out string) error {
	t, err := findTools(ctx, work, b.opts.Progress)
	if err != nil {
		return err
	}
	c := &compiler{tools: t, source: filepath.Join(work, "source"), objects: filepath.Join(work, "objects"), jobs: b.opts.Jobs, progress: b.opts.Progress}
	for _, dir := range []string{c.source, c.objects, out} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return &Error{Op: "prepare", Err: err}
		}
	}
	b.opts.Progress("unpacking " + filepath.Base(deb))
	if err := unpackDeb(ctx, deb, c.source); err != nil {
		return &Error{Op: "unpack the source", Err: errors.Join(ctx.Err(), err)}
	}
	b.opts.Progress("configuring")
	if err := c.configure(ctx, b.fragment); err != nil {
		return err
	}
	b.opts.Progress(fmt.Sprintf("compiling with %d jobs", b.opts.Jobs))
	if err := c.make(ctx, opCompile, nil, "vmlinux"); err != nil {
		return err
	}
	if err := c.strip(ctx, filepath.Join(out, "vmlinux")); err != nil {
		return err
	}
	for from, to := range map[string]string{".config": "config", "include/config/kernel.release": "release"} {
		data, err := os.ReadFile(filepath.Join(c.objects, filepath.FromSlash(from)))
		if err == nil {
			err = os.WriteFile(filepath.Join(out, to), data, 0o644)
		}
		if err != nil {
			return &Error{Op: "store", Err: err}
		}
	}
	return nil
}

// point makes current lead to dir, in one step.
func (b *build) point(dir string) error {
	tmp := filepath.Join(b.root, "tmp-"+currentLink)
	err := os.Remove(tmp)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Symlink(filepath.Base(dir), tmp)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(b.root, currentLink))
	}
	if err != nil {
		return &Error{Op: "store", Err: err}
	}
	return nil
}

func writeInfo(dir string, i info) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, infoName), append(data, '\n'), 0o644)
}

// removeRests deletes what killed builds left: the lock is held, so none is running.
func removeRests(root string) {
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "tmp-") {
			_ = os.RemoveAll(filepath.Join(root, e.Name()))
		}
	}
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", len(p), p)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// Remove deletes our own kernel, all builds of it, from the cache. The source package that it was built from stays where package debpkg keeps
// it. A kernel that is open stays usable.
//
// Errors: ErrNotBuilt (wrapped) when there is none; ctx.Err; those of the file system. It waits for a build under way.
func Remove(ctx context.Context) error {
	root, err := cachedir.Dir("kernels", "own")
	if err != nil {
		return &Error{Op: "remove", Err: err}
	}
	unlock, err := cachedir.Lock(ctx, filepath.Join(root, "lock"))
	if err != nil {
		return &Error{Op: "remove", Err: err}
	}
	defer unlock()
	if _, err := os.Lstat(filepath.Join(root, currentLink)); err != nil {
		return &Error{Op: "remove", Err: fmt.Errorf("%w: %w", ErrNotBuilt, err), Fix: "run: hutch kernel build"}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return &Error{Op: "remove", Err: err}
	}
	// The link goes first: it must not lead to a folder that is half gone.
	if err := os.Remove(filepath.Join(root, currentLink)); err != nil {
		return &Error{Op: "remove", Err: err}
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
				return &Error{Op: "remove", Err: err}
			}
		}
	}
	return nil
}
