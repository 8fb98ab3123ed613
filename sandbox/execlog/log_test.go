package execlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// children are what the test program does as another process, with the path of a log.
var children map[string]func(path string) error

func TestMain(m *testing.M) {
	if job := children[os.Getenv("EXECLOG_CHILD")]; job != nil {
		if err := job(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func collect(t *testing.T, r Reader, q Query) []Entry {
	t.Helper()
	var list []Entry
	for e, err := range r.Read(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

func openTest(t *testing.T, opt FileOptions) *File {
	t.Helper()
	f, err := OpenFile(filepath.Join(t.TempDir(), "log"), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func logAll(t *testing.T, s Sink, entries ...Entry) {
	t.Helper()
	for _, e := range entries {
		if err := s.Log(e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryByteComesBack(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	want := append(bytes.Repeat(all, 40), strings.Repeat("häß €\u2028\x00𝄞", 500)...)
	for name, s := range map[string]interface {
		Sink
		Reader
	}{"file": openTest(t, FileOptions{MaxFiles: 1000, MaxSize: 9000}), "ring": NewRing(1 << 30)} {
		for rest := want; len(rest) > 0; {
			n := min(1+rnd.IntN(300), len(rest))
			logAll(t, s, Entry{Source: Stdout, Session: "s", Data: rest[:n]})
			rest = rest[n:]
		}
		var got []byte
		for i, e := range collect(t, s, Query{}) {
			if e.Seq != uint64(i+1) || e.Session != "s" || e.Source != Stdout || e.Time.IsZero() {
				t.Fatalf("%s: entry %d: %+v", name, i, e)
			}
			got = append(got, e.Data...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back, want %d, or others", name, len(got), len(want))
		}
	}
}

func TestQueriesSelect(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(1000+s), 0).UTC() }
	entries := []Entry{
		{Time: at(0), Source: System, Session: "a", Data: []byte("started"), Event: &Event{Kind: Start, Args: []string{"sh", "-c", "x"}, PID: 7}},
		{Time: at(1), Source: Stdout, Session: "a", Data: []byte("1")},
		{Time: at(2), Source: Stderr, Session: "b", Data: []byte("2")},
		{Time: at(3), Source: Output, Session: "b", Data: []byte("3\xff")},
		{Time: at(4), Source: Stdout, Session: "a", Data: []byte("4")},
	}
	file, ring := openTest(t, FileOptions{}), NewRing(1<<20)
	logAll(t, Multi(file, ring), entries...)
	for i := range entries {
		entries[i].Seq = uint64(i + 1)
	}
	for _, tc := range []struct {
		name string
		q    Query
		want []int
	}{
		{"all", Query{}, []int{0, 1, 2, 3, 4}},
		{"tail", Query{Tail: 2}, []int{3, 4}},
		{"tail beyond", Query{Tail: 9}, []int{0, 1, 2, 3, 4}},
		{"tail of a session", Query{Tail: 2, Session: "a"}, []int{1, 4}},
		{"since", Query{Since: at(3)}, []int{3, 4}},
		{"until", Query{Until: at(1)}, []int{0, 1}},
		{"sources", Query{Sources: []Source{Stderr, System}}, []int{0, 2}},
		{"session", Query{Session: "b"}, []int{2, 3}},
		{"after", Query{After: 3}, []int{3, 4}},
		{"after and tail", Query{After: 3, Tail: 1}, []int{4}},
		{"nothing", Query{Session: "c"}, nil},
	} {
		for _, r := range []Reader{file, ring} {
			got := collect(t, r, tc.q)
			var want []Entry
			for _, i := range tc.want {
				want = append(want, entries[i])
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s of %T: %+v\nwant %+v", tc.name, r, got, want)
			}
		}
	}
}

// Followers see every entry once, across rotations, while several goroutines write.
func TestFollowersLoseNothingAcrossRotations(t *testing.T) {
	const writers, each = 4, 500
	file := openTest(t, FileOptions{MaxSize: 4000, MaxFiles: 2000})
	ring := NewRing(1 << 30)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range []Reader{file, ring} {
		wg.Go(func() {
			next, seen := uint64(1), make(map[string]int)
			for e, err := range r.Read(ctx, Query{Follow: true, Poll: time.Millisecond}) {
				if err != nil || e.Seq != next || string(e.Data) != fmt.Sprint(seen[e.Session]) {
					t.Errorf("%T: entry %d: %+v, %v", r, next, e, err)
					return
				}
				seen[e.Session]++
				if next++; next > writers*each {
					return
				}
			}
			t.Errorf("%T ended after %d entries", r, next-1)
		})
	}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				e := Entry{Source: Stdout, Session: fmt.Sprint(w), Data: fmt.Append(nil, i)}
				if err := errors.Join(file.Log(e), ring.Log(e)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestRotationKeepsMaxFiles(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 500, MaxFiles: 3})
	for i := range 100 {
		logAll(t, f, Entry{Source: Stdout, Data: fmt.Append(nil, i)})
	}
	names, err := filepath.Glob(f.Path() + "*")
	if err != nil || len(names) != 4 { // and the lock
		t.Fatalf("%v, %v", names, err)
	}
	got := collect(t, f, Query{})
	if len(got) < 6 || got[len(got)-1].Seq != 100 || got[0].Seq != 101-uint64(len(got)) {
		t.Errorf("%d entries, from %d to %d", len(got), got[0].Seq, got[len(got)-1].Seq)
	}
	for _, name := range names {
		if st, err := os.Stat(name); err != nil || st.Size() > 500 || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}

func TestNumbersGoOnAfterACrash(t *testing.T) {
	f := openTest(t, FileOptions{})
	logAll(t, f, Entry{Source: Stdout, Data: []byte("one")}, Entry{Source: Stdout, Data: []byte("two")})
	if _, err := OpenFile(f.Path(), FileOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second writer: %v", err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := f.Log(Entry{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Log after Close = %v", err)
	}
	b, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path(), append(b, `{"t":"2026-01-0`...), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := OpenFile(f.Path(), FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	logAll(t, g, Entry{Source: Stdout, Data: []byte("three")})
	var got []string
	for _, e := range collect(t, g, Query{}) {
		got = append(got, fmt.Sprint(e.Seq, " ", string(e.Data)))
	}
	if want := []string{"1 one", "2 two", "3 the log ended within a line: its 15 bytes were cut off", "4 three"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// flaky fails every write but those with ok set, after n bytes.
type flaky struct {
	bytes.Buffer
	ok bool
	n  int
}

func (w *flaky) Write(p []byte) (int, error) {
	if w.ok {
		return w.Buffer.Write(p)
	}
	n := min(w.n, len(p))
	w.Buffer.Write(p[:n])
	return n, io.ErrClosedPipe
}

func TestWhatCouldNotBeWrittenIsAGap(t *testing.T) {
	for _, torn := range []int{0, 10} {
		w := &flaky{ok: true, n: torn}
		s := NewWriter(w)
		logAll(t, s, Entry{Source: Stdout, Data: []byte("first")})
		w.ok = false
		for range 2 {
			var we *WriteError
			if err := s.Log(Entry{Source: Stdout, Data: []byte("lost!")}); !errors.As(err, &we) || !errors.Is(err, io.ErrClosedPipe) {
				t.Fatalf("Log = %v", err)
			}
		}
		w.ok = true
		logAll(t, s, Entry{Source: Stdout, Data: []byte("last")})
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, w.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		for e, err := range Read(t.Context(), path, Query{}) {
			if err != nil {
				got = append(got, "corrupt")
				continue
			}
			got = append(got, fmt.Sprint(e.Seq, " ", string(e.Data)))
		}
		want := []string{"1 first", "2 10 bytes of stdout could not be logged", "3 last"}
		if torn > 0 {
			want = []string{"1 first", "corrupt", "corrupt", "2 10 bytes of stdout could not be logged", "3 last"}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("torn %d: %q\nwant %q", torn, got, want)
		}
	}
}

func TestFullDiskLeavesWholeLines(t *testing.T) {
	f := openTest(t, FileOptions{})
	logAll(t, f, Entry{Source: Stdout, Data: []byte("a")})
	good := f.f
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.f = full
	if err := f.Log(Entry{Source: Stdout, Data: []byte("b")}); err == nil {
		t.Fatal("a full disk takes an entry")
	}
	f.f = good
	full.Close()
	logAll(t, f, Entry{Source: Stdout, Data: []byte("c")})
	got := collect(t, f, Query{})
	if len(got) != 3 || got[1].Event == nil || got[1].Event.Kind != Gap || got[1].Event.Bytes != 1 || string(got[2].Data) != "c" {
		t.Errorf("%+v", got)
	}
}

func TestRingDropsTheOldestAndTellsFollowers(t *testing.T) {
	r := NewRing(3 * (entryCost + 1))
	next := func(seq iterator) Entry {
		e, err, ok := seq()
		if err != nil || !ok {
			t.Fatal(err, ok)
		}
		return e
	}
	logAll(t, r, Entry{Source: Stdout, Data: []byte("0")})
	seq, stop := pull(r.Read(t.Context(), Query{Follow: true}))
	defer stop()
	if e := next(seq); string(e.Data) != "0" {
		t.Fatalf("%+v", e)
	}
	for i := 1; i < 10; i++ {
		logAll(t, r, Entry{Source: Stdout, Data: fmt.Append(nil, i)})
	}
	if e := next(seq); e.Event == nil || e.Event.Kind != Gap || !strings.Contains(string(e.Data), "6 entries") {
		t.Fatalf("%+v", e)
	}
	for _, want := range []string{"7", "8", "9"} {
		if e := next(seq); string(e.Data) != want {
			t.Fatalf("%+v, want %s", e, want)
		}
	}
}

func TestFollowingEnds(t *testing.T) {
	f, r := openTest(t, FileOptions{}), NewRing(1000)
	for _, s := range []Reader{f, r} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		for _, err := range s.Read(ctx, Query{Follow: true, Poll: time.Millisecond}) {
			t.Errorf("%T: %v", s, err)
		}
		cancel()
		for _, err := range s.Read(t.Context(), Query{Follow: true, Poll: time.Millisecond, Until: time.Now().Add(10 * time.Millisecond)}) {
			t.Errorf("%T: %v", s, err)
		}
	}
	for _, err := range Read(t.Context(), filepath.Join(t.TempDir(), "none"), Query{}) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

func TestGarbageIsReportedAndPassedOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var good bytes.Buffer
	logAll(t, NewWriter(&good), Entry{Source: Stdout, Data: []byte("x")})
	for name, garbage := range map[string]string{
		"text": "hello\n", "empty": "\n", "other json": "[]\n", "no number": `{"t":"2026-01-01T00:00:00Z","s":"stdout","d":""}` + "\n",
		"bad base64": `{"t":"2026-01-01T00:00:00Z","s":"stdout","n":1,"b":"!"}` + "\n", "long": strings.Repeat("x", 3*maxLine) + "\n",
	} {
		if err := os.WriteFile(path, append([]byte(garbage), good.Bytes()...), 0o600); err != nil {
			t.Fatal(err)
		}
		var corrupt, entries int
		for e, err := range Read(t.Context(), path, Query{}) {
			var ce *CorruptError
			switch {
			case errors.As(err, &ce) && ce.Line == 1:
				corrupt++
			case err == nil && string(e.Data) == "x":
				entries++
			default:
				t.Errorf("%s: %v", name, err)
			}
		}
		if corrupt != 1 || entries != 1 {
			t.Errorf("%s: %d corrupt lines, %d entries", name, corrupt, entries)
		}
	}
}
