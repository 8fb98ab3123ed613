package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
)

// Kernel is an opened kernel, ready to be loaded any number of times. Close it when no Load will follow.
//
// Its methods may be used by several goroutines at once, Close excepted.
type Kernel struct {
	// Path is what was opened: a file or a folder.
	Path string
	// Image is the file with the unpacked kernel (vmlinux); the cached copy if Path is packed.
	Image string
	// Release is what `uname -r` prints in the guest, for example 6.1.0-56-cloud-amd64; "" if the image does not tell.
	Release string
	// Origin is the step of the ladder that found it, for example "cache"; "" from Open.
	Origin string
	// Tried are the steps of the ladder that gave no kernel before this one was found; nil from Open.
	Tried []Step
	// ModuleTree is lib/modules/RELEASE of this kernel, or nil if none was found.
	ModuleTree fs.FS

	arch  string
	image io.ReaderAt
	size  int64
	file  *os.File
	elf   *elfImage
	bz    *bzImage // nil if a vmlinux was opened

	configFile string // "" if none was found beside the kernel
	scan       sync.Once
	config     Config
	configFrom string // where config was read, in words
	hasACPI    bool   // found in the image; only meaningful if config is unknown

	modules sync.Once
	index   *moduleIndex
	idxErr  error
}

// Close releases the image file. It is idempotent.
func (k *Kernel) Close() error {
	if k.file == nil {
		return nil
	}
	err := k.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// String returns the release and the path.
func (k *Kernel) String() string {
	if k.Release == "" {
		return k.Path
	}
	return k.Release + " (" + k.Path + ")"
}

// initrdMax is the highest address a byte of the initramfs may have.
func (k *Kernel) initrdMax() uint32 {
	if k.bz != nil && k.bz.initrdAddrMax != 0 {
		return min(k.bz.initrdAddrMax, LowRAMLimit-1)
	}
	return defaultInitrdAddrMax
}

// cmdlineLimit is the longest command line the kernel reads, without the NUL.
func (k *Kernel) cmdlineLimit() uint32 {
	if k.bz != nil && k.bz.cmdlineMax != 0 {
		return k.bz.cmdlineMax
	}
	return defaultCmdlineMax
}

// tables picks the description of the devices that this kernel understands.
func (k *Kernel) tables() Tables {
	if v, known := k.Config("ACPI"); known {
		if v == "y" {
			return TablesACPI
		}
		return TablesMP
	}
	if k.image != nil && !k.hasACPI {
		return TablesMP // k.Config scanned the image
	}
	return TablesACPI
}

// Open opens the kernel at path: a vmlinux, a bzImage, a folder (boot/vmlinuz* or vmlinux, with lib/modules/RELEASE), or a Debian
// linux-image package. Packed kernels are unpacked into the user's cache once; opening them again unpacks nothing.
//
// Errors: an *fs.PathError; *FormatError; *ArchError; the cache folder's errors.
func Open(ctx context.Context, path string) (*Kernel, error) {
	return open(ctx, path, quiet)
}

// quiet is the progress function of callers that want none.
func quiet(string) {}

// openFile is os.Open, but for tests: root may read every file.
var openFile = os.Open

func open(ctx context.Context, path string, say func(string)) (*Kernel, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if info.IsDir() {
		return openDir(ctx, path, say)
	}
	if !info.Mode().IsRegular() {
		return nil, &FormatError{File: path, Kind: ErrNotKernel, Detail: "it is no regular file", Fix: "give a vmlinux, a bzImage, a folder or a .deb"}
	}
	f, err := openFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &UnreadableError{File: path, Mode: info.Mode().Perm(), Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	defer f.Close() // the image is opened on its own
	kind, err := sniff(path, f, info.Size())
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindDeb:
		dir, _, err := importDeb(ctx, path, say)
		if err != nil {
			return nil, err
		}
		k, err := openDir(ctx, dir, say)
		if k != nil {
			k.Path = path
		}
		return k, err
	case kindBzImage:
		bz, err := parseBzImage(path, f, info.Size())
		if err != nil {
			return nil, err
		}
		image, err := unpackedImage(ctx, path, f, info, bz, say)
		if err != nil {
			return nil, err
		}
		k, err := openELF(path, image)
		if err != nil {
			return nil, err
		}
		k.bz, k.Release = bz, bz.release
		k.findSiblings()
		return k, nil
	}
	k, err := openELF(path, path)
	if err != nil {
		return nil, err
	}
	k.findSiblings()
	return k, nil
}

// openELF opens the vmlinux at image.
func openELF(path, image string) (*Kernel, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("kernel: %w", err)
	}
	parsed, err := parseELF(image, f, info.Size(), loadArch)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Kernel{Path: path, Image: image, arch: loadArch, image: f, size: info.Size(), file: f, elf: parsed}, nil
}

// fileKind is what sniff recognised.
type fileKind int

const (
	kindELF fileKind = iota
	kindBzImage
	kindDeb
)

const sniffBytes = 1024

// sniff recognises a kernel file by its content. Foreign architectures are recognised too, so that the error can name them.
func sniff(file string, r io.ReaderAt, size int64) (fileKind, error) {
	head := make([]byte, min(size, sniffBytes))
	if err := readFullAt(r, head, 0); err != nil {
		return 0, &FormatError{File: file, Kind: ErrTruncated, Detail: "the file cannot be read", Err: err}
	}
	fail := func(kind error, fix, format string, args ...any) error {
		return &FormatError{File: file, Kind: kind, Detail: fmt.Sprintf(format, args...), Fix: fix}
	}
	switch {
	case len(head) == 0:
		return 0, fail(ErrTruncated, fixGetKernel, "the file is empty")
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return kindELF, nil
	case bytes.HasPrefix(head, []byte(arMagic)):
		return kindDeb, nil
	case at(head, hdrMagic, headerMagic):
		return kindBzImage, nil
	}
	if arch := foreignImage(head); arch != "" {
		return 0, &ArchError{File: file, Arch: arch, Want: loadArch}
	}
	if c := compressionOf(head); c != nil {
		if c.name == "gzip" {
			if arch := foreignImage(gzipHead(r, size)); arch != "" {
				return 0, &ArchError{File: file, Arch: arch, Want: loadArch}
			}
		}
		return 0, fail(ErrUnsupported, "unpack it first, or give the bzImage", "a bare %s file", c.name)
	}
	if size < hdrEnd {
		return 0, fail(ErrTruncated, fixGetKernel, "%d bytes are too few for a kernel", size)
	}
	return 0, fail(ErrNotKernel, "give a vmlinux, a bzImage (vmlinuz), a folder or a .deb", "it starts with % x", head[:min(8, len(head))])
}

func at(b []byte, off int, s string) bool {
	return len(b) >= off+len(s) && string(b[off:off+len(s)]) == s
}

// foreignImage names the architecture of a kernel image that is neither ELF nor bzImage, or returns "".
// Sources: Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst; PE format, "Machine Types".
func foreignImage(head []byte) string {
	switch {
	case at(head, 0x38, "ARM\x64"):
		return "arm64"
	case at(head, 0x38, "RSC\x05"):
		return "riscv64"
	case at(head, 0x24, "\x18\x28\x6f\x01"):
		return "arm"
	case !at(head, 0, "MZ") || len(head) < 0x40:
		return ""
	}
	pe := int64(binary.LittleEndian.Uint32(head[0x3c:]))
	if pe > int64(len(head))-6 || !at(head, int(pe), "PE\x00\x00") {
		return ""
	}
	switch m := binary.LittleEndian.Uint16(head[pe+4:]); m {
	case 0x8664:
		return ""
	case 0xaa64:
		return "arm64"
	case 0x5064:
		return "riscv64"
	case 0x6264:
		return "loong64"
	default:
		return fmt.Sprintf("PE machine %#x", m)
	}
}

// gzipHead returns the first bytes of what a gzip file holds: arm64 kernels are often shipped like that.
func gzipHead(r io.ReaderAt, size int64) []byte {
	z, err := openGzip(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil
	}
	head := make([]byte, sniffBytes)
	n, _ := io.ReadFull(z, head) // what there is must do
	return head[:n]
}

// openDir opens the newest kernel of a folder.
func openDir(ctx context.Context, dir string, say func(string)) (*Kernel, error) {
	candidates, err := kernelsIn(dir)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if len(candidates) == 0 {
		return nil, &FormatError{File: dir, Kind: ErrNotKernel, Detail: "the folder has no vmlinux, vmlinuz* or boot/vmlinuz*",
			Fix: "give the folder that a linux-image package was unpacked into"}
	}
	var first error
	for _, path := range candidates {
		k, err := open(ctx, path, say)
		if err == nil {
			k.Path = dir
			return k, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// kernelsIn lists kernel files of a folder, the best first: an unpacked one, then by version, newest first.
func kernelsIn(dir string) ([]string, error) {
	if _, err := os.ReadDir(dir); err != nil {
		return nil, err // Glob would hide it
	}
	var out []string
	for _, sub := range []string{"", "boot"} {
		if p := filepath.Join(dir, sub, "vmlinux"); isRegular(p) {
			out = append(out, p)
		}
		var packed []string
		for _, pattern := range []string{"vmlinux-*", "vmlinuz", "vmlinuz-*", "bzImage"} {
			found, _ := filepath.Glob(filepath.Join(escapeGlob(filepath.Join(dir, sub)), pattern))
			for _, p := range found {
				if isRegular(p) {
					packed = append(packed, p)
				}
			}
		}
		sort.SliceStable(packed, func(i, j int) bool {
			return compareVersions(filepath.Base(packed[i]), filepath.Base(packed[j])) > 0
		})
		out = append(out, packed...)
	}
	return out, nil
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// compareVersions orders file names by the numbers in them: vmlinuz-6.12 is newer than vmlinuz-6.9.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na == "" || nb == "" {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		ta, tb := strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
		if len(ta) != len(tb) {
			return len(ta) - len(tb)
		}
		if c := strings.Compare(ta, tb); c != 0 {
			return c
		}
		a, b = a[len(na):], b[len(nb):]
	}
	return len(a) - len(b)
}

func digits(s string) string {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i]
}

// findSiblings looks beside the kernel for what belongs to it: release, modules, configuration.
func (k *Kernel) findSiblings() {
	dir, base := filepath.Dir(k.Path), filepath.Base(k.Path)
	if k.Release == "" {
		if b, err := os.ReadFile(filepath.Join(dir, "release")); err == nil {
			k.Release = releaseWord(append(b, '\n'))
		}
	}
	if k.Release == "" {
		for _, prefix := range []string{"vmlinuz-", "vmlinux-"} {
			if rest, ok := strings.CutPrefix(base, prefix); ok {
				k.Release = releaseWord([]byte(rest + "\n"))
			}
		}
	}
	configs := []string{filepath.Join(dir, "config"), filepath.Join(dir, ".config")}
	var trees []string
	if r := k.Release; r != "" {
		root := filepath.Dir(dir)
		configs = append([]string{filepath.Join(dir, "config-"+r), filepath.Join(dir, "boot", "config-"+r)}, configs...)
		trees = append(trees, filepath.Join(dir, "lib/modules", r), filepath.Join(dir, "usr/lib/modules", r),
			filepath.Join(root, "lib/modules", r), filepath.Join(root, "usr/lib/modules", r))
		if filepath.Base(dir) == r { // lib/modules/REL/vmlinuz
			trees = append([]string{dir}, trees...)
			configs = append(configs, filepath.Join(dir, "../../../boot/config-"+r), filepath.Join(dir, "../../../../boot/config-"+r))
		}
	}
	for _, c := range configs {
		if isRegular(c) {
			k.configFile = c
			break
		}
	}
	for _, t := range trees {
		if info, err := os.Stat(filepath.Join(t, "kernel")); err == nil && info.IsDir() {
			k.ModuleTree = os.DirFS(t)
			break
		}
	}
}
