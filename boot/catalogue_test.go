package boot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/hutchvm/hutch/internal/errdoc"
)

// rootOnly makes every file under a boot folder one that this user may not read, as on some distributions.
func rootOnly(t *testing.T) {
	t.Helper()
	openFile = func(path string) (*os.File, error) {
		if filepath.Base(filepath.Dir(path)) == "boot" {
			return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.EACCES}
		}
		return os.Open(path)
	}
	t.Cleanup(func() { openFile = os.Open })
}

func TestTheCatalogueHasWhatResolveSays(t *testing.T) {
	testCache(t)
	t.Setenv(EnvKernel, "")
	ctx := context.Background()
	messages := map[string]string{}
	root := hostTree(t, "6.5.0", map[string][]byte{"boot/vmlinuz-6.5.0": smallELF()})
	if err := os.Chmod(filepath.Join(root, "boot/vmlinuz-6.5.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := writeFile(t, filepath.Join(root, "home/vmlinuz"), make([]byte, 4096))
	empty := hostTree(t, "6.5.0", nil)
	rootOnly(t)
	for _, c := range []struct {
		name, ref, root string
		is              []error
	}{
		{"no-kernel", "", empty, []error{ErrNoKernel, fs.ErrNotExist}},
		{"kernel-unreadable", "", root, []error{ErrNoKernel, ErrUnreadable, fs.ErrPermission}},
		{"named-kernel-unreadable", filepath.Join(root, "boot/vmlinuz-6.5.0"), "", []error{ErrNoKernel, ErrUnreadable, fs.ErrPermission}},
		{"named-kernel-missing", filepath.Join(root, "home/bzImage"), "", []error{ErrNoKernel, fs.ErrNotExist}},
		{"package-not-fetched", "linux-image-cloud-amd64", "", []error{ErrNoKernel}},
		{"kernel-name-unknown", "mykernel", "", []error{ErrNoKernel}},
		{"own-not-built", "own", "", []error{ErrNoKernel}},
		{"host-kernel-missing", "host", empty, []error{ErrNoKernel, fs.ErrNotExist}},
		{"not-a-kernel", bad, "", []error{ErrNotKernel}},
	} {
		k, err := Resolve(ctx, ResolveOptions{Ref: c.ref, hostRoot: c.root})
		if k != nil || err == nil {
			t.Fatalf("%s: %v, %v", c.name, k, err)
		}
		for _, is := range c.is {
			if !errors.Is(err, is) {
				t.Errorf("%s: %v is no %v", c.name, err, is)
			}
		}
		messages[c.name] = strings.NewReplacer(root+"/home", "/home/me", root, "", empty, "").Replace(err.Error())
	}
	messages["kernel-feature"] = featureless(t, "CONFIG_BLK_DEV_INITRD=y\nCONFIG_BINFMT_ELF=y\nCONFIG_FUTEX=y\nCONFIG_EPOLL=y\nCONFIG_VIRTIO_MMIO=m\nCONFIG_ACPI=y\n")
	_, err := moduleKernel(fstest.MapFS{}, "CONFIG_VIRTIO_MMIO=m\n").Modules("virtio_mmio")
	messages["kernel-module"] = err.Error()
	messages["kernel-arch"] = (&ArchError{File: "/home/me/vmlinux", Arch: "arm64", Want: "amd64"}).Error()
	messages["kernel-memory"] = (&MemoryError{What: "the kernel", Have: 64 << 20, Need: 96 << 20}).Error()
	errdoc.Compare(t, "boot", messages)
}

// featureless returns what CheckFeatures says of a kernel in /boot with this configuration beside it.
func featureless(t *testing.T, config string) string {
	t.Helper()
	path := writeFile(t, filepath.Join(t.TempDir(), "boot/config-"+testRelease), []byte(config))
	k := &Kernel{Path: "/boot/vmlinuz-" + testRelease, Release: testRelease, configFile: path}
	err := k.CheckFeatures()
	var fe *FeatureError
	if !errors.As(err, &fe) || !errors.Is(err, ErrNoFeature) {
		t.Fatalf("%v, want a *FeatureError", err)
	}
	return strings.ReplaceAll(err.Error(), filepath.Dir(filepath.Dir(path)), "")
}

func TestCheckFeaturesNamesEachOptionThatIsMissing(t *testing.T) {
	const all = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_BINFMT_ELF=y\nCONFIG_FUTEX=y\nCONFIG_EPOLL=y\nCONFIG_VIRTIO_MMIO=m\nCONFIG_VIRTIO_VSOCKETS=m\n"
	for _, c := range []struct{ config, missing string }{
		{all + "CONFIG_ACPI=y\n", ""},
		{all + "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n", ""},
		{all, "CONFIG_ACPI and CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"},
		{strings.Replace(all, "CONFIG_EPOLL=y", "# CONFIG_EPOLL is not set", 1) + "CONFIG_ACPI=y\n", "CONFIG_EPOLL"},
		{strings.Replace(all, "CONFIG_BINFMT_ELF=y\n", "", 1) + "CONFIG_ACPI=y\n", "CONFIG_BINFMT_ELF"},
		{"", ""}, // not known: the boot will tell
	} {
		err := moduleKernel(nil, c.config).CheckFeatures()
		var fe *FeatureError
		got := ""
		if errors.As(err, &fe) {
			got = fe.Option
		}
		if got != c.missing || (err == nil) != (got == "") {
			t.Errorf("%q: %v, want %q", c.config, err, c.missing)
		}
	}
}

func TestAFeatureIsLookedUpInTheKernelsOwnCopyOfItsConfiguration(t *testing.T) {
	image := "IKCFG_ST" + string(packed(t, "gzip", []byte("CONFIG_ACPI=y\n"))) + "IKCFG_ED"
	k := &Kernel{Path: "/x/vmlinux", image: strings.NewReader(image), size: int64(len(image))}
	const want = "kernel /x/vmlinux: CONFIG_FUTEX not set, says the copy in the kernel (CONFIG_IKCONFIG): a guest needs it for its agent: use a kernel that has it: hutch kernel fetch linux-image-cloud-amd64"
	if err := k.CheckFeatures(); err == nil || !strings.Contains(err.Error()+"\n", want+"\n") {
		t.Errorf("%v\nwant a line %s", err, want)
	}
}

func TestResolveTellsTheStepsBeforeTheKernelItFound(t *testing.T) {
	testCache(t)
	t.Setenv(EnvKernel, "")
	root := hostTree(t, "6.5.0", map[string][]byte{"boot/vmlinuz-6.5.0": bzImageOf(t, "gzip", smallELF())})
	k, err := Resolve(context.Background(), ResolveOptions{hostRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var got []string
	for _, s := range k.Tried {
		got = append(got, s.Name+"|"+strings.TrimPrefix(s.Try, root)+"|"+s.Reason())
	}
	want := []string{"option|WithKernel, --kernel|not set", "environment|$HUTCH_KERNEL|not set", "cache|own kernel|not built", "cache|fetched kernels|none there",
		"host|/lib/modules/6.5.0/vmlinuz|no such file or directory"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("steps\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
