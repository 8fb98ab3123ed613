package sandbox_test

import (
	"context"
	"fmt"
	"time"

	"github.com/hutchvm/hutch/sandbox"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

// What a session has printed to standard error, with the time.
func readLog(ctx context.Context, sb *sandbox.Sandbox) error {
	for entry, err := range sb.Logs(ctx, execlog.Query{Session: "build", Sources: []execlog.Source{execlog.Stderr}}) {
		if err != nil {
			return err
		}
		fmt.Printf("%s %s", entry.Time.Format(time.TimeOnly), entry.Data)
	}
	return nil
}

func ExampleWithLogs() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx, sandbox.WithLogs(execlog.NewRing(1<<20))) // the last mebibyte, in memory
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if _, err := sb.Shell(ctx, "echo compiling; echo no such file >&2; exit 2", sandbox.WithExecID("build")); err != nil {
		fmt.Println(err)
		return
	}
	if err := readLog(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
