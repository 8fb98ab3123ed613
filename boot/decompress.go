package boot

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// Limits of what is unpacked. They bound what a hostile file can make us allocate; real kernels and modules stay far below.
const (
	maxKernelBytes = 512 << 20 // an unpacked vmlinux; Debian's generic kernel has 66 MB
	maxModuleBytes = 64 << 20  // one .ko; the largest of Debian's (amdgpu) has 15 MB
	maxConfigBytes = 4 << 20
	maxWindow      = 128 << 20 // zstd window and xz dictionary: `zstd -22 --ultra` and `xz -9e` stay below
	lz4LegacyBlock = 8 << 20   // fixed by the lz4 legacy frame format
)

// compression is one way to pack data, recognised by its first bytes.
type compression struct {
	name  string
	magic string
	open  func(r io.Reader) (io.ReadCloser, error) // nil: known by name only
}

// compressions are those of linux/lib/decompress.c, in the same order of magic numbers, so that an unsupported one can be named.
var compressions = []compression{
	{"gzip", "\x1f\x8b", openGzip},
	{"xz", "\xfd7zXZ\x00", openXZ},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"lz4", "\x02\x21\x4c\x18", openLZ4Legacy},
	{"bzip2", "BZh", nil},
	{"lzma", "\x5d\x00\x00", nil},
	{"lzo", "\x89\x4c\x5a\x4f\x00\x0d\x0a\x1a\x0a", nil},
}

func compressionOf(head []byte) *compression {
	for i := range compressions {
		if bytes.HasPrefix(head, []byte(compressions[i].magic)) {
			return &compressions[i]
		}
	}
	return nil
}

func openGzip(r io.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false) // what follows the first member in a kernel is not ours
	return z, nil
}

func openXZ(r io.Reader) (io.ReadCloser, error) {
	z, err := xz.NewReader(r, maxWindow)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return io.NopCloser(z), nil
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	// One decoder goroutine: a hidden pool would outlive an error path and trip leak checks.
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// lz4Legacy reads the legacy lz4 frame that the kernel build writes (`lz4 -l`): a magic number, then blocks of a little-endian length and
// that many compressed bytes, each unpacking to at most 8 MiB. Source: lz4 frame format description, "Legacy frame".
//
// The library's own reader also takes this format, but starts goroutines and has no say about the end of the data, which in a bzImage is
// followed by the length of the output.
type lz4Legacy struct {
	r    io.Reader
	in   []byte
	out  []byte
	left []byte // part of out not yet read
	err  error
}

func openLZ4Legacy(r io.Reader) (io.ReadCloser, error) {
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return nil, noEOF(err)
	}
	return io.NopCloser(&lz4Legacy{r: r}), nil
}

func (z *lz4Legacy) Read(p []byte) (int, error) {
	for len(z.left) == 0 {
		if z.err != nil {
			return 0, z.err
		}
		z.err = z.block()
	}
	n := copy(p, z.left)
	z.left = z.left[n:]
	return n, nil
}

// block unpacks the next block into left.
func (z *lz4Legacy) block() error {
	var head [4]byte
	if _, err := io.ReadFull(z.r, head[:]); err != nil {
		return err // io.EOF between blocks is the end
	}
	n := binary.LittleEndian.Uint32(head[:])
	if int64(n) > int64(lz4.CompressBlockBound(lz4LegacyBlock)) {
		return fmt.Errorf("lz4 block of %d bytes", n)
	}
	if n == 0 {
		return io.EOF
	}
	if z.out == nil {
		z.out = make([]byte, lz4LegacyBlock)
	}
	// Grow with what is really there: a length field alone must not cost 8 MiB.
	buf := bytes.NewBuffer(z.in[:0])
	if _, err := io.CopyN(buf, z.r, int64(n)); err != nil {
		return noEOF(err)
	}
	z.in = buf.Bytes()
	m, err := lz4.UncompressBlock(z.in, z.out)
	if err != nil {
		return err
	}
	z.left = z.out[:m]
	return nil
}

// noEOF turns the end of the input inside a structure into io.ErrUnexpectedEOF, so that no caller takes it for a proper end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// errLimit is what a cappedReader answers at its limit.
var errLimit = errors.New("output limit reached")

// cappedReader is an io.LimitedReader that fails rather than ends at its limit: a bomb must not pass for a short file.
type cappedReader struct {
	r    io.Reader
	left int64
}

func (c *cappedReader) Read(p []byte) (int, error) {
	if c.left < 0 {
		return 0, errLimit
	}
	if int64(len(p)) > c.left+1 {
		p = p[:c.left+1] // one byte past the limit tells a full file from an endless one
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if c.left < 0 {
		return n - 1, errLimit
	}
	return n, err
}

// guarded runs a decoder call and turns a panic of a third-party decoder into an error: the file is not trusted.
func guarded(what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s decoder failed: %v", what, r)
		}
	}()
	return f()
}
