package execlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// texts reads a log, and shows every entry and error in a few characters.
func texts(t *testing.T, path string, q Query) []string {
	t.Helper()
	var list []string
	for e, err := range Read(t.Context(), path, q) {
		var ce *CorruptError
		switch {
		case errors.As(err, &ce):
			list = append(list, fmt.Sprintf("corrupt %s:%d", filepath.Base(ce.File), ce.Line))
		case err != nil:
			t.Fatal(err)
		default:
			list = append(list, fmt.Sprint(e.Seq, " ", string(e.Data)))
		}
	}
	return list
}

func wantTexts(t *testing.T, path string, want ...string) {
	t.Helper()
	if got := texts(t, path, Query{}); !reflect.DeepEqual(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

func out(text string) Entry { return Entry{Source: Stdout, Session: "s", Data: []byte(text)} }

func reopen(t *testing.T, path string, opt FileOptions) *File {
	t.Helper()
	f, err := OpenFile(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// appendRaw appends to a file as a writer that crashes, or another program, does.
func appendRaw(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestEndsThatACrashLeaves(t *testing.T) {
	const whole = `{"t":"2026-01-01T00:00:00Z","s":"stdout","n":2,"d":"two"}`
	for _, tc := range []struct {
		name, end string
		want      []string
	}{
		{"none", "", []string{"1 one", "2 new"}},
		{"torn", `{"t":"20`, []string{"1 one", "2 the log ended within a line: its 8 bytes were cut off", "3 new"}},
		{"only the newline is missing", whole, []string{"1 one", "2 two", "3 new"}},
		{"a torn line of a megabyte", strings.Repeat("\x00", 2*maxLine),
			[]string{"1 one", "2 the log ended within a line: its 2097152 bytes were cut off", "3 new"}},
		{"garbage lines", strings.Repeat("garbage\n", 2), []string{"1 one", "corrupt log:2", "corrupt log:3", "2 new"}},
		{"a garbage line of a megabyte", strings.Repeat("x", 2*maxLine) + "\n", []string{"1 one", "corrupt log:2", "2 new"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := openTest(t, FileOptions{})
			logAll(t, f, out("one"))
			f.Close()
			appendRaw(t, f.Path(), tc.end)
			g := reopen(t, f.Path(), FileOptions{})
			wantTexts(t, f.Path(), tc.want[:len(tc.want)-1]...)
			logAll(t, g, out("new"))
			wantTexts(t, f.Path(), tc.want...)
		})
	}
}

func TestNumbersGoOnInANewFile(t *testing.T) {
	f := openTest(t, FileOptions{})
	logAll(t, f, out("one"), out("two"))
	f.Close()
	if err := os.Rename(f.Path(), f.Path()+".3"); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, f.Path(), "1 one", "2 two") // without a current file
	logAll(t, reopen(t, f.Path(), FileOptions{}), out("three"))
	wantTexts(t, f.Path(), "1 one", "2 two", "3 three")
}

func TestARotationThatFailsMovesNothing(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 1, MaxFiles: 3})
	logAll(t, f, out("one"), out("two"))
	block := f.Path() + ".2"
	if err := os.MkdirAll(filepath.Join(block, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		var we *WriteError
		if err := f.Log(out("lost")); !errors.As(err, &we) || we.Seq != uint64(3+min(i, 1)) { // behind a gap

			t.Fatalf("Log = %v", err)
		}
	}
	if err := os.RemoveAll(block); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, f.Path(), "1 one", "2 two")
	logAll(t, f, out("last"))
	wantTexts(t, f.Path(), "1 one", "2 two", "3 12 bytes of stdout could not be logged", "4 last")
}

func TestARotationFillsHoles(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 1, MaxFiles: 3})
	logAll(t, f, out("one"), out("two"), out("three"))
	if err := os.Remove(f.Path() + ".1"); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, f.Path(), "1 one", "2 1 entries are not kept any more", "3 three")
	logAll(t, f, out("four"))
	wantTexts(t, f.Path(), "1 one", "2 1 entries are not kept any more", "3 three", "4 four")
}

func TestFewerFilesThanBefore(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 1, MaxFiles: 9})
	for i := range 9 {
		logAll(t, f, out(fmt.Sprint(i)))
	}
	f.Close()
	g := reopen(t, f.Path(), FileOptions{MaxSize: 1, MaxFiles: 2})
	logAll(t, g, out("new"))
	wantTexts(t, f.Path(), "9 8", "10 new")
	g.Close()
	logAll(t, reopen(t, f.Path(), FileOptions{MaxSize: 1, MaxFiles: 1, Sync: true, Perm: 0o640}), out("newer"))
	wantTexts(t, f.Path(), "11 newer")
	if st, err := os.Stat(f.Path()); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestALinkIsTheFileItNames(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 1})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(f.Path(), link); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(link, FileOptions{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second writer by a link: %v", err)
	}
	f.Close()
	g := reopen(t, link, FileOptions{MaxSize: 1})
	logAll(t, g, out("one"), out("two"))
	wantTexts(t, f.Path(), "1 one", "2 two")
}

func TestFilesThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenFile(dir, FileOptions{}); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := OpenFile(filepath.Join(dir, "none", "log"), FileOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	reopen(t, filepath.Join(dir, "log"), FileOptions{}) // nothing holds its lock
}

func TestTornLinesStayBehindAtARotation(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 200})
	logAll(t, f, out("one"))
	appendRaw(t, f.Path(), `{"t":"`)
	f.w.torn = true // as when the disk would not take it back
	logAll(t, f, out(strings.Repeat("x", 200)))
	if got := texts(t, f.Path(), Query{}); len(got) != 3 || got[1] != "corrupt log.1:2" || got[2][:3] != "2 x" {
		t.Errorf("%q", got)
	}
}

// A line that its writer takes back and writes another way is read once, whole.
func TestUnfinishedLinesAreReadAgain(t *testing.T) {
	f := openTest(t, FileOptions{})
	logAll(t, f, out("one"))
	st, err := os.Stat(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	appendRaw(t, f.Path(), `{"t":"2026-01-01T00:00:00Z","s":"stdout","n":2,"d":"taken back`)
	var got []string
	r := &fileReader{ctx: t.Context(), path: f.Path(), yield: func(e Entry, err error) bool {
		got = append(got, fmt.Sprint(string(e.Data), err))
		return true
	}}
	defer r.close()
	files, _, err := openNewer(f.Path(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.files(files)
	if err := os.Truncate(f.Path(), st.Size()); err != nil {
		t.Fatal(err)
	}
	logAll(t, f, out(strings.Repeat("longer", 100)))
	r.grown()
	if want := []string{"one<nil>", strings.Repeat("longer", 100) + "<nil>"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

// Every reading that happens while files rotate is a part of the log without holes.
func TestReadersSeeNoHolesWhileFilesRotate(t *testing.T) {
	for _, maxFiles := range []int{2, 5, 5000} {
		f := openTest(t, FileOptions{MaxSize: 400, MaxFiles: maxFiles})
		var wg sync.WaitGroup
		done := make(chan struct{})
		for range 3 {
			wg.Go(func() {
				for n := 0; ; n++ {
					var last uint64
					for e, err := range f.Read(t.Context(), Query{}) {
						gap := e.Event != nil && maxFiles < 5000 && e.Seq > last // it was paused so long that files are gone
						if err != nil || !gap && (last > 0 || maxFiles == 5000) && e.Seq != last+1 {
							t.Errorf("%d files: after %d: %+v, %v", maxFiles, last, e, err)
							return
						}
						last = e.Seq
					}
					select {
					case <-done:
						return
					default:
					}
				}
			})
		}
		for i := range 600 {
			logAll(t, f, out(fmt.Sprint(i)))
		}
		close(done)
		wg.Wait()
	}
}

// A follower that is slower than the rotation learns how much it missed.
func TestSlowFollowersCountWhatTheyMissed(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 1, MaxFiles: 2})
	logAll(t, f, out("0"))
	next, stop := pull(f.Read(t.Context(), Query{Follow: true, Sources: []Source{Stdout}, Poll: time.Millisecond}))
	defer stop()
	if e, err, _ := next(); err != nil || e.Seq != 1 {
		t.Fatal(e, err)
	}
	for i := 1; i < 10; i++ {
		logAll(t, f, out(fmt.Sprint(i)))
	}
	for _, want := range []string{"8 7 entries are not kept any more", "9 8", "10 9"} {
		if e, err, _ := next(); err != nil || fmt.Sprint(e.Seq, " ", string(e.Data)) != want {
			t.Fatalf("%d %s, %v; want %s", e.Seq, e.Data, err, want)
		}
	}
}

func TestFollowersGoOnInALogThatBeginsAnew(t *testing.T) {
	for name, anew := range map[string]func(f *File) error{
		"removed": func(f *File) error { return errors.Join(f.Close(), os.Remove(f.Path())) },
		"emptied": func(f *File) error { return errors.Join(f.Close(), os.Truncate(f.Path(), 0)) },
	} {
		f := openTest(t, FileOptions{})
		logAll(t, f, out("a"), out("b"), out("c"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		next, stop := pull(Read(ctx, f.Path(), Query{Follow: true, After: 1, Poll: time.Millisecond}))
		for _, want := range []string{"b", "c", "d", "e"} {
			if want == "d" {
				if err := anew(f); err != nil {
					t.Fatal(err)
				}
				logAll(t, reopen(t, f.Path(), FileOptions{}), out("d"), out("e"))
			}
			if e, err, ok := next(); err != nil || !ok || string(e.Data) != want {
				t.Errorf("%s: %+v, %v; want %s", name, e, err, want)
			}
		}
		stop()
	}
}

func TestFollowersWaitForALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for e, err := range Read(ctx, path, Query{Follow: true, Tail: 3, Poll: time.Millisecond}) {
			if err != nil || string(e.Data) != "x" {
				t.Errorf("%+v, %v", e, err)
			}
			return
		}
		t.Error("nothing came")
	})
	logAll(t, reopen(t, path, FileOptions{}), out("x"))
	wg.Wait()
}

// Logs of several Writers may stand behind each other in a file: all is read.
func TestWritersMayAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for range 2 {
		var b bytes.Buffer
		logAll(t, NewWriter(&b), out("x"), out("y"))
		appendRaw(t, path, b.String())
	}
	wantTexts(t, path, "1 x", "2 y", "1 x", "2 y")
}

func TestAnEndOfReadingBeforeTheEndIsAnError(t *testing.T) {
	f, r := openTest(t, FileOptions{}), NewRing(1000)
	logAll(t, Multi(f, r), out("x"), out("y"))
	for _, s := range []Reader{f, r} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		for e, err := range s.Read(ctx, Query{}) {
			got = append(got, fmt.Sprint(string(e.Data), " ", err))
			cancel()
		}
		if want := []string{"x <nil>", " context canceled"}; !reflect.DeepEqual(got, want) {
			t.Errorf("%T: %q", s, got)
		}
	}
}

func TestWritersThatFailAfterAnEntryLoseNothing(t *testing.T) {
	var b bytes.Buffer
	fail := true
	w := NewWriter(writerFunc(func(p []byte) (int, error) {
		n, _ := b.Write(p)
		if fail {
			return n, io.ErrClosedPipe
		}
		return n, nil
	}))
	if err := w.Log(out("one")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Log = %v", err)
	}
	fail = false
	logAll(t, w, out("two"))
	path := filepath.Join(t.TempDir(), "log")
	appendRaw(t, path, b.String())
	wantTexts(t, path, "1 one", "2 two")
}

// lineOf is a line as a Writer makes it.
func lineOf(t *testing.T, seq uint64, text string) string {
	t.Helper()
	b, err := appendLine(nil, &Entry{Time: time.Unix(1, 0), Source: Stdout, Seq: seq, Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestGapsAreWhatNothingElseExplains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	appendRaw(t, path, lineOf(t, 1, "a")+"garbage\n"+lineOf(t, 3, "c")+"garbage\n"+lineOf(t, 7, "g"))
	appendRaw(t, path, lineOf(t, 1, "a")+lineOf(t, 3, "c")) // another Writer's
	wantTexts(t, path, "1 a", "corrupt log:2", "3 c", "corrupt log:4", "6 3 entries are not kept any more", "7 g",
		"1 a", "2 1 entries are not kept any more", "3 c")
}

// waiting calls f when a reader waits.
type waiting struct {
	context.Context
	f func()
}

func (w *waiting) Done() <-chan struct{} {
	if f := w.f; f != nil {
		w.f = nil
		f()
	}
	return w.Context.Done()
}

func TestAnUnfinishedLineIsWaitedFor(t *testing.T) {
	l := lineOf(t, 1, "x")
	for _, tc := range []struct{ rest, want string }{{l[9:], "x <nil>"}, {"", io.ErrUnexpectedEOF.Error()}} {
		path := filepath.Join(t.TempDir(), "log")
		appendRaw(t, path, l[:9])
		var got []string
		ctx := &waiting{t.Context(), func() { appendRaw(t, path, tc.rest) }}
		for e, err := range Read(ctx, path, Query{}) {
			got = append(got, fmt.Sprint(string(e.Data), " ", err))
		}
		if len(got) != 1 || !strings.HasSuffix(got[0], tc.want) {
			t.Errorf("%q, want %s", got, tc.want)
		}
	}
}
