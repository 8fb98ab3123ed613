package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// Bounds of what NewArchive accepts; real images are far below.
const (
	maxEntries = 1 << 20
	// maxLinks bounds the chain HasInit follows, as the kernel does (MAXSYMLINKS).
	maxLinks = 40
)

// An Entry is one file of an archive as its header describes it.
type Entry struct {
	Name     string // without leading slash, as stored otherwise
	Mode     fs.FileMode
	UID, GID uint32
	Size     int64  // of the content, in bytes
	Offset   int64  // of the content, from the start of the archive
	Major    uint32 // of a device node
	Minor    uint32
	Target   string // of a symbolic link
}

// An Archive is a read-only view of one or more concatenated newc archives. It is safe for concurrent use.
type Archive struct {
	r       io.ReaderAt
	entries []Entry
	last    map[string]int // name → index of the entry that wins
	closer  io.Closer
}

// Open opens the archive in the file path. Close it after use.
//
// Errors: those of os.Open, a *FormatError that names the offset.
func Open(path string) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("initramfs: %s: %w: not a regular file", path, ErrFormat)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	a, err := NewArchive(f, info.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	a.closer = f
	return a, nil
}

// Close closes the file when Open opened one. It may be called more than once.
func (a *Archive) Close() error {
	if a.closer == nil {
		return nil
	}
	c := a.closer
	a.closer = nil
	return c.Close()
}

// NewArchive reads all headers of an archive of size bytes. Contents stay unread, except the targets of symbolic links.
//
// Everything the kernel would stop at is an error, and so is a missing trailer: such a file is cut off. Compressed archives are not
// unpacked; the error names the compression. Errors: *FormatError, or what r returned.
func NewArchive(r io.ReaderAt, size int64) (*Archive, error) {
	a := &Archive{r: r, last: map[string]int{}}
	p := parser{r: r, size: size}
	for {
		more, err := p.seek()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		e, err := p.entry()
		if err != nil {
			return nil, err
		}
		if e.Name == trailer {
			p.inside = false
			continue
		}
		p.inside = true
		if len(a.entries) == maxEntries {
			return nil, &FormatError{Offset: p.start, Name: e.Name, Reason: fmt.Sprintf("more than %d entries", maxEntries)}
		}
		a.last[path.Clean(e.Name)] = len(a.entries)
		a.entries = append(a.entries, e)
	}
	if p.inside || size == 0 {
		return nil, &FormatError{Offset: p.pos, Reason: "the archive ends without its trailer: the file is cut off or empty"}
	}
	return a, nil
}

// Entries returns all entries in the order of the archive; of several with one name the last wins. The slice is the caller's.
func (a *Archive) Entries() []Entry { return append([]Entry(nil), a.entries...) }

// Lookup returns the entry that name (with or without leading slash) ends up as. Errors: ErrNotFound. Links are not followed.
func (a *Archive) Lookup(name string) (Entry, error) {
	i, ok := a.last[strings.TrimPrefix(path.Clean("/"+name), "/")]
	if !ok {
		return Entry{}, fmt.Errorf("initramfs: %s: %w", name, ErrNotFound)
	}
	return a.entries[i], nil
}

// ReadFile returns the content of a regular file of at most limit bytes. Errors: ErrNotFound, fs.ErrInvalid (not a regular file, or
// larger), or what the reader returned.
func (a *Archive) ReadFile(name string, limit int64) ([]byte, error) {
	e, err := a.Lookup(name)
	if err != nil {
		return nil, err
	}
	if !e.Mode.IsRegular() || e.Size > limit {
		return nil, fmt.Errorf("initramfs: %s: %w: %v, %d bytes, want a regular file of at most %d", name, fs.ErrInvalid, e.Mode, e.Size, limit)
	}
	data := make([]byte, e.Size)
	if _, err := io.ReadFull(io.NewSectionReader(a.r, e.Offset, e.Size), data); err != nil {
		return nil, fmt.Errorf("initramfs: %s: %w", name, err)
	}
	return data, nil
}

// HasInit reports whether the kernel would find an executable, non-empty /init, following symbolic links inside the archive.
func (a *Archive) HasInit() bool {
	name := "/init"
	for range maxLinks {
		e, err := a.Lookup(name)
		if err != nil {
			return false
		}
		if e.Mode.Type() != fs.ModeSymlink {
			return e.Mode.IsRegular() && e.Mode&0o111 != 0 && e.Size > 0
		}
		if path.IsAbs(e.Target) {
			name = e.Target
		} else {
			name = path.Join(path.Dir(path.Clean("/"+name)), e.Target)
		}
	}
	return false
}

// parser walks the headers of an archive.
type parser struct {
	r      io.ReaderAt
	size   int64
	pos    int64
	start  int64 // of the current header
	inside bool  // between a first entry and its trailer
}

func (p *parser) bad(name, format string, args ...any) error {
	return &FormatError{Offset: p.start, Name: name, Reason: fmt.Sprintf(format, args...)}
}

func (p *parser) read(buf []byte) error {
	if int64(len(buf)) > p.size-p.pos {
		return p.bad("", "cut off: %d bytes needed at %d, %d left", len(buf), p.pos, p.size-p.pos)
	}
	n, err := p.r.ReadAt(buf, p.pos)
	if n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("initramfs: read at %d: %w", p.pos, err)
	}
	p.pos += int64(n)
	return nil
}

// seek moves to the next header: over the zero bytes that may stand between archives, never over any inside one.
func (p *parser) seek() (more bool, err error) {
	var buf [4096]byte
	for !p.inside && p.pos < p.size {
		n := min(int64(len(buf)), p.size-p.pos)
		p.start = p.pos
		if err := p.read(buf[:n]); err != nil {
			return false, err
		}
		skip := int64(len(buf[:n]) - len(bytes.TrimLeft(buf[:n], "\x00")))
		if skip < n {
			p.pos = p.start + skip
			p.start = p.pos
			if p.pos&3 != 0 {
				return false, p.bad("", "archive does not start at a multiple of four")
			}
			break
		}
	}
	p.start = p.pos
	return p.pos < p.size, nil
}

func (p *parser) entry() (Entry, error) {
	var h [headerSize]byte
	if err := p.read(h[:min(6, p.size-p.pos)]); err != nil {
		return Entry{}, err
	}
	if m := string(h[:6]); m != magic && m != magicCRC {
		return Entry{}, p.bad("", "%s", describeMagic(h[:6]))
	}
	if err := p.read(h[6:]); err != nil {
		return Entry{}, err
	}
	var v [13]uint32
	for i := range v {
		field := h[6+8*i : 14+8*i]
		n, err := strconv.ParseUint(string(field), 16, 32)
		if err != nil {
			return Entry{}, p.bad("", "header field %d is %q, not eight hexadecimal digits", i, field)
		}
		v[i] = uint32(n)
	}
	nameSize := int64(v[11])
	if nameSize < 2 || nameSize > maxName {
		return Entry{}, p.bad("", "name of %d bytes, 2 to %d allowed", nameSize, maxName)
	}
	name := make([]byte, nameSize)
	if err := p.read(name); err != nil {
		return Entry{}, err
	}
	if i := bytes.IndexByte(name, 0); i != len(name)-1 {
		return Entry{}, p.bad("", "name %q does not end with its only NUL", name)
	}
	// Inside an archive everything counts from its own start, which is itself a multiple of four.
	p.pos = (p.pos + 3) &^ 3
	e := Entry{Name: string(name[:len(name)-1]), UID: v[2], GID: v[3], Size: int64(v[6]), Offset: p.pos, Major: v[9], Minor: v[10]}
	if e.Size > p.size-p.pos {
		return Entry{}, p.bad(e.Name, "content of %d bytes at %d is cut off, the file has %d bytes", e.Size, p.pos, p.size)
	}
	if e.Name == trailer {
		p.pos = min((p.pos+e.Size+3)&^3, p.size)
		return e, nil
	}
	return e, p.finish(&e, v[1])
}

// finish interprets the mode and moves over the content.
func (p *parser) finish(e *Entry, mode uint32) error {
	var ok bool
	if e.Mode, ok = goMode(mode); !ok {
		return p.bad(e.Name, "mode %o has no known file type", mode)
	}
	if e.Name != "/" {
		e.Name = strings.TrimPrefix(e.Name, "/")
	}
	for _, part := range strings.Split(e.Name, "/") {
		if part == ".." {
			return p.bad(e.Name, "the name leaves the root")
		}
	}
	switch {
	case e.Mode.Type() == fs.ModeSymlink:
		if e.Size == 0 || e.Size >= maxName {
			return p.bad(e.Name, "link target of %d bytes", e.Size)
		}
		target := make([]byte, e.Size)
		if err := p.read(target); err != nil {
			return err
		}
		e.Target = string(target)
	case !e.Mode.IsRegular() && e.Size != 0:
		return p.bad(e.Name, "%v with %d bytes of content", e.Mode, e.Size)
	}
	p.pos = min((e.Offset+e.Size+3)&^3, p.size)
	return nil
}

// goMode translates a stat(2) mode; ok is false for a type that does not exist.
func goMode(mode uint32) (m fs.FileMode, ok bool) {
	m = fs.FileMode(mode & 0o777)
	for unix, bit := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&unix != 0 {
			m |= bit
		}
	}
	switch mode & typeMask {
	case typeRegular:
	case typeDir:
		m |= fs.ModeDir
	case typeSymlink:
		m |= fs.ModeSymlink
	case typeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case typeBlock:
		m |= fs.ModeDevice
	case typeFIFO:
		m |= fs.ModeNamedPipe
	case typeSocket:
		m |= fs.ModeSocket
	default:
		return 0, false
	}
	return m, true
}

// describeMagic names what stands where a header should.
func describeMagic(b []byte) string {
	for prefix, what := range map[string]string{
		"\x1f\x8b":         "compressed with gzip",
		"\x28\xb5\x2f\xfd": "compressed with zstd",
		"\xfd7zXZ":         "compressed with xz",
		"\x02\x21\x4c\x18": "compressed with lz4",
		"\x04\x22\x4d\x18": "compressed with lz4",
		"BZh":              "compressed with bzip2",
		"070707":           "in the old cpio format (odc)",
		"\x7fELF":          "an ELF file, not an archive",
	} {
		if strings.HasPrefix(string(b), prefix) {
			return "the archive is " + what + ": unpack it or write it in newc format first"
		}
	}
	return fmt.Sprintf("header magic is %q, want %q", b, magic)
}
