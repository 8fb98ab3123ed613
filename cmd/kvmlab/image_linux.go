package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/hutchvm/hutch/boot/debpkg"
	"github.com/hutchvm/hutch/internal/cachedir"
)

// Packages the lab is made of: the generic kernel, because the cloud kernel has no 9p.
const (
	emulatorPackage = "qemu-system-x86"
	kernelPackage   = "linux-image-amd64"
)

// wantedModules are the kernel modules the lab's init loads; what they depend on comes before them.
var wantedModules = []string{"kvm-amd", "virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "tun", "fuse"}

// image is everything the emulator is started with.
type image struct {
	emulator *debpkg.Tree
	kernel   string // path of the kernel file
	modules  string // path of the kernel's module folder (…/lib/modules/RELEASE)
	initrd   string // path of the initramfs
}

// prepare fetches and builds what is not in the cache yet. build identifies this executable.
func prepare(ctx context.Context, build string, progress func(string)) (image, error) {
	var img image
	var err error
	if img.emulator, err = debpkg.Closure(ctx, debpkg.Options{Packages: []string{emulatorPackage}, Progress: progress}); err != nil {
		return img, fmt.Errorf("the emulator: %w", err)
	}
	tree, err := debpkg.Unpack(ctx, kernelPackage, progress)
	if err != nil {
		return img, fmt.Errorf("the lab's kernel: %w", err)
	}
	if img.kernel, err = onlyMatch(tree.Path("boot", "vmlinuz-*")); err != nil {
		return img, err
	}
	if unpacked, err := unpackedKernel(ctx, img.kernel); err == nil {
		img.kernel = unpacked
	} else if !errors.Is(err, errNotXZ) {
		return img, fmt.Errorf("the lab's kernel: %w", err)
	}
	if img.modules, err = onlyMatch(tree.Path("lib", "modules", "*")); err != nil {
		if img.modules, err = onlyMatch(tree.Path("usr", "lib", "modules", "*")); err != nil {
			return img, err
		}
	}
	if img.initrd, err = initramfs(ctx, img.modules, build); err != nil {
		return img, fmt.Errorf("the lab's initramfs: %w", err)
	}
	return img, nil
}

func onlyMatch(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("%d files match %s, want 1 (delete that folder to fetch it again)", len(found), pattern)
	}
	return found[0], nil
}

// initramfs returns the path of an archive with this program as /init and the modules, made once per build and kernel.
func initramfs(ctx context.Context, modules, build string) (string, error) {
	dir, err := cachedir.Dir("lab")
	if err != nil {
		return "", err
	}
	unlock, err := cachedir.Lock(ctx, filepath.Join(dir, "image.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(dir, fmt.Sprintf("init-%s-%.16s.cpio", filepath.Base(modules), build))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	mods, err := moduleClosure(modules, wantedModules)
	if err != nil {
		return "", err
	}
	program, err := staticSelf(ctx)
	if err != nil {
		return "", err
	}
	old, _ := filepath.Glob(filepath.Join(dir, "init-*.cpio")) // constant pattern; a running lab has read its archive already
	tmp := path + ".tmp"
	defer os.Remove(tmp)
	if err := writeArchive(tmp, program, mods); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", err
	}
	for _, f := range old {
		os.Remove(f) // best effort: builds follow each other quickly during development, and nobody needs the old ones
	}
	return path, nil
}

func writeArchive(path string, program []byte, mods []module) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := cpio.Newc.Writer(f)
	records := []cpio.Record{cpio.StaticFile("init", string(program), 0o755), cpio.CharDev("console", 0o600, 5, 1)}
	records[1].Name = "dev/console"
	for _, d := range []string{"dev", "proc", "sys", "mnt", "modules"} {
		records = append(records, cpio.Directory(d, 0o755))
	}
	slices.SortStableFunc(records, func(a, b cpio.Record) int { return strings.Compare(a.Name, b.Name) })
	for i, m := range mods {
		records = append(records, cpio.StaticFile(fmt.Sprintf("modules/%03d-%s.ko", i, m.name), string(m.data), 0o644))
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	return f.Close()
}

// module is one kernel module, uncompressed.
type module struct {
	name string // with underscores, as the kernel writes it
	data []byte
}

// moduleClosure returns the wanted modules and those they need, in an order in which they can be loaded. Modules that are built
// into the kernel or that this kernel does not have are left out; the lab's init finds out what is missing.
func moduleClosure(dir string, wanted []string) ([]module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			files[moduleName(strings.TrimSuffix(d.Name(), ".ko"))] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no uncompressed modules below %s", dir)
	}
	var order []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		path, ok := files[name]
		if seen[name] || !ok {
			return nil
		}
		seen[name] = true
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		needs, err := moduleNeeds(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		order = append(order, module{name, data})
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// moduleNeeds reads the depends= entry of a module's .modinfo section.
func moduleNeeds(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// selfBuild identifies this executable by its content.
func selfBuild() (id, path string, err error) {
	path, err = os.Executable()
	if err != nil {
		return "", "", err
	}
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), path, nil
}

// isStatic reports whether an executable needs no dynamic loader.
func isStatic(program []byte) (bool, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }), nil
}

// staticSelf returns this program as a static executable: itself when it is one, else a build without cgo.
func staticSelf(ctx context.Context) ([]byte, error) {
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	if static, err := isStatic(data); err != nil || static {
		return data, err
	}
	tmp, err := os.MkdirTemp("", "kvmlab-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "kvmlab")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "github.com/hutchvm/hutch/cmd/kvmlab")
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		cmd.Dir = filepath.Dir(file) // with -trimpath the working directory has to be in the module instead
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("this kvmlab is linked dynamically and a static build failed: %w: %s; build it with CGO_ENABLED=0", err, tailLines(string(text), 3))
	}
	return os.ReadFile(out)
}
