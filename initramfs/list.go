package initramfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// CachedImage is one image in the cache.
type CachedImage struct {
	Image
	Built time.Time // when it was made
	Used  time.Time // when Base last returned it
	// Current says that Base, called with the same options, returns this image without building anything. At most one image is current.
	Current bool
}

// Cached lists the images in the cache: the current one first, then the latest used. opts say for which call of Base an image is current;
// the zero value is the usual. No images is no error. Nothing is built, and listing is no use that keeps an image from being deleted.
//
// Errors: those of the file system, ctx.Err wrapped.
func Cached(ctx context.Context, opts Options) ([]CachedImage, error) {
	root, err := cachedir.Dir(cacheName)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	_, current, err := prepare(ctx, opts)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("initramfs: %w", ctx.Err())
	}
	if err != nil {
		current = "" // Base would fail, and says why
	}
	b := &builder{root: root}
	entries, err := os.ReadDir(filepath.Join(root, "images"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	var out []CachedImage
	for _, e := range entries {
		img := b.peek(e.Name())
		if img == nil {
			continue // being deleted, or damaged: Base would build it again
		}
		c := CachedImage{Image: *img, Current: e.Name() == current}
		if info, err := os.Stat(img.Path); err == nil {
			c.Built = info.ModTime()
		}
		if info, err := e.Info(); err == nil {
			c.Used = info.ModTime()
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(x, y CachedImage) int {
		if x.Current != y.Current {
			if x.Current {
				return -1
			}
			return 1
		}
		if n := y.Used.Compare(x.Used); n != 0 {
			return n
		}
		return strings.Compare(x.Path, y.Path)
	})
	return out, nil
}
