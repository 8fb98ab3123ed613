package boot

import (
	"context"
	"errors"
	"fmt"
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
	dir, err := importDeb(ctx, deb, progress, aliases...)
	if err != nil {
		return nil, err
	}
	k, err := openDir(ctx, dir, progress) // unpacks the image as well, so that the first boot does not
	if err != nil {
		return nil, err
	}
	k.Path = dir
	return k, nil
}

// Remove deletes a kernel from the cache, by name or alias. Its unpacked image goes too. A kernel that is open stays usable.
// Errors: an error that names the kernel if there is none of that name; the file system's.
func Remove(ctx context.Context, name string) error {
	list, err := Cached()
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Name != name && !contains(c.Aliases, name) {
			continue
		}
		_, unlock, err := lockCache(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		if c.Name == RefOwn {
			return errors.New("the own kernel is a link to a build: delete the folder " + c.Path)
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
		return nil
	}
	return fmt.Errorf("no kernel %q in the cache (hutch kernel list shows them)", name)
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
