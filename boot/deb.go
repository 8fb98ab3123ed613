package boot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// A Debian package is an ar archive of three members: debian-binary, control.tar.* and data.tar.*. Source: deb(5).
const (
	arMagic       = "!<arch>\n"
	arHeaderBytes = 60
	maxArMembers  = 16

	maxControlBytes = 1 << 20
	maxDebBytes     = 4 << 30 // of unpacked files; Debian's generic kernel has 400 MB of modules
	maxDebFiles     = 100_000
)

// maxPlainName bounds a name that a package gives, in bytes: those of real packages are shorter than 150. The names of all modules are kept in memory.
const maxPlainName = 512

// plainName says whether a name that a package gives can be printed and listed as it is.
func plainName(s string) bool {
	return s != "" && len(s) <= maxPlainName && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// debMember is one member of the ar archive.
type debMember struct {
	name string
	off  int64
	size int64
}

// debMembers lists the members of a package. Errors: *FormatError.
func debMembers(file string, r io.ReaderAt, size int64) ([]debMember, error) {
	fail := func(off int64, kind error, format string, args ...any) error {
		return &FormatError{File: file, Offset: off, Kind: kind, Detail: fmt.Sprintf(format, args...), Fix: "fetch the package again"}
	}
	magic := make([]byte, len(arMagic))
	if size < int64(len(arMagic)) || readFullAt(r, magic, 0) != nil || string(magic) != arMagic {
		return nil, fail(0, ErrNotKernel, "no Debian package: it does not start with %q", arMagic)
	}
	var members []debMember
	for off := int64(len(arMagic)); off < size; {
		if len(members) == maxArMembers {
			return nil, fail(off, ErrCorrupt, "more than %d members", maxArMembers)
		}
		var h [arHeaderBytes]byte
		if err := readFullAt(r, h[:], off); err != nil {
			return nil, fail(off, ErrTruncated, "a member header needs %d bytes, there are %d", arHeaderBytes, size-off)
		}
		if string(h[58:60]) != "`\n" {
			return nil, fail(off+58, ErrCorrupt, "member header ends with % x", h[58:60])
		}
		n, err := strconv.ParseUint(strings.TrimRight(string(h[48:58]), " "), 10, 40)
		if err != nil {
			return nil, fail(off+48, ErrCorrupt, "member size %q", h[48:58])
		}
		m := debMember{name: strings.TrimRight(strings.TrimRight(string(h[:16]), " "), "/"), off: off + arHeaderBytes, size: int64(n)}
		if !plainName(m.name) {
			return nil, fail(off, ErrCorrupt, "member name %q", m.name)
		}
		if m.size > size-m.off {
			return nil, fail(size, ErrTruncated, "member %s ends at %#x", m.name, m.off+m.size)
		}
		members = append(members, m)
		off = m.off + m.size + m.size&1 // members are padded to even offsets
	}
	return members, nil
}

// openDebMember returns the tar stream of the member that starts with prefix. Errors: *FormatError.
func openDebMember(file string, r io.ReaderAt, members []debMember, prefix string) (io.ReadCloser, debMember, error) {
	for _, m := range members {
		if !strings.HasPrefix(m.name, prefix) {
			continue
		}
		section := io.NewSectionReader(r, m.off, m.size)
		if m.name == prefix {
			return io.NopCloser(section), m, nil
		}
		head := make([]byte, min(m.size, 16))
		if err := readFullAt(r, head, m.off); err != nil {
			return nil, m, &FormatError{File: file, Offset: m.off, Kind: ErrTruncated, Detail: m.name + " cannot be read", Err: err}
		}
		c := compressionOf(head)
		if c == nil || c.open == nil {
			return nil, m, &FormatError{File: file, Offset: m.off, Kind: ErrUnsupported, Detail: "compression of " + m.name}
		}
		var z io.ReadCloser
		err := guarded(c.name, func() (err error) {
			z, err = c.open(bufio.NewReaderSize(section, 256<<10))
			return err
		})
		if err != nil {
			return nil, m, &FormatError{File: file, Offset: m.off, Kind: ErrCorrupt, Detail: m.name, Err: err, Fix: "fetch the package again"}
		}
		return z, m, nil
	}
	return nil, debMember{}, &FormatError{File: file, Kind: ErrCorrupt, Detail: "no member " + prefix, Fix: "fetch the package again"}
}

// debControl reads the control fields of a package: Package, Version, Depends, ... Continuation lines are joined with a space.
func debControl(file string, r io.ReaderAt, size int64) (map[string]string, error) {
	members, err := debMembers(file, r, size)
	if err != nil {
		return nil, err
	}
	z, m, err := openDebMember(file, r, members, "control.tar")
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var fields map[string]string
	err = guarded(m.name, func() error {
		t := tar.NewReader(&cappedReader{r: z, left: maxControlBytes})
		for {
			h, err := t.Next()
			if err != nil {
				return noEOF(err)
			}
			if path.Clean(h.Name) != "control" {
				continue
			}
			fields, err = controlFields(t)
			return err
		}
	})
	if err != nil {
		return nil, &FormatError{File: file, Offset: m.off, Kind: ErrCorrupt, Detail: "control fields", Err: err, Fix: "fetch the package again"}
	}
	return fields, nil
}

func controlFields(r io.Reader) (map[string]string, error) {
	fields := map[string]string{}
	last := ""
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxControlBytes)
	for s.Scan() {
		line := s.Text()
		if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
			fields[last] += " " + strings.TrimSpace(line)
			continue
		}
		if name, value, ok := strings.Cut(line, ":"); ok {
			last = name
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields, s.Err()
}

// unpackDeb writes kernel, configuration and the modules that hutch may load (debmodules.go) of a package under root. It returns how many
// kernels there were.
//
// Only regular files with a wanted path are written, with mode 0644; root confines them whatever the archive says.
// Errors: *FormatError for a bad package, the file system's for the rest, ctx.Err.
func unpackDeb(ctx context.Context, root *os.Root, file string, r io.ReaderAt, size int64) (kernels int, err error) {
	members, err := debMembers(file, r, size)
	if err != nil {
		return 0, err
	}
	sel := newModuleSelection()
	first := func(name string) bool {
		if strings.HasPrefix(name, "boot/vmlinuz") {
			kernels++
		}
		if release, f, ok := moduleFile(name); ok {
			sel.listed[release] = append(sel.listed[release], f)
			return sel.wanted[moduleName(path.Base(f))]
		}
		return true
	}
	if err := unpackSome(ctx, root, file, r, members, sel, first); err != nil {
		return kernels, err
	}
	for pass := 1; pass < maxUnpackPasses; pass++ {
		next := sel.missing(root)
		if len(next) == 0 {
			break
		}
		again := func(name string) bool {
			_, f, ok := moduleFile(name)
			return ok && next[moduleName(path.Base(f))]
		}
		if err := unpackSome(ctx, root, file, r, members, sel, again); err != nil {
			return kernels, err
		}
	}
	for release, files := range sel.listed {
		list := strings.NewReader(strings.Join(files, "\n"))
		if err := writeUnder(root, path.Join("lib/modules", release, moduleList), list, &errWriter{}); err != nil {
			return kernels, fmt.Errorf("unpack %s: %w", file, err)
		}
	}
	return kernels, nil
}

// unpackSome reads the data of a package once and writes the files that take agrees to; it is asked about every file that may be wanted.
func unpackSome(ctx context.Context, root *os.Root, file string, r io.ReaderAt, members []debMember, sel *moduleSelection, take func(name string) bool) error {
	z, m, err := openDebMember(file, r, members, "data.tar")
	if err != nil {
		return err
	}
	defer z.Close()
	var diskErr error
	err = guarded(m.name, func() error {
		t := tar.NewReader(&cappedReader{r: z, left: maxDebBytes})
		for files := 0; ; files++ {
			h, err := t.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if files == maxDebFiles {
				return fmt.Errorf("more than %d files", maxDebFiles)
			}
			if err := ctx.Err(); err != nil {
				diskErr = err
				return err
			}
			name := wantedPath(h)
			if name == "" || !take(name) {
				continue
			}
			if h.Size > maxKernelBytes {
				return fmt.Errorf("%s has %d bytes: %w", name, h.Size, errLimit)
			}
			out := &errWriter{}
			if err := writeUnder(root, name, t, out); err != nil {
				diskErr = out.err
				return err
			}
			if _, _, ok := moduleFile(name); ok {
				sel.added = append(sel.added, name)
			}
		}
	})
	switch {
	case diskErr != nil:
		return fmt.Errorf("unpack %s: %w", file, diskErr)
	case errors.Is(err, errLimit):
		return &FormatError{File: file, Offset: m.off, Kind: ErrTooLarge, Detail: m.name, Err: err}
	case err != nil:
		return &FormatError{File: file, Offset: m.off, Kind: ErrCorrupt, Detail: m.name, Err: err, Fix: "fetch the package again"}
	}
	return nil
}

// wantedPath returns where a file of a linux-image package goes, or "" if it is not needed. A merged /usr is undone.
func wantedPath(h *tar.Header) string {
	if h.Typeflag != tar.TypeReg {
		return "" // the links in lib/modules lead to headers that are not there
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	name = strings.TrimPrefix(name, "usr/")
	if !fs.ValidPath(name) || !plainName(name) {
		return ""
	}
	switch {
	case path.Dir(name) == "boot" && (strings.HasPrefix(name, "boot/vmlinuz-") || strings.HasPrefix(name, "boot/config-")):
		return name
	case strings.HasPrefix(name, "lib/modules/"):
		_, _, module := moduleFile(name)
		if module || path.Dir(path.Dir(name)) == "lib/modules" && strings.HasPrefix(path.Base(name), "modules.") {
			return name
		}
	}
	return ""
}

// writeUnder writes r to name below root. out.err tells an error of the disk from one of r.
func writeUnder(root *os.Root, name string, r io.Reader, out *errWriter) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		out.err = err
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		out.err = err
		return err
	}
	out.w = f
	_, err = io.Copy(out, r)
	if cerr := f.Close(); err == nil && cerr != nil {
		out.err, err = cerr, cerr
	}
	return err
}
