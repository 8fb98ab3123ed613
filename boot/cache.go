package boot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// The cache, below the "kernels" folder:
//
//	own/current/        vmlinux, config, release: the kernel of our own, put there by its build
//	deb/SHA256/         boot/, package.json and of lib/modules/ what hutch may load (debmodules.go) of one package, named by the hash of the
//	                    package file
//	vmlinux/SHA256      unpacked image, named by the hash of the bzImage
//	hash/SHA256         the content hash of a file whose path, size, times and inode hash to this name: saves reading it again
//	lock                flock while something is added
//
// Every entry appears under its name by a rename, complete; deleting any of them costs only time.
const (
	cacheRoot  = "kernels"
	ownDir     = "own/current"
	debDir     = "deb"
	imageDir   = "vmlinux"
	hashDir    = "hash"
	packageTag = "package.json"
	tempPrefix = ".new-"
)

// CachedKernel is one entry of the cache.
type CachedKernel struct {
	// Name is what Resolve takes for it: "own", or the name of a package.
	Name string `json:"name"`
	// Aliases are other names that Resolve takes: the meta package it was fetched by.
	Aliases []string `json:"aliases,omitempty"`
	Release string   `json:"release,omitempty"`
	Version string   `json:"version,omitempty"` // of the package
	// Added is when it came into the cache.
	Added time.Time `json:"added"`
	// Path is its folder.
	Path string `json:"-"`
}

// Cached lists the kernels in the user's cache: our own first, then packages, the latest added first. No kernels is no error.
func Cached() ([]CachedKernel, error) {
	root, err := cachedir.Dir(cacheRoot)
	if err != nil {
		return nil, err
	}
	var out []CachedKernel
	entries, err := os.ReadDir(filepath.Join(root, debDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("kernel cache: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			continue // being made, or the rest of a killed import
		}
		dir := filepath.Join(root, debDir, e.Name())
		if c, err := readPackageTag(dir); err == nil {
			out = append(out, c)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Added.After(out[j].Added) })
	own := filepath.Join(root, ownDir)
	if info, err := os.Stat(filepath.Join(own, "vmlinux")); err == nil {
		c := CachedKernel{Name: "own", Added: info.ModTime(), Path: own}
		if b, err := os.ReadFile(filepath.Join(own, "release")); err == nil {
			c.Release = releaseWord(append(b, '\n'))
		}
		out = append([]CachedKernel{c}, out...)
	}
	return out, nil
}

func readPackageTag(dir string) (CachedKernel, error) {
	var c CachedKernel
	b, err := os.ReadFile(filepath.Join(dir, packageTag))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, err
	}
	c.Path = dir
	return c, nil
}

// lockCache takes the lock under which entries are added, and removes what a killed process left half done: whoever holds the lock knows that
// nobody is at it.
func lockCache(ctx context.Context) (root string, unlock func(), err error) {
	root, err = cachedir.Dir(cacheRoot)
	if err != nil {
		return "", nil, err
	}
	unlock, err = cachedir.Lock(ctx, filepath.Join(root, "lock"))
	if err != nil {
		return "", nil, err
	}
	for _, dir := range []string{debDir, imageDir} {
		rests, _ := filepath.Glob(filepath.Join(escapeGlob(filepath.Join(root, dir)), tempPrefix+"*"))
		for _, r := range rests {
			_ = os.RemoveAll(r) // it only takes room
		}
	}
	return root, unlock, nil
}

// contentHash returns the SHA-256 of a file, from the cache when the file's metadata is the one it was computed for.
func contentHash(f *os.File, path string, info os.FileInfo) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	key := sha256.Sum256([]byte(abs + "\x00" + fileIdentity(info)))
	dir, err := cachedir.Dir(cacheRoot, hashDir)
	if err != nil {
		return "", err
	}
	entry := filepath.Join(dir, hex.EncodeToString(key[:]))
	if b, err := os.ReadFile(entry); err == nil && isHash(string(b)) {
		return string(b), nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size())); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	// A file changed within the clock's granularity looks the same before and after; do not remember a young one.
	if time.Since(info.ModTime()) > 2*time.Second {
		_ = writeAtomic(entry, []byte(sum)) // only saves time
	}
	return sum, nil
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// writeAtomic writes a small file so that it is there wholly or not at all.
func writeAtomic(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return publish(f, path, err)
}

// publish closes the temporary file f and renames it to path, or removes it if err or a step fails.
func publish(f *os.File, path string, err error) error {
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync() // or a power cut could leave a complete name with an incomplete file
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// unpackedImage returns the cached vmlinux of a bzImage, unpacking it first if need be.
func unpackedImage(ctx context.Context, path string, f *os.File, info os.FileInfo, bz *bzImage, say func(string)) (string, error) {
	sum, err := contentHash(f, path, info)
	if err != nil {
		return "", err
	}
	dir, err := cachedir.Dir(cacheRoot, imageDir)
	if err != nil {
		return "", err
	}
	image := filepath.Join(dir, sum)
	usable := func() bool {
		got, err := os.Stat(image)
		return err == nil && got.Size() == int64(bz.unpackedLen)
	}
	if usable() {
		return image, nil
	}
	_, unlock, err := lockCache(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if usable() {
		return image, nil // somebody else did it while we waited
	}
	say(fmt.Sprintf("unpacking %s (%s, %d MB)", path, bz.method.name, bz.unpackedLen/1e6))
	out, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return "", fmt.Errorf("kernel cache: %w", err)
	}
	err = bz.unpack(out, f)
	if err == nil {
		// A foreign or broken payload must not become a cache entry.
		_, err = parseELF(path+" (unpacked)", out, int64(bz.unpackedLen), loadArch)
	}
	if err := publish(out, image, err); err != nil {
		return "", err
	}
	return image, nil
}

// importDeb unpacks a linux-image package into the cache once and returns the folder, and whether this call added it. aliases are further
// names for Resolve, which other packages lose: linux-image-cloud-amd64 is what it led to last.
func importDeb(ctx context.Context, path string, say func(string), aliases ...string) (dir string, added bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", false, fmt.Errorf("kernel package: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", false, fmt.Errorf("kernel package: %w", err)
	}
	sum, err := contentHash(f, path, info)
	if err != nil {
		return "", false, err
	}
	if _, err := cachedir.Dir(cacheRoot, debDir); err != nil {
		return "", false, err
	}
	root, unlock, err := lockCache(ctx)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	dir = filepath.Join(root, debDir, sum)
	if tag, err := readPackageTag(dir); err == nil {
		if err := addAliases(dir, tag, aliases); err != nil {
			return "", false, err
		}
		return dir, false, dropAliases(dir, aliases)
	}
	say("unpacking " + path)
	if err := addDeb(ctx, dir, path, f, info.Size(), aliases); err != nil {
		return "", false, err
	}
	return dir, true, dropAliases(dir, aliases)
}

// addDeb unpacks the package at path into dir, which appears complete. The caller holds the cache lock.
func addDeb(ctx context.Context, dir, path string, f *os.File, size int64, aliases []string) error {
	control, err := debControl(path, f, size)
	if err != nil {
		return err
	}
	tag := CachedKernel{Name: control["Package"], Version: control["Version"], Added: time.Now().UTC()}
	for field, value := range map[string]string{"Package": tag.Name, "Version": tag.Version} {
		if !plainName(value) || strings.ContainsRune(value, '/') || slices.Contains([]string{RefAuto, RefHost, RefOwn}, value) {
			return &FormatError{File: path, Kind: ErrCorrupt, Detail: fmt.Sprintf("its control file says %s: %.80q", field, value), Fix: "take a package of a distribution"}
		}
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	defer os.RemoveAll(tmp) // nothing is left of it after the rename
	if err := fillDeb(ctx, tmp, path, f, size, &tag, control); err != nil {
		return err
	}
	if err := addAliases(tmp, tag, aliases); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	return nil
}

// fillDeb unpacks the package into tmp and completes tag.
func fillDeb(ctx context.Context, tmp, path string, f *os.File, size int64, tag *CachedKernel, control map[string]string) error {
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	defer root.Close()
	kernels, err := unpackDeb(ctx, root, path, f, size)
	if err != nil {
		return err
	}
	if kernels == 0 {
		e := &noImageError{pkg: control["Package"], depends: imageDepends(control["Depends"])}
		fix := "fetch a linux-image package, such as linux-image-cloud-amd64"
		if len(e.depends) > 0 {
			fix = "take the linux-image package that it depends on: " + strings.Join(e.depends, ", ")
		}
		return &FormatError{File: path, Kind: ErrNotKernel, Detail: "the package " + control["Package"] + " has no boot/vmlinuz-*", Err: e, Fix: fix}
	}
	if found, _ := filepath.Glob(filepath.Join(escapeGlob(tmp), "boot", "vmlinuz-*")); len(found) > 0 {
		tag.Release = strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	}
	return nil
}

// noImageError marks a package without a kernel: a meta package leads to the one that has it.
type noImageError struct {
	pkg     string
	depends []string
}

func (e *noImageError) Error() string { return "no kernel in package " + e.pkg }

// imageDepends picks the linux-image packages of a Depends field.
func imageDepends(depends string) []string {
	var out []string
	for _, d := range strings.FieldsFunc(depends, func(r rune) bool { return r == ',' || r == '|' }) {
		name, _, _ := strings.Cut(strings.TrimSpace(d), " ")
		if strings.HasPrefix(name, "linux-image-") && plainName(name) {
			out = append(out, name)
		}
	}
	return out
}

// addAliases writes the tag of a package folder with more names. The caller holds the cache lock.
func addAliases(dir string, tag CachedKernel, aliases []string) error {
	changed := tag.Path == ""
	for _, a := range aliases {
		if a != tag.Name && !contains(tag.Aliases, a) {
			tag.Aliases = append(tag.Aliases, a)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return writePackageTag(dir, tag)
}

// dropAliases takes the names away from all packages but the one in keep. The caller holds the cache lock.
func dropAliases(keep string, aliases []string) error {
	entries, err := os.ReadDir(filepath.Dir(keep))
	if err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(filepath.Dir(keep), e.Name())
		tag, err := readPackageTag(dir)
		if err != nil || dir == keep {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(tag.Aliases), func(a string) bool { return contains(aliases, a) })
		if len(left) == len(tag.Aliases) {
			continue
		}
		tag.Aliases = left
		if err := writePackageTag(dir, tag); err != nil {
			return err
		}
	}
	return nil
}

func writePackageTag(dir string, tag CachedKernel) error {
	b, err := json.MarshalIndent(tag, "", "\t")
	if err != nil {
		return err
	}
	if err := writeAtomic(filepath.Join(dir, packageTag), append(b, '\n')); err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	return nil
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }
