package execlog

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestLinesAreAsDocumented(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 7, time.FixedZone("", 3600))
	for _, tc := range []struct {
		e    Entry
		want string
	}{
		{Entry{Time: at, Source: Stdout, Session: "a1", Seq: 7, Data: []byte("<ä> \"q\" \\ \t\r\n\x00\x1b\x7f\u2028")},
			`{"t":"2026-02-03T03:05:06.000000007Z","s":"stdout","id":"a1","n":7,"d":"<ä> \"q\" \\ \t\r\n\u0000\u001b` + "\x7f\u2028" + `"}`},
		{Entry{Time: at, Source: Stderr, Seq: 8, Data: []byte("\xe2\x82")}, `{"t":"2026-02-03T03:05:06.000000007Z","s":"stderr","n":8,"b":"4oI="}`},
		{Entry{Time: at, Source: Output, Seq: 9, Session: "\xff"}, `{"t":"2026-02-03T03:05:06.000000007Z","s":"output","id":"\ufffd","n":9,"d":""}`},
		{Entry{Time: at, Source: System, Session: "a1", Seq: 10, Data: []byte("killed"), Event: &Event{Kind: Exit, Code: -1, Signal: 9}},
			`{"t":"2026-02-03T03:05:06.000000007Z","s":"system","id":"a1","n":10,"d":"killed","e":{"kind":"exit","code":-1,"signal":9}}`},
		{Entry{Time: at, Source: System, Session: "a1", Seq: 11, Data: []byte("exit status 0"), Event: &Event{Kind: Exit}},
			`{"t":"2026-02-03T03:05:06.000000007Z","s":"system","id":"a1","n":11,"d":"exit status 0","e":{"kind":"exit","code":0}}`},
		{Entry{Time: at, Source: System, Session: "a1", Seq: 12, Data: []byte("started"), Event: &Event{Kind: Start, PID: 5}},
			`{"t":"2026-02-03T03:05:06.000000007Z","s":"system","id":"a1","n":12,"d":"started","e":{"kind":"start","pid":5}}`},
	} {
		got, err := appendLine([]byte("x"), &tc.e)
		want := strings.ReplaceAll(tc.want, `"\ufffd"`, "\"\ufffd\"")
		if err != nil || string(got) != "x"+want+"\n" {
			t.Errorf("%s, %v\nwant %s", got, err, want)
		}
	}
	if _, err := appendLine(nil, &Entry{Time: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC), Source: Stdout, Seq: 1}); err == nil {
		t.Error("a year that no reader understands was written")
	}
	if _, err := decodeLine([]byte("{\"t\":\"2026-01-01T00:00:00Z\",\"s\":\"stdout\",\"n\":1,\"d\":\"\xff\"}")); err != errNotUTF8 {
		t.Errorf("a line with a wrong byte: %v", err)
	}
}

func FuzzDecodeLine(f *testing.F) {
	f.Add([]byte(`{"t":"2026-01-01T00:00:00Z","s":"stdout","id":"x","n":1,"d":"hello"}`))
	f.Add([]byte(`{"t":"2026-01-01T00:00:00Z","s":"system","n":2,"b":"/w==","e":{"kind":"exit","code":-1,"signal":9}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s string
		if err := json.Unmarshal(appendString(nil, string(b)), &s); err != nil || s != string([]rune(string(b))) {
			t.Fatalf("%q as a string came back as %q, %v", b, s, err)
		}
		e := Entry{Time: time.Unix(1, 2).UTC(), Source: Stdout, Session: "s", Data: b, Seq: 1}
		l, err := appendLine(nil, &e)
		if err == nil {
			back, err := decodeLine(bytes.TrimSuffix(l, []byte("\n")))
			if err != nil || !bytes.Equal(back.Data, b) || bytes.Count(l, []byte("\n")) != 1 {
				t.Fatalf("%q came back as %q, %v", b, back.Data, err)
			}
		}
		d, err := decodeLine(b)
		if err != nil || !utf8.ValidString(d.Session) {
			return
		}
		l, err = appendLine(nil, &d)
		if err != nil {
			return
		}
		back, err := decodeLine(bytes.TrimSuffix(l, []byte("\n")))
		if err != nil || !bytes.Equal(back.Data, d.Data) || back.Session != d.Session || back.Seq != d.Seq {
			t.Fatalf("%+v came back as %+v, %v", d, back, err)
		}
	})
}

func BenchmarkLog(b *testing.B) {
	data := bytes.Repeat([]byte("0123456789abcde\n"), 256) // 4 KiB
	f, err := OpenFile(filepath.Join(b.TempDir(), "log"), FileOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for name, s := range map[string]Sink{"writer": NewWriter(io.Discard), "file": f, "ring": NewRing(1 << 20), "slog": NewHandler(slog.NewJSONHandler(io.Discard, nil))} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Log(Entry{Source: Stdout, Session: "s", Data: data}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	f, err := OpenFile(filepath.Join(b.TempDir(), "log"), FileOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := bytes.Repeat([]byte("0123456789abcde\n"), 256) // 4 KiB
	const entries = 1000
	for range entries {
		if err := f.Log(Entry{Source: Stdout, Session: "s", Data: data}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(entries * len(data)))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range f.Read(b.Context(), Query{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != entries {
			b.Fatalf("%d entries", n)
		}
	}
}
