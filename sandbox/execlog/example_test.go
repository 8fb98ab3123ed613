package execlog_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

func ExampleOpenFile() {
	dir, err := os.MkdirTemp("", "execlog")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	log, err := execlog.OpenFile(filepath.Join(dir, "exec.log"), execlog.FileOptions{MaxSize: 1 << 20})
	if err != nil {
		panic(err)
	}
	defer log.Close()
	log.Log(execlog.Entry{Source: execlog.Stdout, Session: "build", Data: []byte("compiling\n")})
	log.Log(execlog.Entry{Source: execlog.Stderr, Session: "build", Data: []byte("a warning\n")})
	for e, err := range log.Read(context.Background(), execlog.Query{Session: "build", Tail: 1}) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%d %s %s", e.Seq, e.Source, e.Data)
	}
	// Output: 2 stderr a warning
}

// Bytes that are no text by themselves are base64; a reader joins them.
func ExampleNewWriter() {
	log := execlog.NewWriter(os.Stdout)
	at := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, chunk := range []string{"1 \xe2\x82", "\xac\n", "done\n"} { // the euro sign arrives in two parts
		log.Log(execlog.Entry{Time: at, Source: execlog.Stdout, Session: "a1", Data: []byte(chunk)})
	}
	// Output:
	// {"t":"2026-02-03T04:05:06Z","s":"stdout","id":"a1","n":1,"b":"MSDigg=="}
	// {"t":"2026-02-03T04:05:06Z","s":"stdout","id":"a1","n":2,"b":"rAo="}
	// {"t":"2026-02-03T04:05:06Z","s":"stdout","id":"a1","n":3,"d":"done\n"}
}

// A slog user gets lines, whatever the chunks were.
func ExampleNewHandler() {
	noTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	log := execlog.NewHandler(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: noTime}))
	for _, chunk := range []string{"comp", "iling\nlin", "king\n"} {
		log.Log(execlog.Entry{Source: execlog.Stdout, Session: "build", Data: []byte(chunk)})
	}
	log.Log(execlog.Entry{
		Source: execlog.System, Session: "build", Data: []byte("exit status 2"), Event: &execlog.Event{Kind: execlog.Exit, Code: 2},
	})
	// Output:
	// level=INFO msg=compiling source=stdout session=build
	// level=INFO msg=linking source=stdout session=build
	// level=INFO msg="exit status 2" source=system session=build event=exit code=2 signal=0
}

// A follower of a ring gets what is there and what comes, until its context ends or it has seen enough.
func ExampleRing() {
	ring := execlog.NewRing(1 << 20)
	ring.Log(execlog.Entry{Source: execlog.Stdout, Session: "s", Data: []byte("there\n")})
	go func() {
		ring.Log(execlog.Entry{Source: execlog.Stdout, Session: "s", Data: []byte("comes\n")})
		ring.Log(execlog.Entry{Source: execlog.System, Session: "s", Event: &execlog.Event{Kind: execlog.Exit}})
	}()
	for e, err := range ring.Read(context.Background(), execlog.Query{Session: "s", Follow: true}) {
		if err != nil {
			panic(err)
		}
		if e.Event != nil && e.Event.Kind == execlog.Exit {
			break
		}
		fmt.Printf("%s", e.Data)
	}
	// Output:
	// there
	// comes
}

// Another program that has only the path reads on from where it was.
func ExampleRead() {
	dir, err := os.MkdirTemp("", "execlog")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "exec.log")
	log, err := execlog.OpenFile(path, execlog.FileOptions{})
	if err != nil {
		panic(err)
	}
	defer log.Close()

	var cursor uint64
	for _, text := range []string{"one ", "two ", "three "} {
		log.Log(execlog.Entry{Source: execlog.Stdout, Session: "s", Data: []byte(text)})
		for e, err := range execlog.Read(context.Background(), path, execlog.Query{After: cursor}) {
			if err != nil {
				panic(err)
			}
			cursor = e.Seq
			fmt.Print(cursor, " ", string(e.Data))
		}
	}
	// Output: 1 one 2 two 3 three
}

func ExampleMulti() {
	var lines bytes.Buffer
	ring := execlog.NewRing(1 << 20)
	log := execlog.Multi(execlog.NewWriter(&lines), ring)
	log.Log(execlog.Entry{Source: execlog.Stdout, Session: "s", Data: []byte("hello")})
	for e := range ring.Read(context.Background(), execlog.Query{}) {
		fmt.Println(string(e.Data), bytes.Count(lines.Bytes(), []byte("\n")))
	}
	// Output: hello 1
}
