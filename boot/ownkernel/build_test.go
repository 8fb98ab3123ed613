package ownkernel

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/boot/debpkg"
	"github.com/hutchvm/hutch/internal/cachedir"
)

func TestVerifyNamesEveryOptionThatDidNotEndUpAsRequested(t *testing.T) {
	fragment := "# about this\nCONFIG_A=y\nCONFIG_TEXT=\"x y\"\nCONFIG_N=64\n# CONFIG_OFF is not set\n# CONFIG_ABSENT is not set\n# CONFIG_ON is not set\nCONFIG_GONE=y\nCONFIG_OTHER=3\n"
	config := "CONFIG_A=y\nCONFIG_TEXT=\"x y\"\nCONFIG_N=64\n# CONFIG_OFF is not set\nCONFIG_ON=y\nCONFIG_OTHER=4\n"
	var bad *ConfigError
	err := verify([]byte(fragment), []byte(config))
	if !errors.As(err, &bad) {
		t.Fatalf("err = %v, want a ConfigError", err)
	}
	if want := []string{"# CONFIG_ON is not set", "CONFIG_GONE=y", "CONFIG_OTHER=3"}; !slices.Equal(bad.Missing, want) {
		t.Errorf("missing = %q, want %q", bad.Missing, want)
	}
	if err := verify([]byte("CONFIG_A=y\n"), []byte(config)); err != nil {
		t.Errorf("err = %v, want none", err)
	}
}

func TestFragmentHasNoDuplicatesAndWhatHutchNeeds(t *testing.T) {
	data, err := Fragment()
	if runtime.GOARCH != "amd64" {
		if !errors.Is(err, ErrUnsupported) {
			t.Fatalf("err = %v, want ErrUnsupported", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		name := strings.TrimSuffix(strings.TrimPrefix(line, "# "), " is not set")
		name, _, _ = strings.Cut(name, "=")
		if !strings.HasPrefix(name, "CONFIG_") {
			continue
		}
		if seen[name] {
			t.Errorf("%s is given twice", name)
		}
		seen[name] = true
	}
	for _, need := range []string{"PVH", "KVM_GUEST", "VIRTIO_MMIO_CMDLINE_DEVICES", "VIRTIO_VSOCKETS", "DEVTMPFS", "UNIX98_PTYS", "SERIAL_8250_CONSOLE",
		"CGROUP_PIDS", "MEMCG", "USER_NS", "VIRTIO_FS", "EROFS_FS", "OVERLAY_FS", "VIRTIO_BLK", "HW_RANDOM_VIRTIO", "IKCONFIG"} {
		if !strings.Contains(string(data), "\nCONFIG_"+need+"=y\n") {
			t.Errorf("CONFIG_%s is not requested", need)
		}
	}
	for _, off := range []string{"PCI", "ACPI", "MODULES", "LEGACY_PTYS", "DEVMEM"} {
		if !strings.Contains(string(data), "\n# CONFIG_"+off+" is not set\n") {
			t.Errorf("CONFIG_%s is not turned off", off)
		}
	}
}

// sourceTar is an archive with a top folder, as the package has it.
func sourceTar(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		body := []byte("content of " + h.Name)
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag != tar.TypeReg {
			body = nil
		}
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestUnpackTarTakesWhatTheBuildNeeds(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the list of folders is written for amd64")
	}
	data := sourceTar(t,
		tar.Header{Name: "linux/", Typeflag: tar.TypeDir}, tar.Header{Name: "linux/Makefile"}, tar.Header{Name: "linux/scripts/run.sh", Mode: 0o755},
		tar.Header{Name: "linux/sound/core.c"}, tar.Header{Name: "linux/sound/Kconfig"}, tar.Header{Name: "linux/arch/Kconfig"},
		tar.Header{Name: "linux/arch/x86/boot/a.S"}, tar.Header{Name: "linux/arch/arm/a.S"}, tar.Header{Name: "linux/arch/arm/crypto/Kconfig"}, tar.Header{Name: "linux/arch/um/scripts/Makefile.rules"}, tar.Header{Name: "linux/Documentation/big.rst"},
		tar.Header{Name: "linux/link", Typeflag: tar.TypeSymlink, Linkname: "Makefile"})
	dir := t.TempDir()
	if err := unpackTar(t.Context(), bytes.NewReader(data), dir); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			got = append(got, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Makefile", "arch/Kconfig", "arch/arm/crypto/Kconfig", "arch/um/scripts/Makefile.rules", "arch/x86/boot/a.S", "link", "scripts/run.sh", "sound/Kconfig"}
	if !slices.Equal(got, want) {
		t.Errorf("unpacked %q, want %q", got, want)
	}
	if info, err := os.Stat(filepath.Join(dir, "scripts/run.sh")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("script = %v, %v; want mode 0755", info, err)
	}
}

func TestUnpackTarStaysInsideItsFolder(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for name, entries := range map[string][]tar.Header{
		"parent":       {{Name: "linux/Makefile"}, {Name: "linux/../../outside"}},
		"through link": {{Name: "linux/Makefile"}, {Name: "linux/out", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)}, {Name: "linux/out/outside"}},
	} {
		err := unpackTar(t.Context(), bytes.NewReader(sourceTar(t, entries...)), t.TempDir())
		if _, statErr := os.Stat(outside); !errors.Is(statErr, os.ErrNotExist) {
			t.Errorf("%s: a file was written outside", name)
		}
		if name == "through link" && err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUnpackTarRejectsOtherArchives(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty":       sourceTar(t),
		"no makefile": sourceTar(t, tar.Header{Name: "linux/README"}),
		"garbage":     bytes.Repeat([]byte("garbage"), 200),
	} {
		if err := unpackTar(t.Context(), bytes.NewReader(data), t.TempDir()); !errors.Is(err, ErrSource) {
			t.Errorf("%s: err = %v, want ErrSource", name, err)
		}
	}
}

func TestCleanEnvDropsWhatChangesTheResult(t *testing.T) {
	got := cleanEnv([]string{"PATH=/bin", "MAKEFLAGS=-k", "ARCH=arm", "KBUILD_OUTPUT=/x", "KCFLAGS=-g", "HOME=/h", "LC_ALL=de_DE"})
	if want := []string{"PATH=/bin", "HOME=/h", "LC_ALL=C", "TZ=UTC"}; !slices.Equal(got, want) {
		t.Errorf("env = %q, want %q", got, want)
	}
}

func TestRelocatedLibcScriptNamesTheStaticPartInTheTree(t *testing.T) {
	tree := &debpkg.Tree{Root: t.TempDir()}
	dir := tree.Path("usr", "lib", "x86_64-linux-gnu")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "/* GNU ld script */\nGROUP ( /lib/x86_64-linux-gnu/libc.so.6 /usr/lib/x86_64-linux-gnu/libc_nonshared.a  AS_NEEDED ( /lib64/ld-linux-x86-64.so.2 ) )\n"
	if err := os.WriteFile(filepath.Join(dir, "libc.so"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	libs := t.TempDir()
	if err := relocateLibc(tree, dir, libs); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(libs, "libc.so"))
	want := "/* GNU ld script */ GROUP ( /lib/x86_64-linux-gnu/libc.so.6 " + dir + "/libc_nonshared.a AS_NEEDED ( /lib64/ld-linux-x86-64.so.2 ) )\n"
	if err != nil || string(got) != want {
		t.Errorf("script = %q, %v; want %q", got, err, want)
	}
}

// fakeKernel puts a finished kernel with the given options hash into the cache.
func fakeKernel(t *testing.T, root, name, options string) {
	t.Helper()
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string]string{"vmlinux": "x", "config": "", "release": "6.12.0-" + name + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeInfo(dir, info{Options: options}); err != nil {
		t.Fatal(err)
	}
}

func TestCurrentKernelIsReturnedWhenItsOptionsAreTheseAndWithoutNetwork(t *testing.T) {
	fragment, err := Fragment()
	if err != nil {
		t.Skip(err)
	}
	t.Setenv(cachedir.Env, t.TempDir())
	t.Setenv("PATH", t.TempDir()) // no apt, no compiler: a real build fails
	root, err := cachedir.Dir("kernels", "own")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Current(); !errors.Is(err, ErrNotBuilt) {
		t.Fatalf("Current of an empty cache: %v, want ErrNotBuilt", err)
	}
	b := &build{root: root}
	fakeKernel(t, root, "old", "other options")
	fakeKernel(t, root, "new", hash(builderVersion, runtime.GOARCH, string(fragment)))
	if err := b.point(filepath.Join(root, "old")); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), Options{}); !errors.Is(err, debpkg.ErrNoPackageClient) {
		t.Errorf("Build with outdated options: %v, want an attempt to fetch the source", err)
	}
	if err := b.point(filepath.Join(root, "new")); err != nil {
		t.Fatal(err)
	}
	r, err := Build(t.Context(), Options{})
	if err != nil || r.Release != "6.12.0-new" || !r.Cached || r.Key != "new" {
		t.Errorf("Build = %+v, %v; want the kernel in the cache", r, err)
	}
	if c, err := Current(); err != nil || *c != *r {
		t.Errorf("Current = %+v, %v; want %+v", c, err, r)
	}
}

func TestRemoveDeletesEveryBuild(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HUTCH_CACHE", cache)
	if err := Remove(t.Context()); !errors.Is(err, ErrNotBuilt) {
		t.Fatalf("Remove of nothing = %v, want ErrNotBuilt", err)
	}
	root := filepath.Join(cache, "kernels", "own")
	for _, dir := range []string{"one", "two"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"vmlinux", "config", "release"} {
			if err := os.WriteFile(filepath.Join(root, dir, name), []byte("6.99\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink("two", filepath.Join(root, currentLink)); err != nil {
		t.Fatal(err)
	}
	if _, err := Current(); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 1 || entries[0].Name() != "lock" {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := Current(); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Current = %v, want ErrNotBuilt", err)
	}
}

func TestFailedBuildLeavesNothingBehind(t *testing.T) {
	if _, err := Fragment(); err != nil {
		t.Skip(err)
	}
	t.Setenv(cachedir.Env, t.TempDir())
	root, err := cachedir.Dir("kernels", "own")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "tmp-killed"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Build(ctx, Options{Source: "/nonexistent.deb", Progress: func(string) { cancel() }})
	if err == nil {
		t.Fatal("no error")
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			t.Errorf("left %s", e.Name())
		}
	}
}

func TestFoldersThatKernelMakefilesCannotHandleAreRejected(t *testing.T) {
	if _, err := Fragment(); err != nil {
		t.Skip(err)
	}
	t.Setenv(cachedir.Env, filepath.Join(t.TempDir(), "with space"))
	if _, err := Build(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), cachedir.Env) {
		t.Errorf("err = %v, want one that names %s", err, cachedir.Env)
	}
}

// TestBuildRealKernel takes minutes. It shares the user's cache, where the source package is.
func TestBuildRealKernel(t *testing.T) {
	if os.Getenv("HUTCH_TEST_KERNEL_BUILD") != "1" {
		t.Skip("builds a kernel for minutes: set HUTCH_TEST_KERNEL_BUILD=1")
	}
	r, err := Build(t.Context(), Options{Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(r.Vmlinux)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 || f.Section(".symtab") != nil {
		t.Errorf("machine %v, symbol table %v; want a stripped x86-64 image", f.Machine, f.Section(".symtab"))
	}
	if !strings.HasPrefix(r.Release, "6.12.") || !strings.HasSuffix(r.Release, "-hutch") {
		t.Errorf("release %q, want 6.12.*-hutch", r.Release)
	}
}

func TestLinksToLibrariesOfTheSystemAreCompleted(t *testing.T) {
	system, err := filepath.Glob("/usr/lib/*-linux-*/libc.so.6")
	if err != nil || len(system) == 0 {
		t.Skip("no multiarch C library: the layout of Debian is needed")
	}
	tree := &debpkg.Tree{Root: t.TempDir()}
	dir := tree.Path(filepath.Dir(system[0]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"libhere.so": "libhere.so.1", "libsystem.so": "libc.so.6", "libnowhere.so": "libnowhere.so.9"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "libhere.so.1"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	libs := t.TempDir()
	for range 2 { // a second folder may bring the same link
		if err := completeLinks(tree, dir, libs); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(libs)
	if err != nil || len(entries) != 1 || entries[0].Name() != "libsystem.so" {
		t.Fatalf("links %v, %v; want libsystem.so only", entries, err)
	}
	if target, err := os.Readlink(filepath.Join(libs, "libsystem.so")); err != nil || target != system[0] {
		t.Errorf("link leads to %q, %v; want %q", target, err, system[0])
	}
}
