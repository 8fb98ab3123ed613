package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUnpackEveryCompression(t *testing.T) {
	elf := append(smallELF(), bytes.Repeat([]byte("\xe8\x10\x20\x30\x00call"), 4000)...) // calls, so that the BCJ filter has work to do
	for _, method := range []string{"gzip", "xz", "zstd", "lz4"} {
		t.Run(method, func(t *testing.T) {
			img := bzImageOf(t, method, elf)
			bz, err := parseBzImage("vmlinuz", bytes.NewReader(img), int64(len(img)))
			if err != nil {
				t.Fatal(err)
			}
			if bz.release != testRelease || bz.method.name != method || bz.cmdlineMax != 2047 || bz.initrdAddrMax != 0x7fffffff {
				t.Fatalf("header: %+v", bz)
			}
			var out bytes.Buffer
			if err := bz.unpack(&out, bytes.NewReader(img)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), elf) {
				t.Fatalf("unpacked %d bytes differ from the %d packed", out.Len(), len(elf))
			}
		})
	}
}

func TestUnpackStopsAtTheDeclaredLength(t *testing.T) {
	bomb := make([]byte, 32<<20)
	for _, method := range []string{"gzip", "xz", "zstd", "lz4"} {
		t.Run(method, func(t *testing.T) {
			img := bzImageOf(t, method, bomb)
			const declared = 1000
			payload := int64((2+1)*512 + 0x40)
			tail := payload + int64(binary.LittleEndian.Uint32(img[hdrPayloadLength:])) - 4
			binary.LittleEndian.PutUint32(img[tail:], declared)
			bz, err := parseBzImage("bomb", bytes.NewReader(img), int64(len(img)))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = bz.unpack(&out, bytes.NewReader(img))
			if !errors.Is(err, ErrTooLarge) || out.Len() > declared {
				t.Fatalf("unpack = %v after %d bytes, want ErrTooLarge within %d", err, out.Len(), declared)
			}
		})
	}
}

func TestBadImagesGiveTypedErrors(t *testing.T) {
	good := bzImageOf(t, "gzip", smallELF())
	edit := func(b []byte, off int, v ...byte) []byte {
		b = append([]byte(nil), b...)
		copy(b[off:], v)
		return b
	}
	elf := smallELF()
	arm := edit(elf, 18, 183, 0)
	image := make([]byte, 4096)
	copy(image[0x38:], "ARM\x64")
	zboot := make([]byte, 4096)
	copy(zboot, "MZ")
	zboot[0x3c] = 0x80
	copy(zboot[0x80:], "PE\x00\x00\x64\xaa")
	payload := (2+1)*512 + 0x40
	tests := []struct {
		name string
		file []byte
		kind error
		text string // in the message
	}{
		{"empty", nil, ErrTruncated, "empty"},
		{"short", []byte("hi"), ErrTruncated, "too few"},
		{"garbage", bytes.Repeat([]byte("garbage!"), 1000), ErrNotKernel, "67 61 72 62"},
		{"truncated payload", good[:len(good)-100], ErrTruncated, "payload ends at"},
		{"truncated in header", good[:0x240], ErrTruncated, "header"},
		{"flipped payload", edit(good, payload+40, 0xff, 0xff, 0xff, 0xff), ErrCorrupt, "gzip payload fails"},
		{"unknown payload", edit(good, payload, 'Q', 'Q'), ErrCorrupt, "no known compression"},
		{"bzip2 payload", edit(good, payload, 'B', 'Z', 'h'), ErrUnsupported, "bzip2"},
		{"old protocol", edit(good, hdrVersion, 7, 2), ErrUnsupported, "2.07"},
		{"absurd output", edit(good, len(good)-len("rest of the image")-4, 0, 0, 0, 0xff), ErrCorrupt, "claims to unpack"},
		{"bare gzip", packed(t, "gzip", bytes.Repeat([]byte("x"), 5000)), ErrUnsupported, "unpack it first"},
		{"arm64 ELF", arm, ErrForeignArch, "arm64"},
		{"arm64 Image", image, ErrForeignArch, "arm64"},
		{"arm64 Image.gz", packed(t, "gzip", image), ErrForeignArch, "arm64"},
		{"arm64 EFI zboot", zboot, ErrForeignArch, "arm64"},
		{"arm64 in a bzImage", bzImageOf(t, "gzip", arm), ErrForeignArch, "arm64"},
		{"truncated ELF", elf[:len(elf)-1], ErrTruncated, "segment 1 needs"},
		{"ELF header only", elf[:64], ErrTruncated, "program headers"},
		{"no segments", edit(elf, 56, 0, 0), ErrCorrupt, "program headers"},
		{"relocatable ELF", edit(elf, 16, 1, 0), ErrNotKernel, "executable"},
		{"entry outside", edit(elf, 24, 0, 0, 0, 0, 0, 0, 0, 0), ErrCorrupt, "entry point"},
		{"filesz above memsz", edit(elf, 64+40, 1, 0, 0), ErrCorrupt, "segment 0 has"},
		{"address wraps", edit(elf, 64+24, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), ErrCorrupt, "wraps"},
		{"overlap", edit(elf, 64+56+24, 0, 0x10, 0, 1), ErrCorrupt, "overlap"},
		{"offset wraps", edit(elf, 64+8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), ErrTruncated, "segment 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cache := testCache(t)
			path := writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), tt.file)
			k, err := Open(context.Background(), path)
			if k != nil || !errors.Is(err, tt.kind) {
				t.Fatalf("Open = %v, %v; want %v", k, err, tt.kind)
			}
			if !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), path) {
				t.Errorf("message %q lacks %q or the path", err, tt.text)
			}
			if l := leftovers(t, cache); len(l) != 0 {
				t.Errorf("left behind: %v", l)
			}
			if images, _ := os.ReadDir(filepath.Join(cache, "kernels", "vmlinux")); len(images) != 0 {
				t.Errorf("a bad kernel became a cache entry: %v", images)
			}
		})
	}
}

func TestSecondOpenUnpacksNothing(t *testing.T) {
	testCache(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), bzImageOf(t, "gzip", smallELF()))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	var said []string
	say := func(s string) { said = append(said, s) }
	first, err := open(context.Background(), path, say)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.Release != testRelease {
		t.Errorf("Release = %q, want %q", first.Release, testRelease)
	}
	before, err := os.Stat(first.Image)
	if err != nil || len(said) != 1 {
		t.Fatalf("said %q, %v; want one line", said, err)
	}
	second, err := open(context.Background(), path, say)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	after, err := os.Stat(second.Image)
	if err != nil || second.Image != first.Image || !os.SameFile(before, after) || len(said) != 1 {
		t.Fatalf("image %q then %q, said %q (%v)", first.Image, second.Image, said, err)
	}
	// A changed file is not taken for the old one, even with size and time kept.
	elf := smallELF()
	copy(elf[len(elf)-12:], "DATA")
	if err := os.WriteFile(path, testBzImage("none", nil, 1), 0o644); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, bzImageOf(t, "gzip", elf))
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	third, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if third.Image == first.Image {
		t.Fatal("the changed kernel was taken for the old one")
	}
}

func TestDamagedCacheEntryIsUnpackedAgain(t *testing.T) {
	testCache(t)
	path := writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), bzImageOf(t, "zstd", smallELF()))
	k, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if err := os.Truncate(k.Image, 100); err != nil {
		t.Fatal(err)
	}
	k, err = Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	got, err := io.ReadAll(io.NewSectionReader(k.image, 0, k.size))
	if err != nil || !bytes.Equal(got, smallELF()) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatalf("second Close = %v", err)
	}
}

func TestRestsOfAKilledProcessAreRemoved(t *testing.T) {
	cache := testCache(t)
	writeFile(t, filepath.Join(cache, "kernels/vmlinux/.new-1"), []byte("half"))
	writeFile(t, filepath.Join(cache, "kernels/deb/.new-2/boot/vmlinuz"), []byte("half"))
	k, err := Open(context.Background(), writeFile(t, filepath.Join(t.TempDir(), "vmlinuz"), bzImageOf(t, "zstd", smallELF())))
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if l := leftovers(t, cache); len(l) != 0 {
		t.Errorf("still there: %v", l)
	}
}

// TestOneByteMutations changes every byte of a kernel in turn: what is accepted has to be loadable, what is not has to be typed.
func TestOneByteMutations(t *testing.T) {
	elf := testELF(testSegment{paddr: 0x100_0000, data: []byte("text"), memsz: 0x100})
	for _, method := range []string{"gzip", "zstd", "lz4"} {
		img := bzImageOf(t, method, elf)
		from := (2+1)*512 + 0x40 // the payload
		if method == "gzip" {
			from = 0 // the header is the same for all
		}
		for off := from; off < len(img); off++ {
			for _, v := range []byte{0x01, 0x80, 0xff} {
				old := img[off]
				img[off] ^= v
				err := tryImage(img)
				img[off] = old
				if err == nil {
					continue
				}
				var f *FormatError
				var a *ArchError
				if !errors.As(err, &f) && !errors.As(err, &a) {
					t.Fatalf("%s: byte %#x xor %#x: untyped error %v", method, off, v, err)
				}
			}
		}
		if err := tryImage(img); err != nil {
			t.Fatal(err)
		}
	}
}

func tryImage(img []byte) error {
	r := bytes.NewReader(img)
	if _, err := sniff("f", r, int64(len(img))); err != nil {
		return err
	}
	bz, err := parseBzImage("f", r, int64(len(img)))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := bz.unpack(&out, r); err != nil {
		return err
	}
	_, err = parseELF("f", bytes.NewReader(out.Bytes()), int64(out.Len()), "amd64")
	return err
}

func TestCompareVersions(t *testing.T) {
	order := []string{"vmlinuz-5.10.0-9", "vmlinuz-5.10.0-28", "vmlinuz-6.1.0-9-cloud", "vmlinuz-6.1.0-10-cloud", "vmlinuz-6.9.0", "vmlinuz-6.12.0"}
	for i, a := range order {
		for j, b := range order {
			if got := compareVersions(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("compareVersions(%s, %s) = %d", a, b, got)
			}
		}
	}
}

// FuzzBzImage: no input panics, unpacks to more than it declares, or yields segments that lie outside the file or overlap.
func FuzzBzImage(f *testing.F) {
	for _, m := range []string{"gzip", "zstd", "lz4"} {
		f.Add(bzImageOf(f, m, smallELF()))
	}
	f.Add(smallELF())
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, _ = sniff("f", r, int64(len(b)))
		image := b
		if bz, err := parseBzImage("f", r, int64(len(b))); err == nil {
			if bz.unpackedLen > 8<<20 {
				return // legal, but slow for a fuzzer
			}
			var out bytes.Buffer
			err := bz.unpack(&out, r)
			if out.Len() > int(bz.unpackedLen) {
				t.Fatalf("%d bytes out of %d declared", out.Len(), bz.unpackedLen)
			}
			if err != nil {
				return
			}
			image = out.Bytes()
		}
		img, err := parseELF("f", bytes.NewReader(image), int64(len(image)), "amd64")
		if err != nil {
			return
		}
		var last uint64
		inside := false
		for _, s := range img.segments {
			if s.off < 0 || uint64(s.off)+s.filesz > uint64(len(image)) || s.filesz > s.memsz || s.paddr < last || s.paddr+s.memsz < s.paddr {
				t.Fatalf("segment %+v accepted in %d bytes", s, len(image))
			}
			last = s.paddr + s.memsz
			inside = inside || img.entry >= s.paddr && img.entry < last
		}
		if !inside {
			t.Fatalf("entry %#x outside %+v", img.entry, img.segments)
		}
	})
}
