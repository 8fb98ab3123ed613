package debpkg

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Tree is an unpacked closure. The zero value stands for the system itself. It is not changed after Closure returned it.
type Tree struct {
	// Root is the folder that stands for /: Root/usr/bin and so on.
	Root string
	// SelfContained is what the tree was made with.
	SelfContained bool
}

// Path joins elem to the root.
func (t *Tree) Path(elem ...string) string {
	return filepath.Join(append([]string{t.Root}, elem...)...)
}

// BinDirs are the folders of programs that the tree has, in the order of a PATH.
func (t *Tree) BinDirs() []string {
	return t.existing("usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "usr/games")
}

// LibDirs are the folders of shared libraries that the tree has: the linker's usual ones, and folders just below them that hold
// versioned libraries, which programs usually find through an absolute path inside them.
func (t *Tree) LibDirs() []string {
	var dirs []string
	for _, base := range []string{"usr/lib", "lib", "usr/local/lib", "lib64", "usr/lib64"} {
		multiarch, _ := filepath.Glob(filepath.Join(globEscape(t.Root), filepath.FromSlash(base), "*-linux-*")) // the pattern is valid
		for _, dir := range append(multiarch, t.existing(base)...) {
			dirs = append(dirs, dir)
			entries, err := os.ReadDir(dir)
			if err != nil {
				continue // a file of that name, or gone: no libraries there
			}
			for _, e := range entries {
				sub := filepath.Join(dir, e.Name())
				if !e.IsDir() || slices.Contains(multiarch, sub) {
					continue
				}
				if libs, _ := filepath.Glob(filepath.Join(globEscape(sub), "lib*.so.*")); len(libs) > 0 {
					dirs = append(dirs, sub)
				}
			}
		}
	}
	return dirs
}

// IncludeDirs are the folders of C headers that the tree has, for -I options. Env does not name them: a variable for the compiler would
// reach freestanding builds such as the kernel's, too.
func (t *Tree) IncludeDirs() []string {
	dirs := t.existing("usr/include")
	multiarch, _ := filepath.Glob(filepath.Join(globEscape(t.Root), "usr", "include", "*-linux-*")) // the pattern is valid
	return append(dirs, multiarch...)
}

func (t *Tree) existing(names ...string) []string {
	var dirs []string
	for _, name := range names {
		dir := t.Path(filepath.FromSlash(name))
		if info, err := os.Stat(dir); err == nil && info.IsDir() && t.Root != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Env returns a copy of base (os.Environ() when nil) in which PATH and LD_LIBRARY_PATH name the tree first, and variables of tools
// that otherwise look for their data under /usr point into the tree (bison, m4).
func (t *Tree) Env(base []string) []string {
	if base == nil {
		base = os.Environ()
	}
	env := slices.Clone(base)
	env = prepend(env, "PATH", t.BinDirs())
	env = prepend(env, "LD_LIBRARY_PATH", t.LibDirs())
	if dir := t.Path("usr", "share", "bison"); t.Root != "" && isDir(dir) {
		env = append(env, "BISON_PKGDATADIR="+dir)
	}
	if m4 := t.Path("usr", "bin", "m4"); t.Root != "" && isFile(m4) {
		env = append(env, "M4="+m4)
	}
	return env
}

// Lookup finds a program in the tree, then on the PATH of this process. Error: *Error with exec.ErrNotFound.
func (t *Tree) Lookup(name string) (string, error) {
	for _, dir := range t.BinDirs() {
		if path := filepath.Join(dir, name); isFile(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &Error{Op: "find program", Name: name, Err: exec.ErrNotFound, Fix: "it is neither in " + t.Root + " nor on PATH"}
	}
	return path, nil
}

// Command is exec.CommandContext for a program found by Lookup, with Env set. In a self-contained tree the program is started
// through the tree's own dynamic loader instead of LD_LIBRARY_PATH, so that programs of the system that it starts are not affected.
func (t *Tree) Command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	path, err := t.Lookup(name)
	if err != nil {
		return nil, err
	}
	if loader, ok := t.loader(); ok && t.SelfContained && strings.HasPrefix(path, t.Root+string(filepath.Separator)) {
		full := append([]string{"--library-path", strings.Join(t.LibDirs(), ":"), path}, args...)
		cmd := exec.CommandContext(ctx, loader, full...)
		cmd.Env = prepend(os.Environ(), "PATH", t.BinDirs())
		return cmd, nil
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = t.Env(nil)
	return cmd, nil
}

// loader finds the tree's dynamic loader (ld-linux-x86-64.so.2, ld-linux-aarch64.so.1, …).
func (t *Tree) loader() (string, bool) {
	for _, dir := range []string{"lib64", "usr/lib64", "lib", "usr/lib"} {
		found, _ := filepath.Glob(filepath.Join(globEscape(t.Root), filepath.FromSlash(dir), "ld-linux-*.so.*")) // the pattern is valid
		if len(found) > 0 {
			return found[0], true
		}
	}
	return "", false
}

// makeTree downloads and unpacks the plan, then moves the result to root.
func (c *client) makeTree(ctx context.Context, root string, plan []planned) error {
	tmp, err := os.MkdirTemp(filepath.Join(c.dir, "trees"), "tmp-")
	if err != nil {
		return &Error{Op: "unpack", Err: err}
	}
	defer os.RemoveAll(tmp)
	files, debs := filepath.Join(tmp, "root"), filepath.Join(tmp, "debs")
	for _, dir := range []string{files, debs} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return &Error{Op: "unpack", Err: err}
		}
	}
	if len(plan) > 0 {
		specs := make([]string, len(plan))
		for i, p := range plan {
			specs[i] = p.spec()
		}
		c.progress(fmt.Sprintf("fetching %d packages", len(plan)))
		if err := c.download(ctx, debs, specs); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(debs)
	if err != nil {
		return &Error{Op: "unpack", Err: err}
	}
	if len(entries) < len(plan) {
		return &Error{Op: "download", Err: fmt.Errorf("apt-get left %d packages, want %d", len(entries), len(plan))}
	}
	for i, e := range entries {
		c.progress(fmt.Sprintf("unpacking %s (%d of %d)", e.Name(), i+1, len(entries)))
		if err := c.unpack(ctx, filepath.Join(debs, e.Name()), files); err != nil {
			return err
		}
	}
	if err := relink(files); err != nil {
		return &Error{Op: "unpack", Err: err}
	}
	if err := os.Rename(files, root); err != nil {
		return &Error{Op: "unpack", Err: err}
	}
	return nil
}

func (c *client) unpack(ctx context.Context, deb, dir string) error {
	_, out, err := c.run(ctx, c.dir, nil, c.deb, "-x", deb, dir)
	if err == nil {
		return nil
	}
	if full := noRoom("unpack", filepath.Base(deb), out); full != nil && ctx.Err() == nil {
		return full
	}
	return &Error{Op: "unpack", Name: filepath.Base(deb), Err: err, Output: tail(out)}
}

// Unpack fetches one package as Fetch does and returns the folder that holds its files, unpacked once per version.
// Errors and concurrency are those of Closure.
func Unpack(ctx context.Context, pkg string, progress func(string)) (*Tree, error) {
	deb, err := Fetch(ctx, pkg, progress)
	if err != nil {
		return nil, err
	}
	c, unlock, err := open(ctx, progress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	root := filepath.Join(c.dir, "trees", strings.TrimSuffix(filepath.Base(deb), ".deb"))
	if isDir(root) {
		return &Tree{Root: root}, nil
	}
	tmp, err := os.MkdirTemp(filepath.Join(c.dir, "trees"), "tmp-")
	if err != nil {
		return nil, &Error{Op: "unpack", Name: pkg, Err: err}
	}
	defer os.RemoveAll(tmp)
	files := filepath.Join(tmp, "root")
	c.progress("unpacking " + filepath.Base(deb))
	if err := c.unpack(ctx, deb, files); err != nil {
		return nil, err
	}
	if err := relink(files); err != nil {
		return nil, &Error{Op: "unpack", Name: pkg, Err: err}
	}
	if err := os.Rename(files, root); err != nil {
		return nil, &Error{Op: "unpack", Name: pkg, Err: err}
	}
	return &Tree{Root: root}, nil
}

// relink makes absolute symbolic links whose target is in the tree relative, since the tree is not at /.
func relink(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink == 0 {
			return err
		}
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if !filepath.IsAbs(target) {
			return nil
		}
		inside := filepath.Join(root, target)
		if _, err := os.Lstat(inside); err != nil {
			return nil // it points to the system
		}
		rel, err := filepath.Rel(filepath.Dir(path), inside)
		if err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Symlink(rel, path)
	})
}

// prepend puts dirs before the list variable key; an unset variable is set, a missing list stays missing.
func prepend(env []string, key string, dirs []string) []string {
	if len(dirs) == 0 {
		return env
	}
	list := strings.Join(dirs, ":")
	for i, kv := range env {
		if old, ok := strings.CutPrefix(kv, key+"="); ok {
			if old != "" {
				list += ":" + old
			}
			env[i] = key + "=" + list
			return env
		}
	}
	return append(env, key+"="+list)
}

// globEscape quotes the characters that filepath.Glob treats as a pattern.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
