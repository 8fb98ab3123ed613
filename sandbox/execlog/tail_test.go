package execlog

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The last entries are found from the end; they are those that a reading from the start ends with, whatever stands between and at the ends of files.
func TestTailIsTheEndOfAll(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	for round := range 12 { // an unfinished line is waited for
		path := filepath.Join(t.TempDir(), "log")
		seq := uint64(0)
		for i := 1 + rnd.IntN(4); i >= 0; i-- {
			name := rotated(path, i)
			appendRaw(t, name, "")
			for range rnd.IntN(30) {
				switch rnd.IntN(8) {
				case 0:
					appendRaw(t, name, strings.Repeat("garbage", rnd.IntN(3))+"\n")
				case 1:
					appendRaw(t, name, strings.Repeat("x", tailBlock-20+rnd.IntN(40))+"\n")
				default:
					seq++
					appendRaw(t, name, lineOf(t, seq, strings.Repeat("y", rnd.IntN(300))))
				}
			}
			switch rnd.IntN(6) { // the end of the file
			case 0:
				appendRaw(t, name, `{"t":"torn`)
			case 1:
				seq++
				appendRaw(t, name, strings.TrimSuffix(lineOf(t, seq, "only the newline is missing"), "\n"))
			case 2:
				appendRaw(t, name, strings.Repeat("z", maxLine+rnd.IntN(3*tailBlock)))
			}
		}
		read := func(q Query) (entries []Entry, corrupt map[string]bool) {
			corrupt = make(map[string]bool)
			for e, err := range Read(t.Context(), path, q) {
				var ce *CorruptError
				switch {
				case errors.As(err, &ce):
					if key := ce.Error(); corrupt[key] {
						t.Errorf("twice: %s", key)
					} else {
						corrupt[key] = true
					}
				case err != nil:
					t.Fatal(err)
				case e.Event == nil:
					entries = append(entries, e)
				}
			}
			return entries, corrupt
		}
		all, allCorrupt := read(Query{})
		for _, n := range []int{1, 2, 7, len(all), len(all) + 1, 1 << 40} {
			if n == 0 {
				continue
			}
			got, corrupt := read(Query{Tail: n})
			if want := all[max(0, len(all)-n):]; len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
				t.Errorf("round %d: the last %d are %d entries, want %d, or others", round, n, len(got), len(want))
			}
			for key := range corrupt {
				if !allCorrupt[key] {
					t.Errorf("round %d: the last %d: %s; from the start: %v", round, n, key, allCorrupt)
				}
			}
			if n > len(all) && len(corrupt) != len(allCorrupt) {
				t.Errorf("round %d: %v, want %v", round, corrupt, allCorrupt)
			}
		}
	}
}

// What stands before the last entries is not looked at.
func TestTailReadsNoMoreThanItNeeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	appendRaw(t, path+".1", "garbage\n"+lineOf(t, 1, "one"))
	appendRaw(t, path, "garbage\n"+lineOf(t, 2, "two")+"garbage\n"+lineOf(t, 3, "three"))
	for n, want := range map[int][]string{
		1: {"3 three"}, 2: {"corrupt log:3", "2 two", "3 three"},
		3: {"corrupt log:3", "corrupt log:1", "1 one", "2 two", "3 three"},
	} {
		if got := texts(t, path, Query{Tail: n}); !reflect.DeepEqual(got, want) {
			t.Errorf("the last %d: %q, want %q", n, got, want)
		}
	}
}

// A follower that began with the last entries goes on behind them, with the numbers of lines and the gaps that a reading from the start has.
func TestTailAndFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	appendRaw(t, path, lineOf(t, 1, "one")+"garbage\n"+lineOf(t, 3, "three")+"garbage\n"+lineOf(t, 5, "five")[:20])
	next, stop := pull(Read(t.Context(), path, Query{Tail: 1, Follow: true, Poll: time.Millisecond}))
	defer stop()
	want := func(wants ...string) {
		t.Helper()
		for _, want := range wants {
			e, err, ok := next()
			got := fmt.Sprint(e.Seq, " ", string(e.Data))
			if ce := (*CorruptError)(nil); errors.As(err, &ce) {
				got = fmt.Sprint("corrupt ", ce.Line)
			}
			if !ok || got != want {
				t.Fatalf("%s, %v; want %s", got, err, want)
			}
		}
	}
	want("corrupt 4", "3 three")
	appendRaw(t, path, lineOf(t, 5, "five")[20:]+"garbage\n"+lineOf(t, 9, "nine"))
	want("5 five", "corrupt 6", "8 3 entries are not kept any more", "9 nine")
}

// A line may be there whose size is that of the part which was taken back for it.
func TestUnfinishedLinesOfTheSameSizeAreReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	want := lineOf(t, 1, "another line")
	appendRaw(t, path, lineOf(t, 1, strings.Repeat("a longer one", 10))[:len(want)])
	ctx := &waiting{t.Context(), func() {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Error(err)
		}
	}}
	for e, err := range Read(ctx, path, Query{}) {
		if err != nil || string(e.Data) != "another line" {
			t.Errorf("%q, %v", e.Data, err)
		}
	}
}

func TestTailEndsWithItsConsumer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	appendRaw(t, path, strings.Repeat("garbage\n", 5))
	n := 0
	for _, err := range Read(t.Context(), path, Query{Tail: 5}) {
		if n++; err == nil {
			t.Error("an entry")
		}
		break
	}
	if n != 1 {
		t.Errorf("%d errors", n)
	}
}

// A file full of garbage costs as much as one of entries: its lines are counted once.
func TestTailOfGarbage(t *testing.T) {
	const lines = 300_000
	path := filepath.Join(t.TempDir(), "log")
	appendRaw(t, path, strings.Repeat("\n", lines))
	line := lines
	for _, err := range Read(t.Context(), path, Query{Tail: 5}) {
		var ce *CorruptError
		if !errors.As(err, &ce) || ce.Line != line {
			t.Fatalf("%v, want line %d", err, line)
		}
		line--
	}
	if line != 0 {
		t.Errorf("%d lines were not reported", line)
	}
}

// shrunk is a file of zeros.
type shrunk struct{ size int64 }

func (s shrunk) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	return len(p), nil
}

func TestBackwardsOfAFileThatWasEmptied(t *testing.T) {
	err := backwards(shrunk{10}, 3*tailBlock, func(int64, []byte, bool) bool { return true })
	if !errors.Is(err, io.EOF) {
		t.Errorf("backwards = %v", err)
	}
}

// A line of any length takes no more memory than one that is read.
func TestBackwardsHoldsNoLongLine(t *testing.T) {
	const size = 256 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	lines := 0
	err := backwards(shrunk{size}, size, func(start int64, line []byte, whole bool) bool {
		lines++
		if start != 0 || line != nil || whole {
			t.Errorf("%d bytes at %d, %v", len(line), start, whole)
		}
		return true
	})
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; err != nil || lines != 1 || n > 16*maxLine {
		t.Errorf("%d lines, %d bytes allocated, %v", lines, n, err)
	}
}

func BenchmarkTail(b *testing.B) {
	f, err := OpenFile(filepath.Join(b.TempDir(), "log"), FileOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for range 400_000 { // of about 110 bytes: 4 files
		if err := f.Log(Entry{Source: Stdout, Session: "s", Data: []byte("a line of some output\n")}); err != nil {
			b.Fatal(err)
		}
	}
	for name, q := range map[string]Query{"10": {Tail: 10}, "10 of nothing": {Tail: 10, Session: "none"}, "all": {}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, err := range f.Read(b.Context(), q) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
