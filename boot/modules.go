package boot

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// DefaultModules are what a guest needs to reach its agent: the virtio-mmio transport and sockets. Not to be changed.
var DefaultModules = []string{"virtio_mmio", "vmw_vsock_virtio_transport"}

// Module is one loadable kernel module.
type Module struct {
	Name string // as the kernel spells it, with underscores
	Data []byte // the unpacked ELF object, signature included: distribution kernels insist on it
}

// moduleConfig names the build option behind a module, for messages and for kernels without a modules folder.
var moduleConfig = map[string]string{
	"virtio": "VIRTIO", "virtio_ring": "VIRTIO", "virtio_mmio": "VIRTIO_MMIO",
	"vsock": "VSOCKETS", "vmw_vsock_virtio_transport": "VIRTIO_VSOCKETS", "vmw_vsock_virtio_transport_common": "VIRTIO_VSOCKETS_COMMON",
	"virtio_blk": "VIRTIO_BLK", "virtio_rng": "HW_RANDOM_VIRTIO", "virtio_net": "VIRTIO_NET", "virtio_console": "VIRTIO_CONSOLE",
	"virtio_balloon": "VIRTIO_BALLOON", "virtio_pmem": "VIRTIO_PMEM",
	"fuse": "FUSE_FS", "virtiofs": "VIRTIO_FS", "overlay": "OVERLAY_FS", "erofs": "EROFS_FS", "ext4": "EXT4_FS", "squashfs": "SQUASHFS",
	"9p": "9P_FS", "9pnet": "NET_9P", "9pnet_virtio": "NET_9P_VIRTIO", "tun": "TUN", "loop": "BLK_DEV_LOOP",
}

const (
	// moduleList names the modules of a package in the cache, one path a line, whether they were unpacked or not.
	moduleList  = "modules.hutch"
	maxClosure  = 256 // modules in one closure
	maxModTree  = 50_000
	modinfoName = ".modinfo"
)

// moduleSuffixes are the ways a module is stored. MODULE_COMPRESS_*.
var moduleSuffixes = []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"}

// errNotUnpacked: the list of a cached package has the module, its folder does not.
var errNotUnpacked = errors.New("the cache keeps of a package only the modules that hutch loads; unpack the whole package with dpkg-deb -x and name that folder as the kernel")

// normalModule spells a module name as the kernel does: the file may have dashes.
func normalModule(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleName returns the module in a file of this name, or "".
func moduleName(file string) string {
	for _, s := range moduleSuffixes {
		if base, ok := strings.CutSuffix(file, s); ok {
			return normalModule(base)
		}
	}
	return ""
}

// moduleIndex is what is in a modules folder.
type moduleIndex struct {
	files   map[string]string // module → path in the tree
	builtin map[string]bool
}

// add enters the file p if it is a module.
func (x *moduleIndex) add(p string) {
	name := moduleName(path.Base(p))
	if name == "" || !fs.ValidPath(p) {
		return
	}
	if _, dup := x.files[name]; !dup || strings.HasPrefix(p, "updates/") { // updates/ wins, as in depmod
		x.files[name] = p
	}
}

func indexModules(tree fs.FS) (*moduleIndex, error) {
	x := &moduleIndex{files: map[string]string{}, builtin: map[string]bool{}}
	if b, err := fs.ReadFile(tree, "modules.builtin"); err == nil {
		s := bufio.NewScanner(bytes.NewReader(b))
		for s.Scan() {
			if name := moduleName(path.Base(strings.TrimSpace(s.Text()))); name != "" {
				x.builtin[name] = true
			}
		}
	}
	if list, err := fs.ReadFile(tree, moduleList); err == nil {
		for _, p := range strings.Split(string(list), "\n") {
			x.add(p)
		}
		return x, nil
	}
	n := 0
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > maxModTree {
			return fmt.Errorf("more than %d files", maxModTree)
		}
		if d.IsDir() {
			if p == "build" || p == "source" {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			x.add(p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("modules folder: %w", err)
	}
	return x, nil
}

// Modules returns the modules names and everything they depend on, in the order in which they have to be loaded. What is built into the
// kernel is left out, so the result may be empty. Debian ships no modules.dep, hence the dependencies come from the modules themselves.
//
// A kernel without a modules folder and without a known configuration is taken to have everything built in.
// Errors: *ModuleError naming the module and its build option.
func (k *Kernel) Modules(names ...string) ([]Module, error) {
	k.modules.Do(func() {
		if k.ModuleTree != nil {
			k.index, k.idxErr = indexModules(k.ModuleTree)
		}
	})
	if k.idxErr != nil {
		return nil, fmt.Errorf("kernel %v: %w", k, k.idxErr)
	}
	w := &closure{kernel: k, state: map[string]int{}}
	for _, n := range names {
		if err := w.visit(normalModule(n), "", false); err != nil {
			return nil, err
		}
	}
	return w.out, nil
}

// closure is a depth-first walk over dependencies.
type closure struct {
	kernel *Kernel
	state  map[string]int // 1: under way, 2: done
	out    []Module
}

// visit adds name after its dependencies. A soft dependency (optional) that is missing is skipped, as modprobe does.
func (w *closure) visit(name, needer string, optional bool) error {
	switch {
	case w.state[name] == 2:
		return nil
	case w.state[name] == 1:
		if optional {
			return nil // soft dependencies may be circular
		}
		return w.fail(name, needer, errors.New("its dependencies form a circle"))
	}
	file, missing := w.kernel.locate(name)
	if missing {
		if optional {
			return nil
		}
		return w.fail(name, needer, nil)
	}
	if file == "" { // built in
		w.state[name] = 2
		return nil
	}
	if len(w.state) >= maxClosure {
		return w.fail(name, needer, fmt.Errorf("more than %d modules in one closure", maxClosure))
	}
	w.state[name] = 1
	data, err := readModule(w.kernel.ModuleTree, file)
	if errors.Is(err, fs.ErrNotExist) {
		if optional {
			delete(w.state, name)
			return nil
		}
		err = errNotUnpacked
	}
	if err != nil {
		return w.fail(name, needer, err)
	}
	info, err := parseModinfo(data)
	if err != nil {
		return w.fail(name, needer, fmt.Errorf("%s: %w", file, err))
	}
	for _, d := range info.softPre {
		if err := w.visit(d, name, true); err != nil {
			return err
		}
	}
	for _, d := range info.depends {
		if err := w.visit(d, name, false); err != nil {
			return err
		}
	}
	w.state[name] = 2
	w.out = append(w.out, Module{Name: name, Data: data})
	return nil
}

func (w *closure) fail(name, needer string, err error) error {
	e := &ModuleError{Module: name, Kernel: w.kernel.String(), Needers: needer, Err: err}
	if c, ok := moduleConfig[name]; ok {
		e.Config = "CONFIG_" + c
	}
	return e
}

// locate finds the file of a module; "" means built in.
func (k *Kernel) locate(name string) (file string, missing bool) {
	if k.index != nil {
		if k.index.builtin[name] {
			return "", false
		}
		if f, ok := k.index.files[name]; ok {
			return f, false
		}
	}
	if opt, ok := moduleConfig[name]; ok {
		if v, known := k.Config(opt); known {
			return "", v != "y"
		}
	}
	return "", k.index != nil
}

// readModule returns the unpacked object at file.
func readModule(tree fs.FS, file string) ([]byte, error) {
	f, err := tree.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if !strings.HasSuffix(file, ".ko") {
		br := bufio.NewReader(f)
		head, _ := br.Peek(16)
		c := compressionOf(head)
		if c == nil || c.open == nil {
			return nil, &FormatError{File: file, Kind: ErrUnsupported, Detail: fmt.Sprintf("compression % x", head[:min(len(head), 4)])}
		}
		var z io.ReadCloser
		if err := guarded(c.name, func() (err error) { z, err = c.open(br); return err }); err != nil {
			return nil, &FormatError{File: file, Kind: ErrCorrupt, Detail: c.name + " data", Err: err, Fix: fixGetKernel}
		}
		defer z.Close()
		r = z
	}
	var data []byte
	err = guarded("module", func() (err error) {
		data, err = io.ReadAll(&cappedReader{r: r, left: maxModuleBytes})
		return err
	})
	if err != nil {
		return nil, &FormatError{File: file, Offset: int64(len(data)), Kind: ErrCorrupt, Detail: "the module cannot be read", Err: err, Fix: fixGetKernel}
	}
	return data, nil
}

// modinfo is what a module says about itself.
type modinfo struct {
	name    string
	depends []string // must be loaded before
	softPre []string // should be loaded before, if there
}

// parseModinfo reads the .modinfo section of a module: "key=value" strings ended by NUL. Source: include/linux/module.h, MODULE_INFO.
func parseModinfo(ko []byte) (modinfo, error) {
	var m modinfo
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return m, fmt.Errorf("%w: no ELF object: %w", ErrCorrupt, err)
	}
	if f.Type != elf.ET_REL {
		return m, fmt.Errorf("%w: ELF type %v, a module is relocatable", ErrCorrupt, f.Type)
	}
	s := f.Section(modinfoName)
	if s == nil || s.Type == elf.SHT_NOBITS {
		return m, fmt.Errorf("%w: no %s section", ErrCorrupt, modinfoName)
	}
	if s.Size > uint64(len(ko)) {
		return m, fmt.Errorf("%w: %s has %d bytes in a file of %d", ErrCorrupt, modinfoName, s.Size, len(ko))
	}
	b, err := s.Data()
	if err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrTruncated, modinfoName, err)
	}
	for _, entry := range bytes.Split(b, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "name":
			m.name = value
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					m.depends = append(m.depends, normalModule(d))
				}
			}
		case "softdep":
			m.softPre = append(m.softPre, softPre(value)...)
		}
	}
	return m, nil
}

// softPre returns the modules after "pre:" in a softdep value.
func softPre(value string) []string {
	var out []string
	pre := false
	for _, w := range strings.Fields(value) {
		switch {
		case w == "pre:":
			pre = true
		case w == "post:":
			pre = false
		case pre:
			out = append(out, normalModule(w))
		}
	}
	return out
}
