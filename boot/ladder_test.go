package boot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hostTree builds a root folder with these kernels (path → file) for release.
func hostTree(t *testing.T, release string, kernels map[string][]byte) string {
	root := t.TempDir()
	if release != "" {
		writeFile(t, filepath.Join(root, "proc/sys/kernel/osrelease"), []byte(release+"\n"))
	}
	for path, b := range kernels {
		writeFile(t, filepath.Join(root, path), b)
	}
	return root
}

// ownKernel puts a kernel of our own into the cache, as its build does.
func ownKernel(t *testing.T, cache string) {
	dir := filepath.Join(cache, "kernels", "own")
	writeFile(t, filepath.Join(dir, "build-1", "vmlinux"), smallELF())
	writeFile(t, filepath.Join(dir, "build-1", "config"), []byte("# CONFIG_ACPI is not set\nCONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_VSOCKETS=y\n"))
	writeFile(t, filepath.Join(dir, "build-1", "release"), []byte("6.12.1-hutch\n"))
	if err := os.Symlink("build-1", filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
}

func TestResolveWalksTheLadder(t *testing.T) {
	ctx := context.Background()
	good := bzImageOf(t, "gzip", smallELF())
	bad := []byte("garbage!")
	named := writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), good)
	deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, "linux-image-6.99-test", "", "gzip", kernelTar(t)))
	for _, tt := range []struct {
		name       string
		ref, env   string
		own, fetch bool
		host       map[string][]byte
		origin     string
		path       string // suffix of Kernel.Path
	}{
		{name: "option before all", ref: named, env: "/nonexistent", own: true, origin: "option", path: named},
		{name: "environment before the cache", env: named, own: true, origin: "environment", path: named},
		{name: "own before fetched", own: true, fetch: true, origin: "cache", path: "own/current"},
		{name: "auto passes over the environment's absence", ref: "auto", own: true, origin: "cache", path: "own/current"},
		{name: "environment may say auto", env: "auto", own: true, origin: "cache", path: "own/current"},
		{name: "fetched before host", fetch: true, host: map[string][]byte{"boot/vmlinuz-6.5.0": good}, origin: "cache"},
		{name: "fetched by package", ref: "linux-image-6.99-test", own: true, fetch: true, origin: "cache"},
		{name: "fetched by alias", ref: "linux-image-cloud-amd64", own: true, fetch: true, origin: "cache"},
		{name: "fetched by release", ref: testRelease, own: true, fetch: true, origin: "cache"},
		{name: "running release in lib/modules", ref: "host", own: true, origin: "host", path: "lib/modules/6.5.0/vmlinuz",
			host: map[string][]byte{"lib/modules/6.5.0/vmlinuz": good, "boot/vmlinuz-6.5.0": bad, "boot/vmlinuz-6.12.0": good}},
		{name: "running release in boot", ref: "host", origin: "host", path: "boot/vmlinuz-6.5.0",
			host: map[string][]byte{"boot/vmlinuz-6.5.0": good, "boot/vmlinuz-6.12.0": good}},
		{name: "newest that works", origin: "host", path: "boot/vmlinuz-6.12.0",
			host: map[string][]byte{"boot/vmlinuz-6.9.0": good, "boot/vmlinuz-6.12.0": good, "lib/modules/6.13.1/vmlinuz": bad}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache := testCache(t)
			t.Setenv(EnvKernel, tt.env)
			if tt.own {
				ownKernel(t, cache)
			}
			if tt.fetch {
				k, err := importKernel(ctx, deb, "linux-image-cloud-amd64", nil)
				if err != nil {
					t.Fatal(err)
				}
				k.Close()
			}
			k, err := Resolve(ctx, ResolveOptions{Ref: tt.ref, hostRoot: hostTree(t, "6.5.0", tt.host)})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if k.Origin != tt.origin || !strings.HasSuffix(k.Path, tt.path) {
				t.Errorf("%s from %s, want %s from %s", k.Path, k.Origin, tt.path, tt.origin)
			}
		})
	}
}

func TestOwnKernelIsOneWithoutACPI(t *testing.T) {
	ownKernel(t, testCache(t))
	k, err := Resolve(context.Background(), ResolveOptions{Ref: "own"})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.Release != "6.12.1-hutch" || k.tables() != TablesMP {
		t.Errorf("release %q, tables %v", k.Release, k.tables())
	}
	if mods, err := k.Modules(DefaultModules...); err != nil || len(mods) != 0 {
		t.Errorf("modules %v, %v", mods, err)
	}
}

func TestNoKernelListsEveryStep(t *testing.T) {
	testCache(t)
	t.Setenv(EnvKernel, "")
	root := hostTree(t, "6.5.0", map[string][]byte{"boot/vmlinuz-6.5.0": []byte("garbage!")})
	k, err := Resolve(context.Background(), ResolveOptions{hostRoot: root})
	var e *NoKernelError
	if k != nil || !errors.As(err, &e) || !errors.Is(err, ErrNoKernel) {
		t.Fatalf("Resolve = %v, %v", k, err)
	}
	if !errors.Is(err, ErrTruncated) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the steps' errors are not reachable in %v", err)
	}
	for _, want := range []string{"option: ", "environment: $HUTCH_KERNEL", "cache: own kernel", "cache: fetched kernels", "host: " + root + "/lib/modules/6.5.0/vmlinuz",
		"host: " + root + "/boot/vmlinuz-6.5.0", "run: hutch kernel fetch linux-image-cloud-amd64"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestANamedKernelIsNotReplacedByAnother(t *testing.T) {
	ownKernel(t, testCache(t))
	garbage := writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), make([]byte, 4096))
	for _, tt := range []struct {
		ref  string
		kind error
		text string
	}{
		{garbage, ErrNotKernel, garbage},
		{"/no/such/vmlinuz", ErrNoKernel, "/no/such/vmlinuz"},
		{"linux-image-cloud-amd64", ErrNoKernel, "run: hutch kernel fetch linux-image-cloud-amd64"},
		{"nonsense", ErrNoKernel, "no such file, and no kernel of that name in the cache"},
		{t.TempDir(), ErrNotKernel, "the folder has no vmlinux"},
	} {
		for _, o := range []ResolveOptions{{Ref: tt.ref}, {}} {
			t.Setenv(EnvKernel, "")
			if o.Ref == "" {
				t.Setenv(EnvKernel, tt.ref)
			}
			k, err := Resolve(context.Background(), o)
			if k != nil || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Resolve(%q) = %v, %v; want %v", tt.ref, k, err, tt.kind)
			}
		}
	}
}

func TestAnUnreadableKernelTellsHowToReadIt(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads every file: run as an ordinary user")
	}
	testCache(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), []byte("x"))
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	_, err := Resolve(context.Background(), ResolveOptions{Ref: path})
	if !errors.Is(err, ErrNoKernel) || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "sudo install -m 0644 "+path) {
		t.Errorf("%v", err)
	}
}

func TestCachedListsTheLatestFirst(t *testing.T) {
	cache := testCache(t)
	for i, name := range []string{"linux-image-a", "linux-image-b"} {
		deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, name, "", "gzip", kernelTar(t)))
		k, err := Import(context.Background(), deb)
		if err != nil {
			t.Fatal(err)
		}
		k.Close()
		tag, err := readPackageTag(k.Path)
		if err != nil {
			t.Fatal(err)
		}
		tag.Added, tag.Path = time.Unix(int64(1000+i), 0).UTC(), ""
		if err := addAliases(k.Path, tag, nil); err != nil {
			t.Fatal(err)
		}
	}
	ownKernel(t, cache)
	list, err := Cached()
	if err != nil || len(list) != 3 || list[0].Name != "own" || list[0].Release != "6.12.1-hutch" || list[1].Name != "linux-image-b" || list[2].Name != "linux-image-a" {
		t.Fatalf("Cached = %+v, %v", list, err)
	}
	if err := Remove(context.Background(), "nonsense"); err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("Remove = %v", err)
	}
}

func TestRemoveLeavesOurOwnKernelToItsPackage(t *testing.T) {
	ownKernel(t, testCache(t))
	for _, name := range []string{"own", "6.12.1-hutch"} {
		if err := Remove(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "hutch kernel prune own") {
			t.Errorf("Remove(%q) = %v", name, err)
		}
	}
	if list, err := Cached(); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestAStepWithoutAnErrorHasNoReason(t *testing.T) {
	if got := (Step{Name: "cache"}).Reason(); got != "" {
		t.Errorf("%q", got)
	}
}
