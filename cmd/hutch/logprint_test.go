package main

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

func TestLogPrinter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := execlog.OpenFile(path, execlog.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, e := range []execlog.Entry{
		{Source: execlog.System, Session: "a", Data: []byte("started"), Event: &execlog.Event{Kind: execlog.Start}},
		{Source: execlog.Stdout, Session: "a", Data: []byte("one\ntw")},
		{Source: execlog.Stdout, Session: "a", Data: []byte("o\nthr")},
		{Source: execlog.Stderr, Session: "a", Data: []byte("bad\n")},
		{Source: execlog.Stdout, Session: "b", Data: []byte("other\n")},
		{Source: execlog.Stdout, Session: "a", Data: []byte("ee\n")},
		{Source: execlog.System, Session: "a", Data: []byte("exit status 0"), Event: &execlog.Event{Kind: execlog.Exit}},
	} {
		e.Time = at
		if err := f.Log(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	output := []execlog.Source{execlog.Stdout, execlog.Stderr}
	const now = "2026-02-03T04:05:06Z "
	for _, tc := range []struct {
		name           string
		timestamps     bool
		q              execlog.Query
		stdout, stderr string
	}{
		{"bytes", false, execlog.Query{Sources: output}, "one\ntwo\nthrother\nee\n", "bad\n"},
		{"a prefix for every line", true, execlog.Query{Sources: output}, now + "a one\n" + now + "a two\n" + now + "a thr\n" + now + "b other\n" + now + "a ee\n", now + "a bad\n"},
		{"one session's lines", true, execlog.Query{Sources: output[:1], Session: "a"}, now + "a one\n" + now + "a two\n" + now + "a three\n", ""},
		{"events are lines", false, execlog.Query{}, now + "a started\none\ntwo\nthrother\nee\n" + now + "a exit status 0\n", "bad\n"},
		{"last line", false, execlog.Query{Sources: output, Tail: 1}, "ee\n", ""},
		{"two lines", false, execlog.Query{Sources: output, Tail: 2}, "other\nee\n", ""},
		{"lines of both", false, execlog.Query{Sources: output, Tail: 3}, "throther\nee\n", "bad\n"},
		{"a part of an entry", false, execlog.Query{Sources: output[:1], Session: "a", Tail: 2}, "two\nthree\n", ""},
		{"all", false, execlog.Query{Sources: output, Tail: 6}, "one\ntwo\nthrother\nee\n", "bad\n"},
		{"more than all", false, execlog.Query{Sources: output, Tail: 100}, "one\ntwo\nthrother\nee\n", "bad\n"},
		{"events of the tail", false, execlog.Query{Tail: 2}, "ee\n" + now + "a exit status 0\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := &logPrinter{stdout: &stdout, stderr: &stderr, timestamps: tc.timestamps}
			if err := p.log(context.Background(), path, tc.q); err != nil {
				t.Fatal(err)
			}
			if stdout.String() != tc.stdout || stderr.String() != tc.stderr {
				t.Errorf("printed %q and %q\nwant %q and %q", stdout.String(), stderr.String(), tc.stdout, tc.stderr)
			}
		})
	}
}

// A tail of lines goes on without a hole or a repetition.
func TestLogTailGoesOnWithWhatComes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := execlog.OpenFile(path, execlog.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log := func(e execlog.Entry) {
		if err := f.Log(e); err != nil {
			t.Error(err)
		}
	}
	log(execlog.Entry{Source: execlog.Stdout, Session: "a", Data: []byte("1\n2\n3\n")})
	r, w := io.Pipe()
	go func() {
		defer w.Close()
		p := &logPrinter{stdout: w, stderr: w}
		if err := p.log(context.Background(), path, execlog.Query{Sources: []execlog.Source{execlog.Stdout}, Session: "a", Tail: 2, Follow: true, Poll: time.Millisecond}); err != nil {
			t.Error(err)
		}
	}()
	var got strings.Builder
	read := func() {
		b := make([]byte, 100)
		n, _ := r.Read(b)
		got.Write(b[:n])
	}
	read()
	log(execlog.Entry{Source: execlog.Stdout, Session: "b", Data: []byte("not this\n")})
	log(execlog.Entry{Source: execlog.Stdout, Session: "a", Data: []byte("4\n")})
	read()
	log(execlog.Entry{Source: execlog.System, Data: []byte("sandbox closed"), Event: &execlog.Event{Kind: execlog.SandboxStop}})
	read() // the end
	if got.String() != "2\n3\n4\n" {
		t.Errorf("printed %q", got.String())
	}
}

// Who asks for output is told where some of it is missing.
func TestLogPrinterTellsOfGapsInWhatItPrints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := execlog.OpenFile(path, execlog.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gap := func(session string, of execlog.Source, text string) execlog.Entry {
		return execlog.Entry{Source: execlog.System, Session: session, Data: []byte(text), Event: &execlog.Event{Kind: execlog.Gap, Source: of}}
	}
	for _, e := range []execlog.Entry{
		{Source: execlog.System, Session: "a", Data: []byte("started"), Event: &execlog.Event{Kind: execlog.Start}},
		{Source: execlog.Stdout, Session: "a", Data: []byte("one\n")},
		gap("a", execlog.Stdout, "5 bytes of stdout"),
		gap("a", execlog.Stderr, "6 bytes of stderr"),
		gap("b", execlog.Stdout, "7 bytes of b"),
		gap("", "", "some bytes"),
		{Source: execlog.Stdout, Session: "a", Data: []byte("two\n")},
	} {
		if err := f.Log(e); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	p := &logPrinter{stdout: &stdout, stderr: &stderr}
	if err := p.log(t.Context(), path, execlog.Query{Session: "a", Sources: []execlog.Source{execlog.Stdout}}); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "one\ntwo\n" || stderr.String() != "hutch: 5 bytes of stdout\n" {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
	stderr.Reset()
	if err := p.log(t.Context(), path, execlog.Query{Sources: []execlog.Source{execlog.Stdout}}); err != nil {
		t.Fatal(err)
	}
	if want := "hutch: 5 bytes of stdout\nhutch: 7 bytes of b\nhutch: some bytes\n"; stderr.String() != want {
		t.Errorf("stderr %q, want %q", stderr.String(), want)
	}
}
