package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func mustFiles(t testing.TB, files ...File) []byte {
	t.Helper()
	data, err := Files(files)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func archive(t testing.TB, data []byte) *Archive {
	t.Helper()
	a, err := NewArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var sample = []File{
	{Name: "/etc/conf", Data: []byte("key=value\n"), Mode: 0o600, UID: 7, GID: 8},
	{Name: "lib/hutch/modules/001-a.ko", Data: []byte("odd")},
	{Name: "init", Data: []byte("x"), Mode: 0o755},
	{Name: "bin/tool", Data: []byte("../init"), Mode: fs.ModeSymlink},
	{Name: "srv", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	{Name: "empty"},
}

func TestFilesAreReadBackByAnotherImplementation(t *testing.T) {
	data := mustFiles(t, sample...)
	if len(data)%4 != 0 {
		t.Errorf("length %d is no multiple of four", len(data))
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		var content bytes.Buffer
		if r.ReaderAt != nil {
			buf := make([]byte, r.FileSize)
			if _, err := r.ReadAt(buf, 0); err != nil && len(buf) > 0 {
				t.Fatal(err)
			}
			content.Write(buf)
		}
		got = append(got, fmt.Sprintf("%s %o %d:%d %q", r.Name, r.Mode, r.UID, r.GID, content.String()))
	}
	want := []string{
		`bin 40755 0:0 ""`, `bin/tool 120777 0:0 "../init"`, `empty 100644 0:0 ""`, `etc 40755 0:0 ""`, `etc/conf 100600 7:8 "key=value\n"`,
		`init 100755 0:0 "x"`, `lib 40755 0:0 ""`, `lib/hutch 40755 0:0 ""`, `lib/hutch/modules 40755 0:0 ""`,
		`lib/hutch/modules/001-a.ko 100644 0:0 "odd"`, `srv 41777 0:0 ""`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("entries\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestFilesDoNotDependOnTheirOrder(t *testing.T) {
	want := mustFiles(t, sample...)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		mixed := slices.Clone(sample)
		r.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if got := mustFiles(t, mixed...); !bytes.Equal(got, want) {
			t.Fatalf("another order gives another archive (seed %d)", seed)
		}
	}
}

func TestImpliedDirectoriesKeepTheModeOfTheBaseImage(t *testing.T) {
	a := archive(t, mustFiles(t, File{Name: "tmp/x"}, File{Name: "root/.profile"}))
	for name, want := range map[string]string{"tmp": "dtrwxrwxrwx", "root": "drwx------"} {
		if e, err := a.Lookup(name); err != nil || e.Mode.String() != want {
			t.Errorf("%s = %v, %v; want %s", name, e.Mode, err, want)
		}
	}
}

func TestFilesRejectsWhatCannotBeStored(t *testing.T) {
	for name, files := range map[string][]File{
		"root itself":         {{Name: "/"}},
		"no name":             {{}},
		"parent":              {{Name: "../x"}},
		"parent inside":       {{Name: "a/../../x"}},
		"not clean":           {{Name: "a//b"}},
		"trailing slash":      {{Name: "a/"}},
		"NUL":                 {{Name: "a\x00b"}},
		"trailer":             {{Name: trailer}},
		"long":                {{Name: strings.Repeat("a", maxName)}},
		"twice":               {{Name: "a"}, {Name: "/a"}},
		"below a file":        {{Name: "a"}, {Name: "a/b/c"}},
		"directory with data": {{Name: "d", Mode: fs.ModeDir, Data: []byte("x")}},
		"link without target": {{Name: "l", Mode: fs.ModeSymlink}},
		"link with NUL":       {{Name: "l", Mode: fs.ModeSymlink, Data: []byte("a\x00")}},
		"device":              {{Name: "d", Mode: fs.ModeDevice}},
	} {
		if _, err := Files(files); !errors.Is(err, ErrInvalidFile) {
			t.Errorf("%s: err = %v, want ErrInvalidFile", name, err)
		}
	}
}

func TestConcatenatedArchivesAreOneAndTheLastEntryWins(t *testing.T) {
	first := mustFiles(t, File{Name: "init", Data: []byte("old"), Mode: 0o755}, File{Name: "kept", Data: []byte("k")})
	second := mustFiles(t, File{Name: "init", Data: []byte("newer"), Mode: 0o700})
	for _, padding := range []int{0, 4, 512, 8192} {
		data := slices.Concat(first, make([]byte, padding), second, make([]byte, padding))
		a := archive(t, data)
		got, err := a.ReadFile("/init", 100)
		if err != nil || string(got) != "newer" {
			t.Errorf("padding %d: init = %q, %v", padding, got, err)
		}
		if got, err := a.ReadFile("kept", 100); err != nil || string(got) != "k" {
			t.Errorf("padding %d: kept = %q, %v", padding, got, err)
		}
		if n := len(a.Entries()); n != 3 {
			t.Errorf("padding %d: %d entries, want 3", padding, n)
		}
	}
}

func TestHasInit(t *testing.T) {
	run := File{Name: "bin/agent", Data: []byte("x"), Mode: 0o755}
	for name, c := range map[string]struct {
		files []File
		want  bool
	}{
		"program":          {[]File{{Name: "init", Data: []byte("x"), Mode: 0o755}}, true},
		"none":             {[]File{run}, false},
		"not executable":   {[]File{{Name: "init", Data: []byte("x"), Mode: 0o644}}, false},
		"empty":            {[]File{{Name: "init", Mode: 0o755}}, false},
		"directory":        {[]File{{Name: "init", Mode: fs.ModeDir}}, false},
		"relative link":    {[]File{run, {Name: "init", Mode: fs.ModeSymlink, Data: []byte("bin/agent")}}, true},
		"absolute link":    {[]File{run, {Name: "init", Mode: fs.ModeSymlink, Data: []byte("/bin/agent")}}, true},
		"dangling link":    {[]File{{Name: "init", Mode: fs.ModeSymlink, Data: []byte("bin/agent")}}, false},
		"link to itself":   {[]File{{Name: "init", Mode: fs.ModeSymlink, Data: []byte("init")}}, false},
		"link out of root": {[]File{run, {Name: "init", Mode: fs.ModeSymlink, Data: []byte("../../bin/agent")}}, true},
	} {
		if got := archive(t, mustFiles(t, c.files...)).HasInit(); got != c.want {
			t.Errorf("%s: HasInit = %v, want %v", name, got, c.want)
		}
	}
}

func TestCorruptArchivesAreNamedWithTheirOffset(t *testing.T) {
	good := mustFiles(t, File{Name: "a", Data: []byte("12345")}, File{Name: "b", Mode: fs.ModeSymlink, Data: []byte("a")})
	second := int64(bytes.Index(good[6:], []byte(magic)) + 6)
	set := func(off int64, s string) []byte {
		d := slices.Clone(good)
		copy(d[off:], s)
		return d
	}
	for name, c := range map[string]struct {
		data   []byte
		offset int64
		say    string
	}{
		"empty":             {nil, 0, "trailer"},
		"only zeros":        {make([]byte, 64), 64, ""},
		"gzip":              {[]byte("\x1f\x8b\x08\x00"), 0, "gzip"},
		"zstd":              {[]byte("\x28\xb5\x2f\xfd\x00\x00\x00\x00"), 0, "zstd"},
		"ELF":               {[]byte("\x7fELF\x02\x01\x01"), 0, "ELF"},
		"text":              {[]byte("hello, world"), 0, "magic"},
		"cut in header":     {good[:50], 0, "cut off"},
		"cut in content":    {good[:second-4], 0, "cut off"},
		"cut before 2nd":    {good[:second], second, "trailer"},
		"garbage after":     {append(slices.Clone(good), "garbage!"...), int64(len(good)), "magic"},
		"bad hex":           {set(14, "0000zzzz"), 0, "hexadecimal"},
		"signed hex":        {set(14, "+0000001"), 0, "hexadecimal"},
		"huge content":      {set(54, "FFFFFFFF"), 0, "cut off"},
		"no name":           {set(94, "00000000"), 0, "name"},
		"huge name":         {set(94, "FFFFFFFF"), 0, "name"},
		"name without NUL":  {set(111, "x"), 0, "NUL"},
		"second magic":      {set(second, "070799"), second, "magic"},
		"unknown file type": {set(14, "0000F1FF"), 0, "type"},
		"not aligned":       {slices.Concat(good, []byte{0, 0}, good), int64(len(good)) + 2, "multiple of four"},
	} {
		_, err := NewArchive(bytes.NewReader(c.data), int64(len(c.data)))
		if name == "only zeros" {
			if err != nil {
				t.Errorf("only zeros: %v; the kernel takes that as nothing", err)
			}
			continue
		}
		var bad *FormatError
		if !errors.As(err, &bad) || !errors.Is(err, ErrFormat) {
			t.Errorf("%s: err = %v, want a FormatError", name, err)
			continue
		}
		if bad.Offset != c.offset || !strings.Contains(bad.Error(), c.say) {
			t.Errorf("%s: %v; want offset %d and the word %q", name, err, c.offset, c.say)
		}
	}
}

func TestReadFileHonoursItsLimit(t *testing.T) {
	a := archive(t, mustFiles(t, File{Name: "f", Data: []byte("12345")}))
	if _, err := a.ReadFile("f", 4); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("err = %v, want ErrInvalid", err)
	}
	if _, err := a.ReadFile("g", 4); !errors.Is(err, ErrNotFound) {
		t.Errorf("err = %v, want ErrNotFound", err)
	}
}

func TestOpenNamesTheFile(t *testing.T) {
	p := filepath.Join(t.TempDir(), "image")
	if _, err := Open(p); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), p) {
		t.Errorf("err = %v, want ErrNotExist naming %s", err, p)
	}
	if err := os.WriteFile(p, []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), p) {
		t.Errorf("err = %v, want ErrFormat naming %s", err, p)
	}
	if _, err := Open(filepath.Dir(p)); !errors.Is(err, ErrFormat) {
		t.Errorf("err = %v, want ErrFormat for a folder", err)
	}
}

// FuzzCpio holds the reader to: no panic, entries inside the file, and agreement with u-root's reader on what both accept.
func FuzzCpio(f *testing.F) {
	good := mustFiles(f, sample...)
	f.Add(good)
	f.Add(slices.Concat(good, make([]byte, 8), good))
	f.Add(good[:100])
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := NewArchive(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("err = %v, want a FormatError", err)
			}
			return
		}
		for _, e := range a.Entries() {
			if e.Offset < 0 || e.Size < 0 || e.Offset+e.Size > int64(len(data)) {
				t.Fatalf("entry %+v lies outside %d bytes", e, len(data))
			}
			if _, err := a.Lookup(e.Name); err != nil && e.Name != "/" {
				t.Fatalf("entry %q cannot be looked up: %v", e.Name, err)
			}
		}
		a.HasInit()
	})
}

func BenchmarkFiles(b *testing.B) {
	files := []File{{Name: "lib/hutch/modules/001-x.ko", Data: make([]byte, 1<<20)}}
	b.SetBytes(1 << 20)
	for b.Loop() {
		if _, err := Files(files); err != nil {
			b.Fatal(err)
		}
	}
}
