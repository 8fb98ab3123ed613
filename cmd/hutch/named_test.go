package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox"
)

// deafHolder makes the sandbox "worker" of a holder, process 4711, that takes connections and says nothing.
func deafHolder(t *testing.T) net.Listener {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	state, run := filepath.Join(dir, "state", "hutch", "worker"), filepath.Join(dir, "run", "hutch")
	for _, d := range []string{state, run} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(state, "sandbox.json"), []byte(`{"name": "worker", "pid": 4711}`), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(state, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(run, "worker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A holder that hangs is named, with its process, instead of "context deadline exceeded".
func TestStopTellsOfAHolderThatDoesNotAnswer(t *testing.T) {
	deafHolder(t)
	const want = "hutch: stop: the holder of worker has not ended after 100ms: wait longer, or end it with: kill -9 4711\n"
	if got := hutch(t, "", "stop", "--timeout", "100ms", "worker"); got != (outcome{stderr: want, code: exitFailed}) {
		t.Errorf("%+v, want %q", got, want)
	}
}

func TestInspectPrintsTheRecordOfAHolderThatCannotBeAsked(t *testing.T) {
	l := deafHolder(t)
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.Close()
		}
	}()
	got := hutch(t, "", "inspect", "worker")
	if got.code != exitFailed || !strings.Contains(got.stdout, `"pid": 4711,`) || !strings.HasPrefix(got.stderr, "hutch: sandbox: ") {
		t.Errorf("%+v", got)
	}
}

func TestNobodyIsAskedForEver(t *testing.T) {
	deafHolder(t)
	err := ask("worker", 50*time.Millisecond, func(context.Context, *sandbox.Sandbox) error {
		t.Error("connected")
		return nil
	})
	if err == nil || err.Error() != "worker has not answered after 50ms; hutch stop worker ends it" {
		t.Errorf("%v", err)
	}
}
