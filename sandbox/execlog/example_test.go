package execlog_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

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
