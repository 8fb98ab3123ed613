package boot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"go.uber.org/goleak"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// verifyGoroutines runs the tests; goroutines must not outlive them.
func verifyGoroutines(m *testing.M) { goleak.VerifyTestMain(m) }

// testCache gives the test a cache of its own.
func testCache(t testing.TB) string {
	dir := t.TempDir()
	t.Setenv(cachedir.Env, dir)
	return dir
}

type testSegment struct {
	paddr uint64
	data  []byte
	memsz uint64 // 0: len(data)
}

// testELF builds a vmlinux with its entry at the first segment.
func testELF(segments ...testSegment) []byte {
	le := binary.LittleEndian
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[16:], 2)  // ET_EXEC
	le.PutUint16(h[18:], 62) // x86-64
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], segments[0].paddr)
	le.PutUint64(h[32:], 64)
	le.PutUint16(h[52:], 64)
	le.PutUint16(h[54:], 56)
	le.PutUint16(h[56:], uint16(len(segments)))
	off := uint64(64 + 56*len(segments))
	var data []byte
	for _, s := range segments {
		p := make([]byte, 56)
		le.PutUint32(p[0:], 1) // PT_LOAD
		le.PutUint32(p[4:], 5)
		le.PutUint64(p[8:], off+uint64(len(data)))
		le.PutUint64(p[16:], 0xffffffff80000000+s.paddr)
		le.PutUint64(p[24:], s.paddr)
		le.PutUint64(p[32:], uint64(len(s.data)))
		le.PutUint64(p[40:], max(s.memsz, uint64(len(s.data))))
		h = append(h, p...)
		data = append(data, s.data...)
	}
	return append(h, data...)
}

// smallELF is a vmlinux with a recognisable text and a .bss.
func smallELF() []byte {
	return testELF(testSegment{paddr: 0x100_0000, data: bytes.Repeat([]byte("text"), 3000), memsz: 0x5000},
		testSegment{paddr: 0x100_8000, data: []byte("data segment"), memsz: 0x2000})
}

// pack compresses b. bcj: xz with the x86 filter, which needs the xz program.
func packed(t testing.TB, method string, b []byte) []byte {
	var out bytes.Buffer
	switch method {
	case "gzip":
		z := gzip.NewWriter(&out)
		z.Write(b)
		z.Close()
	case "zstd":
		z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		z.Write(b)
		z.Close()
	case "lz4":
		out.WriteString("\x02\x21\x4c\x18")
		for len(b) > 0 {
			n := min(len(b), lz4LegacyBlock)
			dst := make([]byte, lz4.CompressBlockBound(n))
			var c lz4.Compressor
			m, err := c.CompressBlock(b[:n], dst)
			if err != nil || m == 0 {
				t.Fatalf("lz4: %d, %v", m, err)
			}
			binary.Write(&out, binary.LittleEndian, uint32(m))
			out.Write(dst[:m])
			b = b[n:]
		}
	case "xz":
		xz, err := exec.LookPath("xz")
		if err != nil {
			t.Skip("the xz program is missing (apt-get install xz-utils)")
		}
		cmd := exec.Command(xz, "--check=crc32", "--x86", "--lzma2=dict=1MiB", "-c")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(b), &out
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	default:
		return append([]byte(nil), b...)
	}
	return out.Bytes()
}

const testRelease = "6.99.0-test-amd64"

// testBzImage wraps a packed payload. The length of what it unpacks to is appended as the kernel build does.
func testBzImage(method string, payload []byte, unpacked int) []byte {
	le := binary.LittleEndian
	const setup = 2
	b := make([]byte, (setup+1)*512)
	b[hdrSetupSects] = setup
	le.PutUint16(b[hdrBootFlag:], 0xaa55)
	copy(b[hdrMagic:], "HdrS")
	le.PutUint16(b[hdrVersion:], 0x020f)
	le.PutUint16(b[hdrKernelVersion:], 0x300-0x200)
	copy(b[0x300:], testRelease+" (builder@host) #1 SMP\x00")
	le.PutUint32(b[hdrInitrdAddrMax:], 0x7fffffff)
	le.PutUint32(b[hdrCmdlineSize:], 2047)
	if method != "gzip" {
		payload = le.AppendUint32(append([]byte(nil), payload...), uint32(unpacked))
	}
	const gap = 0x40 // the decompressor's code
	le.PutUint32(b[hdrPayloadOffset:], gap)
	le.PutUint32(b[hdrPayloadLength:], uint32(len(payload)))
	b = append(b, make([]byte, gap)...)
	b = append(b, payload...)
	return append(b, "rest of the image"...)
}

func bzImageOf(t testing.TB, method string, elf []byte) []byte {
	return testBzImage(method, packed(t, method, elf), len(elf))
}

type tarFile struct {
	name string
	data []byte
	link string
}

func testTar(files ...tarFile) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		w.WriteHeader(h)
		w.Write(f.data)
	}
	w.Close()
	return b.Bytes()
}

// testDeb builds a package with this data.tar, packed by method.
func testDeb(t testing.TB, name, depends, method string, data []byte) []byte {
	suffix := map[string]string{"gzip": ".gz", "xz": ".xz", "zstd": ".zst", "": ""}[method]
	control := fmt.Sprintf("Package: %s\nVersion: 6.99-1\nArchitecture: amd64\nDepends: %s\nDescription: test\n more\n", name, depends)
	var b bytes.Buffer
	b.WriteString(arMagic)
	add := func(name string, data []byte) {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", name, 0, 0, 0, 0o100644, len(data))
		b.Write(data)
		if len(data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	add("debian-binary", []byte("2.0\n"))
	add("control.tar"+suffix, packed(t, method, testTar(tarFile{name: "./control", data: []byte(control)})))
	add("data.tar"+suffix, packed(t, method, data))
	return b.Bytes()
}

// testModule builds a relocatable object with this .modinfo.
func testModule(modinfo string) []byte {
	le := binary.LittleEndian
	names := "\x00.modinfo\x00.shstrtab\x00"
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[16:], 1)  // ET_REL
	le.PutUint16(h[18:], 62) // x86-64
	le.PutUint32(h[20:], 1)
	shoff := 64 + len(modinfo) + len(names)
	le.PutUint64(h[40:], uint64(shoff))
	le.PutUint16(h[52:], 64)
	le.PutUint16(h[58:], 64)
	le.PutUint16(h[60:], 3)
	le.PutUint16(h[62:], 2)
	b := append(append(h, modinfo...), names...)
	section := func(name, kind uint32, off, size int) {
		s := make([]byte, 64)
		le.PutUint32(s[0:], name)
		le.PutUint32(s[4:], kind)
		le.PutUint64(s[24:], uint64(off))
		le.PutUint64(s[32:], uint64(size))
		b = append(b, s...)
	}
	section(0, 0, 0, 0)
	section(1, 1, 64, len(modinfo))
	section(10, 3, 64+len(modinfo), len(names))
	return b
}

func writeFile(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// leftovers lists temporary files in the cache.
func leftovers(t testing.TB, dir string) []string {
	var out []string
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && bytes.HasPrefix([]byte(d.Name()), []byte(".new-")) {
			out = append(out, path)
		}
		return nil
	})
	return out
}
