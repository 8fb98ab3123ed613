package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kernelTar is the data of a linux-image package with a few modules.
func kernelTar(t testing.TB, extra ...tarFile) []byte {
	mod := func(path, modinfo string) tarFile {
		return tarFile{name: "./lib/modules/" + testRelease + "/kernel/" + path, data: testModule(modinfo)}
	}
	files := []tarFile{
		{name: "./boot/vmlinuz-" + testRelease, data: bzImageOf(t, "gzip", smallELF())},
		{name: "./boot/config-" + testRelease, data: []byte("CONFIG_ACPI=y\nCONFIG_VIRTIO_MMIO=m\n")},
		{name: "./boot/System.map-" + testRelease, data: []byte("not needed")},
		{name: "./usr/share/doc/x", data: []byte("not needed")},
		{name: "./lib/modules/" + testRelease + "/kernel/firmware.bin", data: []byte("not needed")},
		{name: "./lib/modules/" + testRelease + "/kernel/modules.more", data: []byte("not needed")},
		{name: "./lib/modules/" + testRelease + "/build", link: "/usr/src/elsewhere"},
		{name: "./lib/modules/" + testRelease + "/modules.builtin", data: []byte("kernel/drivers/virtio/virtio.ko\n")},
		mod("drivers/virtio/virtio_mmio.ko", "name=virtio_mmio\x00depends=virtio,virtio_ring\x00"),
		mod("drivers/virtio/virtio_ring.ko", "name=virtio_ring\x00depends=\x00"),
	}
	return testTar(append(files, extra...)...)
}

func TestDebIsUnpackedOnce(t *testing.T) {
	for _, method := range []string{"gzip", "xz", "zstd", ""} {
		t.Run("packed with "+method, func(t *testing.T) {
			cache := testCache(t)
			deb := writeFile(t, filepath.Join(t.TempDir(), "linux.deb"), testDeb(t, "linux-image-test", "", method, kernelTar(t)))
			var said []string
			say := func(s string) { said = append(said, s) }
			k, err := open(context.Background(), deb, say)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if k.Release != testRelease || k.Path != deb || len(said) != 2 {
				t.Errorf("release %q, path %q, said %q", k.Release, k.Path, said)
			}
			if v, known := k.Config("VIRTIO_MMIO"); v != "m" || !known {
				t.Errorf("Config = %q, %v", v, known)
			}
			mods, err := k.Modules("virtio-mmio")
			if err != nil || names(mods) != "virtio_ring virtio_mmio" {
				t.Errorf("modules %q, %v", names(mods), err)
			}
			again, err := open(context.Background(), deb, say)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if len(said) != 2 || again.Image != k.Image {
				t.Errorf("the second time it said %q", said[2:])
			}
			list, err := Cached()
			if err != nil || len(list) != 1 || list[0].Name != "linux-image-test" || list[0].Version != "6.99-1" || list[0].Release != testRelease {
				t.Fatalf("Cached = %+v, %v", list, err)
			}
			for _, unwanted := range []string{"boot/System.map-" + testRelease, "share", "usr", "lib/modules/" + testRelease + "/build",
				"lib/modules/" + testRelease + "/kernel/firmware.bin", "lib/modules/" + testRelease + "/kernel/modules.more"} {
				if exists(filepath.Join(list[0].Path, unwanted)) {
					t.Errorf("%s was unpacked", unwanted)
				}
			}
			if err := Remove(context.Background(), "linux-image-test"); err != nil {
				t.Fatal(err)
			}
			if list, err := Cached(); len(list) != 0 || err != nil || exists(k.Image) {
				t.Errorf("after Remove: %v, %v, image there: %v", list, err, exists(k.Image))
			}
			if l := leftovers(t, cache); len(l) != 0 {
				t.Errorf("left behind: %v", l)
			}
		})
	}
}

func TestOnlyModulesThatHutchLoadsAreUnpacked(t *testing.T) {
	testCache(t)
	tree := "./lib/modules/" + testRelease + "/kernel/"
	files := kernelTar(t,
		tarFile{name: tree + "net/vmw_vsock/vmw_vsock_virtio_transport.ko", data: testModule("name=vmw_vsock_virtio_transport\x00depends=odd-base\x00softdep=pre: odd_soft odd_none post: odd_post\x00")},
		tarFile{name: tree + "aa/odd-base.ko", data: testModule("name=odd_base\x00depends=odd_deep\x00")}, // before and behind what needs it
		tarFile{name: tree + "zz/odd_deep.ko", data: testModule("name=odd_deep\x00depends=\x00")},
		tarFile{name: tree + "zz/odd_soft.ko", data: testModule("name=odd_soft\x00depends=\x00")},
		tarFile{name: tree + "zz/odd_post.ko", data: testModule("name=odd_post\x00depends=\x00")},
		tarFile{name: tree + "drivers/sound.ko", data: testModule("name=sound\x00depends=\x00")},
		tarFile{name: tree + "fs/overlay.ko", data: []byte("no module")},
	)
	k, err := Open(context.Background(), writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, "linux-image-test", "", "zstd", files)))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	mods, err := k.Modules(DefaultModules...)
	if err != nil || names(mods) != "virtio_ring virtio_mmio odd_soft odd_deep odd_base vmw_vsock_virtio_transport" {
		t.Errorf("modules %q, %v", names(mods), err)
	}
	for _, name := range []string{"sound", "odd_post"} {
		if _, err := k.Modules(name); !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "dpkg-deb -x") {
			t.Errorf("%s: %v; want ErrNoModule that says how to get it", name, err)
		}
	}
	if _, err := k.Modules("none"); !errors.Is(err, ErrNoModule) || strings.Contains(err.Error(), "dpkg-deb") {
		t.Errorf("none: %v", err)
	}
}

func TestImportsAtOnceShareOneEntry(t *testing.T) {
	cache := testCache(t)
	deb := writeFile(t, filepath.Join(t.TempDir(), "linux.deb"), testDeb(t, "linux-image-test", "", "gzip", kernelTar(t)))
	errs := make(chan error)
	const n = 8
	for i := 0; i < n; i++ {
		go func() {
			k, err := importKernel(context.Background(), deb, fmt.Sprintf("alias-%d", i), nil)
			if err == nil {
				err = k.Close()
			}
			errs <- err
		}()
	}
	for i := 0; i < n; i++ {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	list, err := Cached()
	if err != nil || len(list) != 1 || len(list[0].Aliases) != n {
		t.Fatalf("Cached = %+v, %v; want one entry with %d aliases", list, err, n)
	}
	if l := leftovers(t, cache); len(l) != 0 {
		t.Errorf("left behind: %v", l)
	}
}

func TestBadDebsGiveTypedErrors(t *testing.T) {
	good := testDeb(t, "linux-image-test", "", "gzip", kernelTar(t))
	edit := func(off int, v string) []byte {
		b := append([]byte(nil), good...)
		copy(b[off:], v)
		return b
	}
	huge := fmt.Sprintf("%-10d", int64(9999999999))
	meta := testDeb(t, "linux-image-meta", "linux-image-6.99-real (= 6.99-1), other", "gzip", testTar(tarFile{name: "./usr/share/doc/x", data: []byte("x")}))
	for _, tt := range []struct {
		name string
		file []byte
		kind error
		text string
	}{
		{"truncated", good[:len(good)-100], ErrTruncated, "data.tar.gz ends at"},
		{"magic only", good[:8], ErrCorrupt, "control.tar"},
		{"half a header", good[:30], ErrTruncated, "member header"},
		{"absurd size", edit(8+48, huge), ErrTruncated, "debian-binary ends"},
		{"negative size", edit(8+48, "-5        "), ErrCorrupt, "member size"},
		{"no header end", edit(8+58, "xx"), ErrCorrupt, "78 78"},
		{"flipped data", edit(len(good)-300, "\xff\xff\xff\xff\xff\xff"), ErrCorrupt, "data.tar.gz"},
		{"no kernel inside", meta, ErrNotKernel, "linux-image-6.99-real"},
		{"bad kernel inside", testDeb(t, "linux-image-test", "", "gzip", testTar(tarFile{name: "./boot/vmlinuz-1", data: []byte("garbage!")})), ErrTruncated, "vmlinuz-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache := testCache(t)
			deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), tt.file)
			k, err := Open(context.Background(), deb)
			if k != nil || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("Open = %v, %v; want %v with %q", k, err, tt.kind, tt.text)
			}
			if l := leftovers(t, cache); len(l) != 0 {
				t.Errorf("left behind: %v", l)
			}
		})
	}
}

func TestDebCannotWriteOutside(t *testing.T) {
	testCache(t)
	outside := filepath.Join(t.TempDir(), "target")
	evil := kernelTar(t,
		tarFile{name: "./lib/modules/../../../../../../../../" + outside, data: []byte("x")},
		tarFile{name: "./lib/modules/link", link: filepath.Dir(outside)},
		tarFile{name: "./lib/modules/link/target", data: []byte("x")},
		tarFile{name: outside, data: []byte("x")},
	)
	deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, "linux-image-evil", "", "gzip", evil))
	k, err := Open(context.Background(), deb)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if exists(outside) {
		t.Fatal("the package wrote outside the cache")
	}
}

func TestOpenHonoursTheContext(t *testing.T) {
	testCache(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, "linux-image-test", "", "gzip", kernelTar(t)))
	if k, err := Open(ctx, deb); k != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("Open = %v, %v", k, err)
	}
}

func names(mods []Module) string {
	var out []string
	for _, m := range mods {
		out = append(out, m.Name)
	}
	return strings.Join(out, " ")
}

// FuzzDeb: no input panics or writes anything outside the folder.
func FuzzDeb(f *testing.F) {
	f.Add(testDeb(f, "linux-image-test", "a", "gzip", testTar(tarFile{name: "./boot/vmlinuz-1", data: []byte("k")})))
	f.Add(testDeb(f, "linux-image-test", "a", "zstd", testTar(tarFile{name: "./lib/modules/1/kernel/a.ko", data: []byte("k")})))
	f.Add(testDeb(f, "linux-image-test", "a", "", testTar(tarFile{name: "../../boot/vmlinuz-1", data: []byte("k")}, tarFile{name: "boot", link: "/tmp"})))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, _ = debControl("f", r, int64(len(b)))
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, _ = unpackDeb(context.Background(), root, "f", r, int64(len(b)))
		if e, err := os.ReadDir(parent); err != nil || len(e) != 1 {
			t.Fatalf("outside: %v, %v", e, err)
		}
	})
}

// Names of a package are printed, kept in memory and taken by Resolve.
func TestNamesOfAPackageArePlain(t *testing.T) {
	cache := testCache(t)
	for _, name := range []string{"own", "host", "auto", "a\x1b[2Jb", "../x", "a b", ""} {
		deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, name, "", "gzip", kernelTar(t)))
		if k, err := Import(context.Background(), deb); !errors.Is(err, ErrCorrupt) || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("the package %q: %v, %v; want ErrCorrupt in plain words", name, k, err)
		}
	}
	if list, err := Cached(); len(list) != 0 || err != nil {
		t.Errorf("Cached = %v, %v", list, err)
	}
	if l := leftovers(t, cache); len(l) != 0 {
		t.Errorf("left behind: %v", l)
	}
	tree := "./lib/modules/" + testRelease + "/"
	deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, "linux-image-test", "", "gzip", kernelTar(t,
		tarFile{name: "./boot/vmlinuz-\x1b[2J", data: []byte("x")}, tarFile{name: tree + "a\nb.ko", data: []byte("x")}, tarFile{name: tree + strings.Repeat("x", 600) + ".ko", data: []byte("x")})))
	k, err := Import(context.Background(), deb)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if list, err := os.ReadFile(filepath.Join(k.Path, "lib/modules", testRelease, moduleList)); err != nil || string(list) != "kernel/drivers/virtio/virtio_mmio.ko\nkernel/drivers/virtio/virtio_ring.ko" {
		t.Errorf("modules %.200q, %v", list, err)
	}
	whole, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Replace(whole, []byte("data.tar.gz     "), []byte("data.tar.\x1b[2J   "), 1)
	if _, err := Import(context.Background(), writeFile(t, filepath.Join(t.TempDir(), "y.deb"), bad)); !errors.Is(err, ErrCorrupt) || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("a member's name: %v", err)
	}
}
