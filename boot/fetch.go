package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hutchvm/hutch/boot/debpkg"
	"github.com/hutchvm/hutch/internal/cachedir"
)

// Fetch gets a kernel package with the distribution's own client, as an ordinary user and without installing it, unpacks it into the cache and
// opens it. pkg is for example linux-image-cloud-amd64, which leads to the current linux-image-VERSION-cloud-amd64; Resolve takes both names
// from then on. progress, if not nil, is called with one line for each phase.
//
// A version that is in the cache already costs neither a download nor unpacking.
// Errors: those of package debpkg (no client, no network, unknown package) and of Open. Safe for concurrent use.
func Fetch(ctx context.Context, pkg string, progress func(string)) (*Kernel, error) {
	deb, err := debpkg.Fetch(ctx, pkg, progress)
	if err != nil {
		return nil, fmt.Errorf("fetch kernel: %w", err)
	}
	k, err := importKernel(ctx, deb, pkg, progress)
	if meta := (*noImageError)(nil); errors.As(err, &meta) && len(meta.depends) > 0 {
		// A package that only points to another one, by a name the client does not follow.
		if deb, err = debpkg.Fetch(ctx, meta.depends[0], progress); err != nil {
			return nil, fmt.Errorf("fetch kernel: %w", err)
		}
		k, err = importKernel(ctx, deb, pkg, progress)
	}
	return k, err
}

// Import unpacks a linux-image package from a file into the cache and opens it; Resolve finds it by the package's name from then on.
// Errors: those of Open.
func Import(ctx context.Context, deb string) (*Kernel, error) {
	return importKernel(ctx, deb, "", nil)
}

func importKernel(ctx context.Context, deb, alias string, progress func(string)) (*Kernel, error) {
	if progress == nil {
		progress = quiet
	}
	var aliases []string
	if alias != "" {
		aliases = []string{alias}
	}
	dir, added, err := importDeb(ctx, deb, progress, aliases...)
	if err != nil {
		return nil, err
	}
	k, err := openDir(ctx, dir, progress) // unpacks the image as well, so that the first boot does not
	if err != nil {
		if added { // what cannot be opened, for want of room or for what it is, must not be found by Resolve
			if _, unlock, lerr := lockCache(context.WithoutCancel(ctx)); lerr == nil {
				_ = os.RemoveAll(dir) // it only takes room
				unlock()
			}
		}
		return nil, err
	}
	k.Path = dir
	return k, nil
}

// Remove deletes a fetched or imported kernel from the cache, by name, release or alias, with its unpacked image and the package file that Fetch
// keeps. A kernel that is open stays usable. Our own kernel is package ownkernel's to remove: it is refused here.
// Errors: one with fs.ErrNotExist that names the kernel if there is none of that name; the file system's. Safe for concurrent use.
func Remove(ctx context.Context, name string) error {
	_, unlock, err := lockCache(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	list, err := Cached()
	if err != nil {
		return err
	}
	own := false
	for _, c := range list {
		if !c.called(name) {
			continue
		}
		if c.Name == RefOwn {
			own = true
			continue
		}
		images := imagesOf(c.Path)
		if err := os.RemoveAll(c.Path); err != nil {
			return fmt.Errorf("kernel cache: %w", err)
		}
		for _, image := range images {
			if err := os.Remove(image); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("kernel cache: %w", err)
			}
		}
		return debpkg.Forget(ctx, c.Name, c.Version)
	}
	if own {
		return fmt.Errorf("kernel %q is hutch's own, which ownkernel.Remove removes: hutch kernel prune own", name)
	}
	return fmt.Errorf("no kernel %q in the cache (hutch kernel list shows them): %w", name, fs.ErrNotExist)
}

// called says whether Resolve takes name for this kernel.
func (c *CachedKernel) called(name string) bool {
	return name == c.Name || name == c.Release || contains(c.Aliases, name)
}

// DiskSize is how many bytes the kernel takes in the cache: its folder and its unpacked image, not the package file that Fetch keeps.
// What cannot be read counts nothing.
func (c *CachedKernel) DiskSize() int64 {
	var n int64
	root, err := filepath.EvalSymlinks(c.Path)
	if err != nil {
		return 0
	}
	_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	for _, image := range imagesOf(c.Path) {
		if info, err := os.Stat(image); err == nil {
			n += info.Size()
		}
	}
	return n
}

// imagesOf names the unpacked images of the kernels in a package folder. What cannot be read has none.
func imagesOf(dir string) []string {
	packed, err := kernelsIn(dir)
	if err != nil {
		return nil
	}
	images, err := cachedir.Dir(cacheRoot, imageDir)
	if err != nil {
		return nil
	}
	var out []string
	for _, path := range packed {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil {
			if sum, err := contentHash(f, path, info); err == nil {
				out = append(out, filepath.Join(images, sum))
			}
		}
		f.Close()
	}
	return out
}
