package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// Options says what Closure resolves.
type Options struct {
	// Packages are the names to have, at least one.
	Packages []string
	// Recommends adds what the packages recommend; false, the usual choice, takes hard dependencies only.
	Recommends bool
	// SelfContained takes the whole closure down to the C library, as if nothing were installed. The tree then does not depend on the
	// system, at several times the size; run its programs with Tree.Command, which uses the tree's own dynamic loader. With false the tree
	// holds what the system lacks, and packages that the system has are used from there.
	SelfContained bool
	// Progress, when not nil, is called with one line of text per step, from one goroutine.
	Progress func(string)
}

// neverMixed are packages of which the system's copy is always used unless the tree is self-contained: a C library only works
// with the dynamic loader of its own build, which the system's programs name by absolute path.
var neverMixed = []string{"libc6", "libc-bin", "dpkg", "apt"}

// Closure makes sure that the packages and what they depend on are usable, and returns the tree that holds what the system lacks.
//
// The tree is keyed by names and versions and shared by all processes of the user; an existing one is returned without the network. When all
// packages are installed on the system the tree is empty and Tree.Env still works. After a system upgrade the simulator asks for other
// versions and the next call makes a new tree.
//
// Errors are *Error: ErrNoPackageClient, ErrUnknownPackage, ErrNoNetwork, ctx.Err, or what the file system said. Safe for concurrent use, also
// by several processes.
func Closure(ctx context.Context, opts Options) (*Tree, error) {
	if len(opts.Packages) == 0 {
		return nil, &Error{Op: "resolve", Err: errors.New("no package named"), Fix: "set Options.Packages"}
	}
	for _, name := range opts.Packages {
		if !validName(name) {
			return nil, &Error{Op: "resolve", Name: fmt.Sprintf("%q", name), Err: errors.New("not a package name")}
		}
	}
	c, unlock, err := open(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	defer unlock()

	var tree *Tree
	err = c.withLists(ctx, func() error {
		var err error
		tree, err = c.closure(ctx, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return tree, nil
}

// closure resolves by the lists there are, and downloads only when no tree of these versions exists.
func (c *client) closure(ctx context.Context, opts Options) (*Tree, error) {
	plan, err := c.simulate(ctx, opts)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(c.dir, "trees", planKey(opts, plan))
	if _, err := os.Stat(root); err == nil {
		return &Tree{Root: root, SelfContained: opts.SelfContained}, nil
	}
	if !c.updated && !c.listsFresh() {
		if err := c.update(ctx); err != nil {
			return nil, err
		}
		return c.closure(ctx, opts) // at most once: updated is set now
	}
	if err := c.makeTree(ctx, root, plan); err != nil {
		return nil, err
	}
	return &Tree{Root: root, SelfContained: opts.SelfContained}, nil
}

// simulate asks apt what an installation would unpack.
func (c *client) simulate(ctx context.Context, opts Options) ([]planned, error) {
	status := ""
	if opts.SelfContained {
		status = os.DevNull
	}
	args := append(c.options(status), "-s", "install")
	if !opts.Recommends {
		args = append(args, "--no-install-recommends")
	}
	names := strings.Join(opts.Packages, " ")
	out, all, err := c.run(ctx, c.dir, nil, c.get, append(args, opts.Packages...)...)
	switch {
	case ctx.Err() != nil:
		return nil, &Error{Op: "resolve", Name: names, Err: ctx.Err()}
	case err != nil && (strings.Contains(all, "Unable to locate package") || strings.Contains(all, "no installation candidate")):
		return nil, &Error{Op: "resolve", Name: names, Err: ErrUnknownPackage, Output: tail(all),
			Fix: "check the name and the sources apt is configured for"}
	case err != nil:
		return nil, &Error{Op: "resolve", Name: names, Err: err, Output: tail(all)}
	}
	plan := parseSimulation(out)
	if !opts.SelfContained {
		plan = slices.DeleteFunc(plan, func(p planned) bool { return slices.Contains(neverMixed, p.Name) })
	}
	slices.SortFunc(plan, func(a, b planned) int { return strings.Compare(a.spec(), b.spec()) })
	return plan, nil
}

// planKey names the tree of a plan: the first package for people, a hash of the versions for uniqueness.
func planKey(opts Options, plan []planned) string {
	h := sha256.New()
	fmt.Fprintf(h, "tree 1 selfcontained=%v\n", opts.SelfContained) // raise the number when unpacking changes
	for _, p := range plan {
		fmt.Fprintf(h, "%s=%s:%s\n", p.Name, p.Version, p.Arch)
	}
	return opts.Packages[0] + "-" + hex.EncodeToString(h.Sum(nil))[:16]
}

// Fetch downloads one package, without its dependencies, and returns the path of the .deb in the cache, where it stays.
//
// A package that only points to another one (linux-image-cloud-amd64 to the current linux-image-VERSION-cloud-amd64) is followed, so that the
// result holds the files one wants. A version that is in the cache already is returned without a download; when the lists are older than a day
// and cannot be refreshed, that is the newest known one. progress may be nil.
//
// Errors are those of Closure. Safe for concurrent use, also by several processes.
func Fetch(ctx context.Context, pkg string, progress func(string)) (debPath string, err error) {
	if !validName(pkg) {
		return "", &Error{Op: "look up", Name: fmt.Sprintf("%q", pkg), Err: errors.New("not a package name")}
	}
	c, unlock, err := open(ctx, progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if !c.listsFresh() {
		if err := c.update(ctx); err != nil {
			return "", err
		}
	}
	err = c.withLists(ctx, func() error {
		var err error
		debPath, err = c.fetch(ctx, pkg)
		return err
	})
	return debPath, err
}

// metaDepth bounds the chain of packages that point to packages.
const metaDepth = 4

func (c *client) fetch(ctx context.Context, pkg string) (string, error) {
	ctl, err := c.show(ctx, pkg)
	for range metaDepth {
		if err != nil {
			return "", err
		}
		target, ok := ctl.metaTarget()
		if !ok {
			break
		}
		ctl, err = c.show(ctx, target)
	}
	if err != nil {
		return "", err
	}
	dest := filepath.Join(c.dir, "pool", ctl.fileName())
	if _, err := os.Stat(dest); err == nil {
		return dest, nil
	}
	if err := c.needRoom("download", ctl.Name, ctl.Bytes); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(c.dir, "tmp-")
	if err != nil {
		return "", &Error{Op: "download", Name: pkg, Err: err}
	}
	defer os.RemoveAll(tmp)
	if err := c.download(ctx, tmp, []string{ctl.Name + "=" + ctl.Version}); err != nil {
		return "", err
	}
	debs, _ := filepath.Glob(filepath.Join(globEscape(tmp), "*.deb")) // the pattern is valid
	if len(debs) != 1 {
		return "", &Error{Op: "download", Name: pkg, Err: fmt.Errorf("apt-get left %d packages in %s, want 1", len(debs), tmp)}
	}
	if err := os.Rename(debs[0], dest); err != nil {
		return "", &Error{Op: "download", Name: pkg, Err: err}
	}
	return dest, nil
}

// Forget deletes the package file that Fetch keeps for this name and version, if there is one. A tree that was unpacked from it stays.
// Errors: those of the lock and the file system. Safe for concurrent use, also by several processes. It needs no package client.
func Forget(ctx context.Context, name, version string) error {
	if !validName(name) || version == "" {
		return nil // Fetch keeps no such package
	}
	dir, err := cachedir.Dir("deb")
	if err != nil {
		return &Error{Op: "open cache", Err: err}
	}
	pattern := control{Name: name, Version: version, Arch: "*"}.fileName()
	found, _ := filepath.Glob(filepath.Join(globEscape(filepath.Join(dir, "pool")), pattern)) // no version has glob characters
	if len(found) == 0 {
		return nil
	}
	unlock, err := (&client{dir: dir, progress: func(string) {}}).lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, path := range found {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return &Error{Op: "forget", Name: name, Err: err}
		}
	}
	return nil
}
