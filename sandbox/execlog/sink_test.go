package execlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

func TestACharacterInTwoChunksComesBack(t *testing.T) {
	f := openTest(t, FileOptions{})
	want := "aä€𝄞"
	for i := range len(want) {
		logAll(t, f, out(want[i:i+1]))
	}
	var got string
	for _, e := range collect(t, f, Query{}) {
		got += string(e.Data)
	}
	if got != want {
		t.Errorf("%q", got)
	}
}

func TestLargeOutputBecomesSeveralEntries(t *testing.T) {
	f, r := openTest(t, FileOptions{}), NewRing(1<<24)
	for name, want := range map[string]string{
		"text": strings.Repeat("€", 100_000), "control": strings.Repeat("\x01", 300_000), "binary": strings.Repeat("\xff", 300_000),
	} {
		logAll(t, Multi(f, r), Entry{Source: Output, Session: name, Data: []byte(want)})
		for _, s := range []Reader{f, r} {
			var got strings.Builder
			for _, e := range collect(t, s, Query{Session: name}) {
				if got.Write(e.Data); len(e.Data) > maxData || name == "text" && !utf8.Valid(e.Data) {
					t.Errorf("%s of %T: an entry of %d bytes, or a character was cut", name, s, len(e.Data))
				}
			}
			if got.String() != want {
				t.Errorf("%s of %T: %d bytes, want %d, or others", name, s, got.Len(), len(want))
			}
		}
	}
}

func TestAnEventThatIsTooLargeIsRefusedAndCounted(t *testing.T) {
	f := openTest(t, FileOptions{})
	huge := Entry{Source: System, Session: "s", Data: []byte("started"), Event: &Event{Kind: Start, Args: []string{strings.Repeat("x", maxLine)}}}
	var we *WriteError
	if err := f.Log(huge); !errors.As(err, &we) || we.Seq != 1 {
		t.Errorf("Log = %v", err)
	}
	logAll(t, f, out("next"))
	wantTexts(t, f.Path(), "1 7 bytes of system could not be logged", "2 next")
}

// What is lost is counted for each session and stream, up to a bound.
func TestGapsNameWhatTheyLack(t *testing.T) {
	w := &flaky{}
	s := NewWriter(w)
	for i := range 3 * maxLosses {
		for _, src := range []Source{Stdout, Stderr} {
			if err := s.Log(Entry{Source: src, Session: fmt.Sprint(i), Data: make([]byte, i)}); !errors.Is(err, io.ErrClosedPipe) {
				t.Fatal(err)
			}
		}
	}
	w.ok = true
	logAll(t, s, out("ok"))
	gaps, total := 0, int64(0)
	for l := range bytes.Lines(w.Bytes()) {
		e, err := decodeLine(bytes.TrimSuffix(l, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		if e.Event == nil {
			continue
		}
		gaps++
		total += e.Event.Bytes
		if e.Session != "" && fmt.Sprint(e.Event.Bytes) != e.Session || (e.Session == "") != (e.Event.Source == "") {
			t.Errorf("%+v of %q", e.Event, e.Session)
		}
	}
	if n := int64(3 * maxLosses); gaps != maxLosses+1 || total != n*(n-1) {
		t.Errorf("%d gaps of %d bytes", gaps, total)
	}
}

// A Write that ends anywhere leaves no number twice, and no half line in front of a good one.
func TestWritesThatEndAnywhere(t *testing.T) {
	for n := range 600 {
		w := &flaky{ok: true}
		s := NewWriter(w)
		logAll(t, s, out("one"))
		w.ok, w.n = false, 0
		if s.Log(out("lost")) == nil {
			t.Fatal("no error")
		}
		w.n = n // within the gap, the entry, or behind both
		lost := 4
		if s.Log(out("perhaps")) == nil {
			t.Fatal("no error")
		}
		w.ok = true
		logAll(t, s, out("last"))
		seq, perhaps := uint64(0), 7
		for l := range bytes.Lines(w.Bytes()) {
			e, err := decodeLine(bytes.TrimSuffix(l, []byte("\n")))
			if err != nil {
				continue // what was torn
			}
			if seq++; e.Seq != seq {
				t.Fatalf("%d bytes: number %d after %d in\n%s", n, e.Seq, seq-1, w.Bytes())
			}
			if e.Event != nil {
				lost -= int(e.Event.Bytes)
			}
			if string(e.Data) == "perhaps" {
				perhaps = 0
			}
		}
		if lost+perhaps != 0 || !bytes.HasSuffix(w.Bytes(), []byte("\"d\":\"last\"}\n")) {
			t.Fatalf("%d bytes: %d bytes not accounted for in\n%s", n, lost+perhaps, w.Bytes())
		}
	}
}

func TestTailKeepsItsNumber(t *testing.T) {
	for n := 1; n < 5; n++ {
		last := tail{n: n}
		for i := range uint64(11) {
			last.add(Entry{Seq: i})
			var want []Entry
			for j := max(0, int(i)-n+1); j <= int(i); j++ {
				want = append(want, Entry{Seq: uint64(j)})
			}
			if got := last.all(); !reflect.DeepEqual(got, want) || cap(last.list) > 8 {
				t.Fatalf("the last %d of %d: %+v", n, i+1, got)
			}
		}
	}
}

func TestACursorGoesOnWhereItWas(t *testing.T) {
	const limit = 3 * (entryCost + 2)
	f, r := openTest(t, FileOptions{MaxSize: 1, MaxFiles: 3}), NewRing(limit)
	for i := range 10 {
		logAll(t, Multi(f, r), out(fmt.Sprint(i)))
	}
	for _, s := range []Reader{f, r} {
		for after, want := range map[uint64]string{10: "", 99: "", 9: "10", 7: "8 9 10", 5: "gap 6-7 8 9 10"} {
			var got []string
			for _, e := range collect(t, s, Query{After: after}) {
				if e.Event != nil {
					got = append(got, fmt.Sprintf("gap %d-%d", after+1, e.Seq))
					continue
				}
				got = append(got, fmt.Sprint(e.Seq))
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%T after %d: %q, want %s", s, after, got, want)
			}
		}
	}
}

func TestARingCountsTheBytesAFollowerMissed(t *testing.T) {
	r := NewRing(2 * entryCost) // one entry
	next, stop := pull(r.Read(t.Context(), Query{Follow: true, Session: "s"}))
	defer stop()
	logAll(t, r, out("0"))
	if e, _, _ := next(); string(e.Data) != "0" {
		t.Fatalf("%+v", e)
	}
	logAll(t, r, out("12345"), Entry{Source: System, Data: []byte("not output"), Event: &Event{Kind: SandboxStop}}, out("678"), out("9"))
	e, _, _ := next()
	if e.Event == nil || e.Event.Kind != Gap || e.Event.Bytes != 8 || e.Seq != 4 || e.Source != System {
		t.Errorf("%+v %+v", e, e.Event)
	}
	if e, _, _ := next(); string(e.Data) != "9" {
		t.Errorf("%+v", e)
	}
}

func TestARingStaysWithinItsSize(t *testing.T) {
	const limit = 10_000
	r := NewRing(limit)
	for i := range 5000 {
		e := out(strings.Repeat("x", i%700))
		if i%3 == 0 {
			e = Entry{Source: System, Data: []byte("x"), Event: &Event{Kind: Start, Args: []string{strings.Repeat("a", i%900)}}}
		}
		logAll(t, r, e)
		size := 0
		for _, e := range collect(t, r, Query{}) {
			size += len(e.Data) + entryCost
			if e.Event != nil {
				size += len(e.Event.Args[0])
			}
		}
		if size > limit || cap(r.slots) > 300 {
			t.Fatalf("%d bytes in %d slots", size, cap(r.slots))
		}
	}
}

func TestSinksDoNotKeepData(t *testing.T) {
	f, r := openTest(t, FileOptions{}), NewRing(1<<20)
	j := &joiner{}
	h := NewHandler(j)
	s := Multi(f, r, h)
	buf := make([]byte, 3)
	for i := range 3 {
		copy(buf, strings.Repeat(fmt.Sprint(i), 3))
		logAll(t, s, Entry{Source: Stdout, Data: buf})
	}
	copy(buf, "xxx")
	if err := h.Flush(); err != nil || j.String() != "000111222" {
		t.Errorf("%q, %v", j.String(), err)
	}
	for _, rd := range []Reader{f, r} {
		for i, e := range collect(t, rd, Query{}) {
			if string(e.Data) != strings.Repeat(fmt.Sprint(i), 3) {
				t.Errorf("%T: entry %d is %q", rd, i, e.Data)
			}
		}
	}
}

func TestMultiTriesAllSinks(t *testing.T) {
	r := NewRing(1000)
	err := Multi(NewWriter(&flaky{}), r, NewWriter(&flaky{})).Log(out("x"))
	if !errors.Is(err, io.ErrClosedPipe) || len(collect(t, r, Query{})) != 1 {
		t.Errorf("Log = %v", err)
	}
}

// All sinks at once, from many goroutines: every session's bytes come back in order.
func TestConcurrentWriters(t *testing.T) {
	const writers, each = 8, 200
	var mu sync.Mutex
	lines := make(map[string]int)
	j := &counting{f: func(session, text string) {
		mu.Lock()
		defer mu.Unlock()
		if text != fmt.Sprint(lines[session]) {
			t.Errorf("%s: line %q, want %d", session, text, lines[session])
		}
		lines[session]++
	}}
	f, r := openTest(t, FileOptions{MaxSize: 20_000, MaxFiles: 100}), NewRing(1<<24)
	s := Multi(f, r, NewHandler(j))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				for c := range strings.SplitSeq(fmt.Sprintf("%d\n", i), "") {
					if err := s.Log(Entry{Source: Stdout, Session: fmt.Sprint(w), Data: []byte(c)}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	var want strings.Builder
	for i := range each {
		fmt.Fprintln(&want, i)
	}
	for _, rd := range []Reader{f, r} {
		for w := range writers {
			var got strings.Builder
			for _, e := range collect(t, rd, Query{Session: fmt.Sprint(w)}) {
				got.Write(e.Data)
			}
			if got.String() != want.String() {
				t.Errorf("%T: session %d has other bytes", rd, w)
			}
		}
	}
	for session, n := range lines {
		if n != each {
			t.Errorf("session %s: %d records", session, n)
		}
	}
}

func TestARingWakesItsFollowers(t *testing.T) {
	r := NewRing(1 << 20)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			n := 0
			for e, err := range r.Read(ctx, Query{Follow: true}) {
				if err != nil || string(e.Data) != fmt.Sprint(n) {
					t.Errorf("%+v, %v", e, err)
				}
				if n++; n == 1000 {
					return
				}
			}
			t.Errorf("ended after %d", n)
		})
	}
	for i := range 1000 {
		logAll(t, r, out(fmt.Sprint(i)))
	}
	wg.Wait()
}
