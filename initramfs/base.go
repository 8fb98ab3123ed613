package initramfs

import (
	"bufio"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hutchvm/hutch/internal/cachedir"
)

const (
	cacheName = "initramfs"
	imageName = "initramfs.cpio"
	infoName  = "image.json"
	// imageVersion changes when this package lays out the same parts in another way.
	imageVersion = "1"
	// Images of agents that no longer exist pile up on a developer's machine: those unused for keepUnused beyond the newest keepImages go.
	keepImages = 4
	keepUnused = 7 * 24 * time.Hour
)

// Options are the inputs of Base. The zero value builds the standard image with the Go command of PATH.
type Options struct {
	// Progress, when not nil, is called with a line of text when something that takes seconds starts, from the calling goroutine.
	Progress func(string)
	// AgentPath is a static Linux program for /init instead of hutch's agent, which is then not built.
	AgentPath string
	// GoTool is the Go command. Empty means that of PATH, of $GOROOT, or in /usr/local/go.
	GoTool string
	// ModuleDir is the folder of hutch's source. Empty means that it is found: see Base.
	ModuleDir string
}

// An Image is a finished file in the cache. It may be copied, embedded, or concatenated with archives that Files returns.
type Image struct {
	Path   string // of the newc archive, uncompressed
	SHA256 string // of the file, in lower-case hexadecimal digits
	Size   int64  // in bytes, a multiple of four
}

// Base returns the base image for guests of the host's architecture, building what is missing in the cache.
//
// The first build takes half a minute and fetches modules through the Go command; a changed agent takes seconds; an unchanged one starts
// no process at all: it is recognised by the names, sizes and times of its source files. hutch's source is found through the running
// program's debug information, the module cache or the current folder's module, so this works in a program that uses hutch as a library.
// A program that knows none of them (built with -trimpath from a working copy, run elsewhere) gets the image that was built last.
// Processes and goroutines that ask for the same image wait for one another.
//
// Errors: ErrNoToolchain, ErrNoSource, a *BuildError with the tool's output, ctx.Err wrapped, or those of the file system. A failed build
// leaves nothing behind but the Go command's own cache.
func Base(ctx context.Context, opts Options) (*Image, error) {
	b, key, err := prepare(ctx, opts)
	if err != nil {
		return nil, err
	}
	if img := b.image(key); img != nil {
		return img, nil
	}
	unlock, err := cachedir.Lock(ctx, filepath.Join(b.root, "lock"))
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	defer unlock()
	if img := b.image(b.lookup()); img != nil { // another process has built it meanwhile
		return img, nil
	}
	img, err := b.build(ctx)
	if err != nil {
		var known *BuildError
		if !errors.As(err, &known) {
			err = fmt.Errorf("initramfs: %w", err)
		}
		return nil, err
	}
	return img, nil
}

// Current looks for the image that Base would return, and builds nothing. Where there is none it returns nil and the Go command that Base would
// build it with. Looking is no use that keeps the image from being deleted. Errors: why Base would fail before it builds.
func Current(ctx context.Context, opts Options) (img *Image, goTool string, err error) {
	b, key, err := prepare(ctx, opts)
	if err != nil {
		return nil, "", err
	}
	if img := b.peek(key); img != nil {
		return img, "", nil
	}
	return nil, b.goTool, nil
}

// prepare finds what Base needs, and the key of the image that Base would return at once. Without a key and an error one can be built.
func prepare(ctx context.Context, opts Options) (b *builder, key string, err error) {
	root, err := cachedir.Dir(cacheName)
	if err != nil {
		return nil, "", fmt.Errorf("initramfs: %w", err)
	}
	b = &builder{root: root, opts: opts}
	if b.recipe, err = recipeFiles(); err != nil {
		return nil, "", fmt.Errorf("initramfs: %w", err)
	}
	if b.goTool, err = findGo(opts.GoTool); err != nil && !errors.Is(err, ErrNoToolchain) {
		return nil, "", err
	}
	noGo := err
	if opts.AgentPath != "" {
		if err := checkAgent(opts.AgentPath); err != nil {
			return nil, "", err
		}
	} else if b.module, err = locateModule(ctx, b.goTool, opts.ModuleDir); err != nil {
		if key := b.latest(); key != "" && opts.ModuleDir == "" && ctx.Err() == nil {
			b.progress("hutch's source not found from here: taking the guest image built last")
			return b, key, nil
		}
		return nil, "", errors.Join(noGo, err)
	}
	if key := b.lookup(); key != "" {
		return b, key, nil
	}
	return b, "", noGo
}

// checkAgent accepts what the guest's kernel can start as /init: a static ELF program of the host's architecture.
func checkAgent(p string) error {
	f, err := elf.Open(p)
	if err != nil {
		return fmt.Errorf("initramfs: Options.AgentPath %s: %w (want a static Linux program)", p, err)
	}
	defer f.Close()
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	if f.Machine != want {
		return fmt.Errorf("initramfs: Options.AgentPath %s: program for %v, the guest is %v", p, f.Machine, want)
	}
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			return fmt.Errorf("initramfs: Options.AgentPath %s: dynamically linked, the guest has no libraries (build with CGO_ENABLED=0)", p)
		}
	}
	return nil
}

// builder is one call of Base.
type builder struct {
	root   string // cache folder
	opts   Options
	recipe map[string][]byte
	goTool string // empty when there is none
	module string // hutch's source; empty with AgentPath
}

func (b *builder) progress(line string) {
	if b.opts.Progress != nil {
		b.opts.Progress(line)
	}
}

// stamp remembers which image a state of the source tree gave.
type stamp struct {
	Image       string   // key of the image
	Dirs        []string // of the agent's source
	Fingerprint string
}

// stampPath names the stamp of the inputs that are cheap to look at. With no toolchain, the stamp of the last one counts.
func (b *builder) stampPath(goTool string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n%s\n%s\n%s\n", imageVersion, runtime.GOARCH, recipeHash(b.recipe), b.module, b.opts.AgentPath)
	if goTool != "" {
		if info, err := os.Stat(goTool); err == nil {
			fmt.Fprintf(h, "%s %d %d\n", goTool, info.Size(), info.ModTime().UnixNano())
		}
	}
	return filepath.Join(b.root, "stamps", fmt.Sprintf("%x.json", h.Sum(nil)[:16]))
}

// latestPath names the stamp of the newest image of this recipe, whatever source its agent came from.
func (b *builder) latestPath() string {
	return filepath.Join(b.root, "stamps", "latest-"+runtime.GOARCH+"-"+recipeHash(b.recipe)[:16]+".json")
}

// latest is the last resort of a program that was built without paths (-trimpath) from a working copy and runs elsewhere. That the agent may
// be of another state of the source is left to the handshake with it, which compares protocol versions.
func (b *builder) latest() (key string) {
	s, _ := b.stamped(b.latestPath())
	return s.Image
}

// lookup returns the key of the image that the stamps say is up to date, or "".
func (b *builder) lookup() (key string) {
	s, ok := b.stamped(b.stampPath(b.goTool))
	if !ok {
		return ""
	}
	if now, err := b.sourceState(s.Dirs); err != nil || now != s.Fingerprint {
		return ""
	}
	return s.Image
}

// stamped reads a stamp whose image is there.
func (b *builder) stamped(path string) (s stamp, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &s) != nil || b.peek(s.Image) == nil {
		return stamp{}, false
	}
	return s, true
}

func (b *builder) sourceState(dirs []string) (string, error) {
	if b.opts.AgentPath != "" {
		return hashFile(b.opts.AgentPath)
	}
	return fingerprint(b.module, dirs)
}

// image is peek for an image that is put to use.
func (b *builder) image(key string) *Image {
	img := b.peek(key)
	if img != nil {
		now := time.Now()
		_ = os.Chtimes(filepath.Dir(img.Path), now, now) // for prune; a read-only cache works too
	}
	return img
}

// peek returns the cached image of a key, or nil when it is not there or does not have the size it was written with.
func (b *builder) peek(key string) *Image {
	dir := filepath.Join(b.root, "images", filepath.Base(key))
	data, err := os.ReadFile(filepath.Join(dir, infoName))
	var img Image
	if err != nil || json.Unmarshal(data, &img) != nil {
		return nil
	}
	img.Path = filepath.Join(dir, imageName)
	if info, err := os.Stat(img.Path); err != nil || info.Size() != img.Size {
		return nil
	}
	return &img
}

// build makes the image with the lock held.
func (b *builder) build(ctx context.Context) (*Image, error) {
	b.removeRests()
	work, err := os.MkdirTemp(b.root, "tmp-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	t, err := resolve(ctx, b.goTool, work)
	if err != nil {
		return nil, err
	}
	bb, err := b.userland(ctx, t, work)
	if err != nil {
		return nil, err
	}
	agent := b.opts.AgentPath
	s := stamp{}
	if agent == "" {
		if s.Dirs, err = agentDirs(ctx, t, b.module); err != nil {
			return nil, err
		}
	}
	// The state is taken before the build: a file changed during it then counts as changed at the next call.
	if s.Fingerprint, err = b.sourceState(s.Dirs); err != nil {
		return nil, err
	}
	if agent == "" {
		b.progress("building the guest agent")
		agent = filepath.Join(work, "agent")
		if err := buildAgent(ctx, t, b.module, agent); err != nil {
			return nil, err
		}
	}
	if s.Image, err = b.imageKey(bb, agent); err != nil {
		return nil, err
	}
	img := b.image(s.Image)
	if img == nil {
		if img, err = b.assemble(work, s.Image, bb, agent); err != nil {
			return nil, err
		}
	}
	b.prune(s.Image)
	stamps := []string{b.stampPath(b.goTool), b.stampPath("")}
	if b.opts.AgentPath == "" {
		stamps = append(stamps, b.latestPath())
	}
	for _, p := range stamps {
		if err := writeStamp(p, s); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// userland returns the path of the combined binary, building it when this recipe and toolchain have not been used before.
func (b *builder) userland(ctx context.Context, t toolchain, work string) (string, error) {
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(recipeHash(b.recipe)+t.version+runtime.GOARCH)))[:32]
	dir := filepath.Join(b.root, "userland", key)
	bb := filepath.Join(dir, "bb")
	if _, err := os.Stat(bb); err == nil {
		return bb, nil
	}
	b.progress(fmt.Sprintf("building the guest userland (%d commands, once per Go version)", len(commandPackages(b.recipe))))
	tmp := filepath.Join(work, "userland")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	scratch := filepath.Join(work, "bb")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return "", err
	}
	if err := buildUserland(ctx, t, b.recipe, scratch, filepath.Join(tmp, "bb")); err != nil {
		return "", err
	}
	if err := publish(tmp, dir); err != nil {
		return "", err
	}
	return bb, nil
}

// imageKey identifies an image by what goes into it.
func (b *builder) imageKey(bb, agent string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %s\n", imageVersion, runtime.GOARCH, recipeHash(b.recipe))
	for _, p := range []string{bb, agent} {
		sum, err := hashFile(p)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, sum)
	}
	fixed := skeleton()
	for _, name := range sortedKeys(fixed) {
		rec := fixed[name]
		fmt.Fprintf(h, "%s %o %d %d %s\n", name, rec.mode, rec.uid, rec.major, rec.data)
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:32], nil
}

// assemble writes the archive and its description into a folder of their own and publishes it.
func (b *builder) assemble(work, key, bb, agent string) (*Image, error) {
	tmp := filepath.Join(work, "image")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return nil, err
	}
	out, err := os.Create(filepath.Join(tmp, imageName))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	sum := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(out, sum), 1<<20)
	w := &writer{w: buffered}
	if err := writeBase(w, bb, agent); err != nil {
		return nil, err
	}
	if err := buffered.Flush(); err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	img := &Image{SHA256: fmt.Sprintf("%x", sum.Sum(nil)), Size: w.pos}
	data, err := json.Marshal(img)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tmp, infoName), data, 0o644); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.root, "images", key)
	if err := publish(tmp, dir); err != nil {
		return nil, err
	}
	img.Path = filepath.Join(dir, imageName)
	return img, nil
}

// writeBase writes the base archive from its two programs.
func writeBase(w *writer, bb, agent string) error {
	records := skeleton()
	for _, name := range Commands() {
		records["bin/"+name] = record{name: "bin/" + name, mode: typeSymlink | 0o777, data: []byte("bb")}
	}
	for name, p := range map[string]string{"bin/bb": bb, "init": agent} {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		records[name] = record{name: name, mode: typeRegular | 0o755, r: f, size: info.Size()}
	}
	return writeSorted(w, records)
}

// publish moves a finished folder to its place. A damaged older one makes room.
func publish(tmp, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

func writeStamp(p string, s stamp) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	tmp := p + ".tmp" // safe: the lock is held
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, p)
}

// removeRests deletes what killed processes left; the lock is held, so nobody works in these folders.
func (b *builder) removeRests() {
	entries, _ := os.ReadDir(b.root)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "tmp-") {
			_ = os.RemoveAll(filepath.Join(b.root, e.Name()))
		}
	}
}

// prune deletes images that have not been used for long, never the given one.
func (b *builder) prune(keep string) {
	dir := filepath.Join(b.root, "images")
	entries, _ := os.ReadDir(dir)
	type image struct {
		name string
		used time.Time
	}
	var images []image
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Name() != keep {
			images = append(images, image{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(images, func(x, y image) int { return y.used.Compare(x.used) })
	for i, img := range images {
		if i >= keepImages && time.Since(img.used) > keepUnused {
			_ = os.RemoveAll(filepath.Join(dir, img.name))
		}
	}
}
