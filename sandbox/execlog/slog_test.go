package execlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestHandlerMakesLines(t *testing.T) {
	var buf bytes.Buffer
	h := NewHandler(slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	logAll(t, h,
		Entry{Source: System, Session: "a", Data: []byte("started"), Event: &Event{Kind: Start, Args: []string{"ls"}, PID: 3}},
		Entry{Source: Stdout, Session: "a", Data: []byte("one\ntw")},
		Entry{Source: Stderr, Session: "a", Data: []byte("err")},
		Entry{Source: Stdout, Session: "b", Data: []byte("other\r\n")},
		Entry{Source: Stdout, Session: "a", Data: []byte("o\n\xff\n")},
		Entry{Source: System, Session: "a", Data: []byte("exited"), Event: &Event{Kind: Exit, Code: 2}},
		Entry{Source: Output, Session: "c", Data: []byte("held")},
	)
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	want := `level=INFO msg=started source=system session=a event=start args=[ls] pid=3
level=INFO msg=one source=stdout session=a
level=INFO msg=other source=stdout session=b
level=INFO msg=two source=stdout session=a
level=INFO msg=(binary) source=stdout session=a data="/w=="
level=INFO msg=err source=stderr session=a partial=true
level=INFO msg=exited source=system session=a event=exit code=2 signal=0
level=INFO msg=held source=output session=c partial=true
`
	if buf.String() != want {
		t.Errorf("got\n%s\nwant\n%s", buf.String(), want)
	}
	buf.Reset()
	logAll(t, h, Entry{Source: Stdout, Data: bytes.Repeat([]byte("x"), maxPartial)})
	if buf.Len() < maxPartial || len(h.partial) != 0 {
		t.Errorf("%d bytes of a long line, %d held back", buf.Len(), len(h.partial))
	}
}

// joiner puts together what the records of a Handler say that was printed.
type joiner struct {
	slog.Handler
	bytes.Buffer
	largest int
	binary  bool
}

func (j *joiner) Enabled(context.Context, slog.Level) bool { return true }

func (j *joiner) Handle(_ context.Context, r slog.Record) error {
	text, end := []byte(r.Message), "\n"
	var err error
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "data":
			j.binary = true
			text, err = base64.StdEncoding.DecodeString(a.Value.String())
		case "partial":
			end = ""
		}
		return err == nil
	})
	j.largest = max(j.largest, len(text))
	j.WriteString(string(text) + end)
	return err
}

func TestHandlerRecordsHoldEveryByte(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, want := range map[string]string{
		"all bytes": string(all), "long": strings.Repeat("€𝄞ä", maxPartial/3), "lines": strings.Repeat("one\n\ntwo", 1000),
		"long line": strings.Repeat("x", 2*maxPartial+9) + "\nend", "long binary": strings.Repeat("\xff", 3*maxPartial+1),
	} {
		for _, chunk := range []int{1, 7, 4096, maxPartial, 1 << 30} {
			j := &joiner{}
			h := NewHandler(j)
			for rest := want; rest != ""; {
				n := min(chunk, len(rest))
				logAll(t, h, Entry{Source: Output, Session: "s", Data: []byte(rest[:n])})
				rest = rest[n:]
			}
			if err := h.Flush(); err != nil {
				t.Fatal(err)
			}
			if j.String() != want {
				t.Errorf("%s in chunks of %d: %d bytes came back, want %d, or others", name, chunk, j.Len(), len(want))
			}
			if j.largest > maxPartial || j.binary && utf8.ValidString(want) && chunk > maxPartial {
				t.Errorf("%s in chunks of %d: a record of %d bytes, or a character was cut", name, chunk, j.largest)
			}
		}
	}
}

func TestHandlerKeepsNothingOfWhatEnded(t *testing.T) {
	for _, end := range []Event{{Kind: Exit}, {Kind: Failed}, {Kind: Gap, Source: Stdout}, {Kind: Gap}, {Kind: SandboxStop}} {
		j := &joiner{}
		h := NewHandler(j)
		logAll(t, h, Entry{Source: Stdout, Session: "s", Data: []byte("held")}, Entry{Source: Stdout, Session: "t", Data: []byte("other")})
		if j.Len() != 0 {
			t.Fatalf("%q before its end", j.String())
		}
		session, want, left := "s", "held", 1
		if end.Kind == SandboxStop {
			session, want, left = "", "heldother", 0
		}
		logAll(t, h, Entry{Source: System, Session: session, Data: []byte("end"), Event: &end})
		if got := strings.TrimSuffix(j.String(), "end\n"); got != want || len(h.partial) != left {
			t.Errorf("%s: %q, %d held back; want %q, %d", end.Kind, got, len(h.partial), want, left)
		}
	}
}

// counting calls f for each record.
type counting struct {
	slog.Handler
	f func(session, text string)
}

func (c *counting) Enabled(context.Context, slog.Level) bool { return true }

func (c *counting) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "session" {
			c.f(a.Value.String(), r.Message)
		}
		return true
	})
	return nil
}
