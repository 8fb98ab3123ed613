package execlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"
)

// What a consumer does to the bytes it got touches neither the sink nor other consumers.
func TestDataReadBelongsToItsReader(t *testing.T) {
	f, r := openTest(t, FileOptions{}), NewRing(1000)
	logAll(t, Multi(f, r), out("hello"))
	for _, s := range []Reader{f, r} {
		for _, q := range []Query{{}, {Tail: 1}, {Follow: true}} {
			for range 2 {
				for e, err := range s.Read(t.Context(), q) {
					if err != nil || string(e.Data) != "hello" {
						t.Errorf("%T %+v: %q, %v", s, q, e.Data, err)
					}
					copy(e.Data, "xxxxx")
					break
				}
			}
		}
	}
}

func TestEntriesWithoutASourceAreRefused(t *testing.T) {
	f := openTest(t, FileOptions{})
	var we *WriteError
	if err := f.Log(Entry{Session: "s", Data: []byte("x")}); !errors.As(err, &we) || !errors.Is(err, errNoSource) {
		t.Errorf("Log = %v", err)
	}
	logAll(t, f, out("next")) // a reader would take the line for a corrupt one
	wantTexts(t, f.Path(), "1 1 bytes could not be logged", "2 next")
}

func TestMultiGivesOneTime(t *testing.T) {
	f, r := openTest(t, FileOptions{}), NewRing(1000)
	logAll(t, Multi(f, r), out("x"))
	a, b := collect(t, f, Query{}), collect(t, r, Query{})
	if len(a) != 1 || len(b) != 1 || a[0].Time.IsZero() || !a[0].Time.Equal(b[0].Time) {
		t.Errorf("%+v, %+v", a, b)
	}
}

func TestEntriesAreJSONBothWays(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)
	for _, e := range []Entry{
		{Time: at, Source: Stdout, Session: "a", Data: []byte("text\n"), Seq: 1},
		{Time: at, Source: Stderr, Data: []byte{0xff, 0, 0xc3}, Seq: 1 << 63},
		{Time: at, Source: Output, Data: []byte{}}, // not yet logged
		{Time: at, Source: System, Data: []byte("gone"), Seq: 3, Event: &Event{Kind: Exit, Code: -1, Signal: 9}},
	} {
		b, err := json.Marshal([]Entry{e})
		if err != nil {
			t.Fatal(err)
		}
		var back []Entry
		if err := json.Unmarshal(b, &back); err != nil || len(back) != 1 || !reflect.DeepEqual(back[0], e) {
			t.Errorf("%s came back as %+v, %v", b, back, err)
		}
	}
	e := out("kept")
	if err := json.Unmarshal([]byte("null"), &e); err != nil || string(e.Data) != "kept" {
		t.Errorf("%+v, %v", e, err)
	}
	if err := json.Unmarshal([]byte(`{"t":"2026-01-01T00:00:00Z","s":"stdout","b":"!"}`), &e); err == nil || !bytes.Equal(e.Data, []byte("kept")) {
		t.Errorf("%+v, %v", e, err)
	}
}
