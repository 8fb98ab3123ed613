package initramfs

import (
	"debug/elf"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
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

func TestCachedListsTheCurrentImageFirstAndUsesNone(t *testing.T) {
	root := t.TempDir()
	t.Setenv(cachedir.Env, root)
	agent := filepath.Join(t.TempDir(), "agent")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(agent, staticELF+"agent 1")
	opts := Options{AgentPath: agent}
	list := func() []string {
		t.Helper()
		images, err := Cached(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, img := range images {
			name := filepath.Base(filepath.Dir(img.Path))
			if img.Current {
				name += " current"
			}
			if img.Size != 4 || img.SHA256 != "sum of "+filepath.Base(filepath.Dir(img.Path)) || time.Since(img.Built) > time.Hour {
				t.Errorf("%+v", img)
			}
			out = append(out, name)
		}
		return out
	}
	check := func(want ...string) {
		t.Helper()
		got := list()
		if len(got) != len(want) {
			t.Fatalf("%q, want %q", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%q, want %q", got, want)
			}
		}
	}
	check()

	b := &builder{root: filepath.Join(root, cacheName), opts: opts}
	var err error
	if b.recipe, err = recipeFiles(); err != nil {
		t.Fatal(err)
	}
	b.goTool, _ = findGo("")
	day := time.Now().Add(-24 * time.Hour)
	for i, name := range []string{"new", "old", "oldest", "damaged"} {
		info, err := json.Marshal(Image{SHA256: "sum of " + name, Size: 4})
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(b.root, "images", name)
		write(filepath.Join(dir, infoName), string(info))
		write(filepath.Join(dir, imageName), map[bool]string{false: "cpio", true: "x"}[name == "damaged"])
		used := day.Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(dir, used, used); err != nil {
			t.Fatal(err)
		}
	}
	check("new", "old", "oldest")
	sum, err := hashFile(agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeStamp(b.stampPath(b.goTool), stamp{Image: "old", Fingerprint: sum}); err != nil {
		t.Fatal(err)
	}
	check("old current", "new", "oldest")
	check("old current", "new", "oldest") // listing is no use
	if img, _, err := Current(t.Context(), opts); err != nil || img == nil || filepath.Base(filepath.Dir(img.Path)) != "old" {
		t.Fatalf("Current = %+v, %v", img, err)
	}
	used := func() time.Time {
		info, err := os.Stat(filepath.Join(b.root, "images", "old"))
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	if time.Since(used()) < time.Hour {
		t.Error("Current counts as a use")
	}
	if img, err := Base(t.Context(), opts); err != nil || filepath.Base(filepath.Dir(img.Path)) != "old" || time.Since(used()) > time.Hour {
		t.Fatalf("Base = %+v, %v; used at %v", img, err, used())
	}
	write(agent, staticELF+"agent 2, which no image has")
	check("old", "new", "oldest")
	write(agent, "no program: Base fails")
	sum, err = hashFile(agent)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeStamp(b.stampPath(b.goTool), stamp{Image: "old", Fingerprint: sum}); err != nil {
		t.Fatal(err)
	}
	check("old", "new", "oldest")
}
