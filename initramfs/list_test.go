package initramfs

import (
	"debug/elf"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// staticELF is the header of a program without segments, as far as checkAgent looks.
var staticELF = func() string {
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18] = 2, byte(map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH])
	h[20], h[52], h[54], h[58] = 1, 64, 56, 64
	return string(h)
}()

// imageCache is a cache with images, of which none is current until stamp says so.
type imageCache struct {
	*testing.T
	*builder
	agent string
}

func newImageCache(t *testing.T) *imageCache {
	t.Helper()
	t.Setenv(cachedir.Env, t.TempDir())
	root, err := cachedir.Dir(cacheName)
	if err != nil {
		t.Fatal(err)
	}
	c := &imageCache{t, &builder{root: root}, filepath.Join(t.TempDir(), "agent")}
	c.opts.AgentPath = c.agent
	c.write(c.agent, staticELF+"agent 1")
	if c.recipe, err = recipeFiles(); err != nil {
		t.Fatal(err)
	}
	c.goTool, _ = findGo("")
	c.check()
	day := time.Now().Add(-24 * time.Hour)
	for i, name := range []string{"new", "old", "oldest", "damaged"} {
		info, err := json.Marshal(Image{SHA256: "sum of " + name, Size: 4})
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(root, "images", name)
		c.write(filepath.Join(dir, infoName), string(info))
		c.write(filepath.Join(dir, imageName), map[bool]string{false: "cpio", true: "x"}[name == "damaged"])
		used := day.Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(dir, used, used); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *imageCache) write(path, text string) {
	c.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.Fatal(err)
	}
}

// stamp makes the image up to date for the agent as it is.
func (c *imageCache) stamp(image string) {
	c.Helper()
	sum, err := hashFile(c.agent)
	if err != nil {
		c.Fatal(err)
	}
	if err := writeStamp(c.stampPath(c.goTool), stamp{Image: image, Fingerprint: sum}); err != nil {
		c.Fatal(err)
	}
}

// check compares what Cached lists.
func (c *imageCache) check(want ...string) {
	c.Helper()
	images, err := Cached(c.Context(), c.opts)
	if err != nil {
		c.Fatal(err)
	}
	var got []string
	for _, img := range images {
		name := filepath.Base(filepath.Dir(img.Path))
		if img.Size != 4 || img.SHA256 != "sum of "+name || time.Since(img.Built) > time.Hour {
			c.Errorf("%+v", img)
		}
		if img.Current {
			name += " current"
		}
		got = append(got, name)
	}
	if !slices.Equal(got, want) {
		c.Fatalf("%q, want %q", got, want)
	}
}

func TestCachedListsTheCurrentImageFirstAndUsesNone(t *testing.T) {
	c := newImageCache(t)
	c.check("new", "old", "oldest")
	c.stamp("old")
	c.check("old current", "new", "oldest")
	c.check("old current", "new", "oldest") // listing is no use
	c.write(c.agent, staticELF+"agent 2, which no image has")
	c.check("new", "old", "oldest")
	c.write(c.agent, "no program: Base fails")
	c.stamp("old")
	c.check("new", "old", "oldest")
}

func TestCurrentIsNoUseAndBaseIsOne(t *testing.T) {
	c := newImageCache(t)
	c.stamp("old")
	used := func() time.Time {
		info, err := os.Stat(filepath.Join(c.root, "images", "old"))
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	before := used()
	if img, _, err := Current(t.Context(), c.opts); err != nil || img == nil || filepath.Base(filepath.Dir(img.Path)) != "old" || !used().Equal(before) {
		t.Fatalf("Current = %+v, %v; used at %v, before at %v", img, err, used(), before)
	}
	if img, err := Base(t.Context(), c.opts); err != nil || filepath.Base(filepath.Dir(img.Path)) != "old" || !used().After(before) {
		t.Fatalf("Base = %+v, %v; used at %v, before at %v", img, err, used(), before)
	}
}
