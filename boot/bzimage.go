package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Header of a bzImage. Source: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
//
//	offset  size  name             meaning
const (
	hdrSetupSects    = 0x1f1 // 1  setup_sects      size of the real-mode part in 512-byte sectors, without the first; 0 means 4
	hdrBootFlag      = 0x1fe // 2  boot_flag        0xaa55
	hdrMagic         = 0x202 // 4  header           "HdrS"
	hdrVersion       = 0x206 // 2  version          protocol, 0x020f = 2.15
	hdrKernelVersion = 0x20e // 2  kernel_version   offset of the version text, minus 0x200
	hdrInitrdAddrMax = 0x22c // 4  initrd_addr_max  highest address of the last initramfs byte
	hdrCmdlineSize   = 0x238 // 4  cmdline_size     without the NUL
	hdrPayloadOffset = 0x248 // 4  payload_offset   of the packed kernel, from the protected-mode part
	hdrPayloadLength = 0x24c // 4  payload_length
	hdrEnd           = 0x250 // what we read of it
)

const (
	bootFlag           = 0xaa55
	headerMagic        = "HdrS"
	minPayloadProtocol = 0x0208 // payload_offset exists from protocol 2.08 (Linux 2.6.24)
	sectorBytes        = 512
)

const fixGetKernel = "the copy is damaged: fetch the kernel again, for example with `hutch kernel fetch linux-image-cloud-amd64`"

// bzImage is the parsed header of a bzImage.
type bzImage struct {
	file          string
	release       string // first word of the version text, for example 6.1.0-56-cloud-amd64
	payload       int64  // offset in the file
	payloadLen    int64
	method        *compression
	cmdlineMax    uint32
	initrdAddrMax uint32
	unpackedLen   uint32
}

// parseBzImage reads the header of a bzImage of size bytes.
//
// Errors: *FormatError with ErrNotKernel, ErrTruncated, ErrCorrupt or ErrUnsupported.
func parseBzImage(file string, r io.ReaderAt, size int64) (*bzImage, error) {
	fail := func(off int64, kind error, format string, args ...any) error {
		return &FormatError{File: file, Offset: off, Kind: kind, Detail: fmt.Sprintf(format, args...), Fix: fixGetKernel}
	}
	var h [hdrEnd]byte
	if size < hdrEnd {
		return nil, fail(size, ErrTruncated, "a bzImage header needs %d bytes, there are %d", hdrEnd, size)
	}
	if err := readFullAt(r, h[:], 0); err != nil {
		return nil, &FormatError{File: file, Kind: ErrTruncated, Detail: "header cannot be read", Err: err}
	}
	le := binary.LittleEndian
	if le.Uint16(h[hdrBootFlag:]) != bootFlag || string(h[hdrMagic:hdrMagic+4]) != headerMagic {
		return nil, fail(hdrMagic, ErrNotKernel, "no %q signature", headerMagic)
	}
	if v := le.Uint16(h[hdrVersion:]); v < minPayloadProtocol {
		return nil, fail(hdrVersion, ErrUnsupported, "boot protocol %d.%02d names no payload, 2.08 is the oldest that does", v>>8, v&0xff)
	}
	setup := int64(h[hdrSetupSects])
	if setup == 0 {
		setup = 4
	}
	base := (setup + 1) * sectorBytes
	b := &bzImage{
		file:          file,
		payload:       base + int64(le.Uint32(h[hdrPayloadOffset:])),
		payloadLen:    int64(le.Uint32(h[hdrPayloadLength:])),
		cmdlineMax:    le.Uint32(h[hdrCmdlineSize:]),
		initrdAddrMax: le.Uint32(h[hdrInitrdAddrMax:]),
	}
	if b.payloadLen < 16 {
		return nil, fail(hdrPayloadLength, ErrCorrupt, "payload_length is %d", b.payloadLen)
	}
	if b.payload+b.payloadLen > size {
		return nil, fail(size, ErrTruncated, "the payload ends at %#x", b.payload+b.payloadLen)
	}
	b.release = bzRelease(r, size, le.Uint16(h[hdrKernelVersion:]))

	var magic [16]byte
	if err := readFullAt(r, magic[:], b.payload); err != nil {
		return nil, &FormatError{File: file, Offset: b.payload, Kind: ErrTruncated, Detail: "payload cannot be read", Err: err}
	}
	b.method = compressionOf(magic[:])
	if b.method == nil {
		return nil, fail(b.payload, ErrCorrupt, "the payload starts with % x, which is no known compression", magic[:4])
	}
	if b.method.open == nil {
		e := fail(b.payload, ErrUnsupported, "the payload is packed with %s", b.method.name).(*FormatError) //nolint:errorlint // it makes one
		e.Fix = "use a kernel packed with gzip, xz, zstd or lz4, or give its vmlinux"
		return nil, e
	}
	var tail [4]byte
	if err := readFullAt(r, tail[:], b.payload+b.payloadLen-4); err != nil {
		return nil, &FormatError{File: file, Offset: b.payload + b.payloadLen - 4, Kind: ErrTruncated, Detail: "payload cannot be read", Err: err}
	}
	// The kernel build ends every payload with the length of what it unpacks to: gzip has it there by itself, for the others it is
	// appended (scripts/Makefile.lib, size_append).
	b.unpackedLen = le.Uint32(tail[:])
	if b.unpackedLen == 0 || b.unpackedLen > maxKernelBytes {
		return nil, fail(b.payload+b.payloadLen-4, ErrCorrupt, "the payload claims to unpack to %d bytes, 1 to %d are accepted", b.unpackedLen, maxKernelBytes)
	}
	return b, nil
}

// bzRelease reads the first word of the version text, or "" if there is none.
func bzRelease(r io.ReaderAt, size int64, ptr uint16) string {
	if ptr == 0 {
		return ""
	}
	off := int64(ptr) + 0x200
	buf := make([]byte, min(64, max(0, size-off)))
	if readFullAt(r, buf, off) != nil {
		return ""
	}
	return releaseWord(buf)
}

// releaseWord cuts a kernel release from the front of b: printable, no path separator, since it becomes part of file names.
func releaseWord(b []byte) string {
	s := string(b)
	if i := strings.IndexAny(s, " \x00\n"); i >= 0 {
		s = s[:i]
	} else {
		return "" // cut off: rather none than a wrong one
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == '/' || c == '\\' {
			return ""
		}
	}
	if s == "." || s == ".." {
		return ""
	}
	return s
}

// unpack writes the vmlinux in the payload to w. It holds no more than a decoder window in memory.
//
// Errors: *FormatError with ErrCorrupt, ErrTooLarge or ErrTruncated; an error of w as it is.
func (b *bzImage) unpack(w io.Writer, r io.ReaderAt) error {
	n := b.payloadLen
	if b.method.name != "gzip" {
		n -= 4 // the appended length is not part of the stream
	}
	out := &errWriter{w: w}
	limit := int64(b.unpackedLen)
	var got int64
	err := guarded(b.method.name, func() error {
		z, err := b.method.open(io.NewSectionReader(r, b.payload, n))
		if err != nil {
			return err
		}
		defer z.Close()
		got, err = io.Copy(out, &cappedReader{r: z, left: limit})
		return err
	})
	switch {
	case out.err != nil:
		return out.err
	case errors.Is(err, errLimit):
		return &FormatError{File: b.file, Offset: b.payload, Kind: ErrTooLarge, Fix: fixGetKernel,
			Detail: fmt.Sprintf("the %s payload unpacks to more than the %d bytes it declares", b.method.name, limit)}
	case err != nil:
		return &FormatError{File: b.file, Offset: b.payload, Kind: ErrCorrupt, Fix: fixGetKernel, Err: err,
			Detail: fmt.Sprintf("the %s payload fails after %d of %d unpacked bytes", b.method.name, got, limit)}
	case got != limit:
		return &FormatError{File: b.file, Offset: b.payload, Kind: ErrCorrupt, Fix: fixGetKernel,
			Detail: fmt.Sprintf("the %s payload unpacks to %d bytes and declares %d", b.method.name, got, limit)}
	}
	return nil
}

// errWriter remembers the error of a writer, to tell it from one of the reader.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	if err != nil {
		e.err = err
	}
	return n, err
}

// readFullAt fills p from off. io.ReaderAt may answer io.EOF together with a full read.
func readFullAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
