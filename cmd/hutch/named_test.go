package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ownDirs gives the test folders of its own for named sandboxes.
func ownDirs(t *testing.T) {
	t.Helper()
	dir, err := shortDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
}

// want runs hutch and compares.
func want(t *testing.T, o outcome, stdout string, code int) {
	t.Helper()
	if o.stdout != stdout || o.code != code {
		t.Errorf("stdout %q, code %d; want %q, %d (stderr %q)", o.stdout, o.code, stdout, code, o.stderr)
	}
}

func TestNamedSandboxFromCreateToRm(t *testing.T) {
	needKVM(t)
	ownDirs(t)
	want(t, hutch(t, "", "create", "-e", "WHO=me", "--boot-timeout", "4m", "worker"), "worker\n", 0)
	t.Cleanup(func() { hutch(t, "", "rm", "-f", "worker") })
	if o := hutch(t, "", "create", "worker"); o.code != exitFailed || !strings.Contains(o.stderr, "hutch stop worker") {
		t.Errorf("a second create: %+v", o)
	}

	// The seed page's commands, with flags in both positions.
	want(t, hutch(t, "", "exec", "worker", "--", "sh", "-c", "ls -la /tmp >/dev/null && echo done"), "done\n", 0)
	want(t, hutch(t, "", "exec", "-w", "/tmp", "-e", "K=V", "--timeout", "60s", "--rlimit", "nofile=1024", "worker", "--", "sh", "-c", "pwd; echo $K $WHO; ulimit -n"), "/tmp\nV me\n1024\n", 0)
	want(t, hutch(t, "", "exec", "worker", "-w", "/tmp", "-e", "K=V", "--timeout", "60s", "--rlimit", "nofile=1024", "--", "sh", "-c", "pwd; echo $K; ulimit -n"), "/tmp\nV\n1024\n", 0)
	want(t, hutch(t, "piped\n", "exec", "worker", "cat"), "piped\n", 0)

	// Exit codes.
	want(t, hutch(t, "", "exec", "worker", "--", "sh", "-c", "exit 42"), "", 42)
	want(t, hutch(t, "", "exec", "worker", "--", "sh", "-c", "kill -9 $$"), "", 137)
	want(t, hutch(t, "", "exec", "worker", "--", "no-such-command"), "", exitNotFound)
	want(t, hutch(t, "", "exec", "worker", "--", "/etc/passwd"), "", exitNotExecutable)
	want(t, hutch(t, "", "exec", "--timeout", "1s", "worker", "--", "sleep", "1000"), "", exitTimeout)
	want(t, hutch(t, "", "exec", "worker"), "", exitFailed)
	want(t, hutch(t, "", "exec", "nobody", "--", "true"), "", exitFailed)

	// Any size of input.
	big := strings.Repeat("0123456789abcdef", 10<<16)
	if o := hutch(t, big, "exec", "worker", "--", "cat"); o.code != 0 || sha256.Sum256([]byte(o.stdout)) != sha256.Sum256([]byte(big)) {
		t.Errorf("10 MiB through cat: %d bytes, code %d", len(o.stdout), o.code)
	}

	// Sessions, and what is logged.
	detachAndComeBack(t)
	o := hutch(t, "", "logs", "--source", "stdout,stderr", "--tail", "1000", "worker")
	if !strings.Contains(o.stdout, "/tmp\nV me\n1024\n") || o.code != 0 {
		t.Errorf("logs: %.300q, code %d, %s", o.stdout, o.code, o.stderr)
	}
	o = hutch(t, "", "logs", "--json", "--source", "system", "--tail", "1", "worker")
	var e struct{ E struct{ Kind string } }
	if err := json.Unmarshal([]byte(o.stdout), &e); err != nil || e.E.Kind == "" {
		t.Errorf("logs --json: %q, %v", o.stdout, err)
	}

	// What there is.
	if o := hutch(t, "", "ls"); !strings.Contains(o.stdout, "worker") || !strings.Contains(o.stdout, "running") {
		t.Errorf("ls: %+v", o)
	}
	var rec struct {
		Running bool
		PID     int
		Info    struct{ Kernel, Name string }
	}
	if o := hutch(t, "", "inspect", "worker"); json.Unmarshal([]byte(o.stdout), &rec) != nil || !rec.Running || rec.Info.Name != "worker" || rec.Info.Kernel == "" {
		t.Errorf("inspect: %+v", o)
	}
	if o := hutch(t, "", "rm", "worker"); o.code != exitFailed || !strings.Contains(o.stderr, "hutch stop worker") {
		t.Errorf("rm of a running one: %+v", o)
	}

	want(t, hutch(t, "", "stop", "worker"), "", 0)
	if o := hutch(t, "", "exec", "worker", "--", "true"); o.code != exitFailed || !strings.Contains(o.stderr, "hutch rm worker") {
		t.Errorf("exec in a stopped one: %+v", o)
	}
	if o := hutch(t, "", "logs", "worker"); o.code != 0 || !strings.Contains(o.stdout, "done\n") {
		t.Errorf("logs of a stopped one: %+v", o)
	}
	waitFor(t, "the holder has let go", func() bool { return hutch(t, "", "rm", "worker").code == 0 })
	if o := hutch(t, "", "ls", "--json"); strings.TrimSpace(o.stdout) != "[]" {
		t.Errorf("ls afterwards: %+v", o)
	}
}

// detachAndComeBack leaves a session with the detach keys and comes back to it.
func detachAndComeBack(t *testing.T) {
	t.Helper()
	o := hutch(t, "one\n\x1d", "exec", "-t", "worker", "--", "sh", "-c", "read a; read b; echo $a $b; exit 7")
	i := strings.Index(o.stderr, "hutch attach worker ")
	if o.code != 0 || i < 0 {
		t.Errorf("detaching: %+v", o)
		return
	}
	id := strings.TrimSpace(o.stderr[i+len("hutch attach worker "):])
	if o := hutch(t, "", "sessions", "worker"); !strings.Contains(o.stdout, id) || !strings.Contains(o.stdout, "running") {
		t.Errorf("sessions: %+v", o)
	}
	o = hutch(t, "two\n", "attach", "worker", id)
	if o.code != 7 || !strings.HasSuffix(o.stdout, "one two\r\n") {
		t.Errorf("coming back: %+v", o)
	}
	if o := hutch(t, "", "attach", "worker", "nobody"); o.code != exitFailed || !strings.Contains(o.stderr, "hutch sessions worker") {
		t.Errorf("coming back to nobody: %+v", o)
	}
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestKilledHolderLeavesNothingStale(t *testing.T) {
	needKVM(t)
	ownDirs(t)
	want(t, hutch(t, "", "create", "--boot-timeout", "4m", "victim"), "victim\n", 0)
	var rec struct{ PID int }
	if o := hutch(t, "", "inspect", "victim"); json.Unmarshal([]byte(o.stdout), &rec) != nil || rec.PID < 2 {
		t.Fatalf("inspect: %+v", o)
	}
	running := exec.Command("hutch", "exec", "victim", "--", "sleep", "1000")
	var stderr bytes.Buffer
	running.Stderr = &stderr
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the command runs", func() bool {
		return strings.Contains(hutch(t, "", "exec", "victim", "--", "sh", "-c", "for p in /proc/[0-9]*; do cat $p/cmdline; done").stdout, "1000")
	})
	if err := syscall.Kill(rec.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := running.Wait(); err == nil || running.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderr.String(), "holder") {
		t.Errorf("a command whose holder was killed: %v, %q", err, stderr.String())
	}
	if o := hutch(t, "", "exec", "victim", "--", "true"); o.code != exitFailed || !strings.Contains(o.stderr, "killed") {
		t.Errorf("exec: %+v", o)
	}
	if o := hutch(t, "", "ls"); !strings.Contains(o.stdout, "holder killed") {
		t.Errorf("ls: %+v", o)
	}
	want(t, hutch(t, "", "rm", "victim"), "", 0)
}

func TestTwoCreatesOfOneNameMakeOneSandbox(t *testing.T) {
	needKVM(t)
	ownDirs(t)
	results := make(chan outcome, 2)
	for range 2 {
		go func() { results <- hutch(t, "", "create", "--boot-timeout", "4m", "twin") }()
	}
	a, b := <-results, <-results
	if a.code+b.code != exitFailed || !strings.Contains(a.stderr+b.stderr, "twin") {
		t.Errorf("%+v\n%+v", a, b)
	}
	want(t, hutch(t, "", "rm", "-f", "twin"), "", 0)
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	ownDirs(t)
	o := hutch(t, "", "create", "-k", "/no/such/kernel", "broken")
	if o.code != exitFailed || o.stderr == "" {
		t.Errorf("create: %+v", o)
	}
	if o := hutch(t, "", "ls", "--json"); strings.TrimSpace(o.stdout) != "[]" {
		t.Errorf("ls: %+v", o)
	}
	for _, args := range [][]string{{"create", "--console", "-", "x"}, {"exec", "-t", "--no-tty", "x", "--", "true"}, {"exec", "x", "uname", "-a"}, {"create"}, {"create", "a b"}, {"create", "-m", "lots", "x"}, {"exec", "../x", "--", "true"}, {"rm", "nobody"}, {"logs", "nobody"}, {"inspect", "nobody"}, {"stop", "nobody"}, {"hold", "x"}} {
		if o := hutch(t, "", args...); o.code != exitFailed || o.stderr == "" || o.stdout != "" {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

func TestLogFlagsAreChecked(t *testing.T) {
	ownDirs(t)
	for _, args := range [][]string{{"--tail", "-1"}, {"--since", "yesterday"}, {"--source", "stdin"}} {
		if o := hutch(t, "", append([]string{"logs", "x"}, args...)...); o.code != exitFailed || !strings.Contains(o.stderr, args[0]) {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

func TestDefaultsOfCreateHoldForEveryCommand(t *testing.T) {
	needKVM(t)
	ownDirs(t)
	want(t, hutch(t, "", "create", "--timeout", "3s", "--rlimit", "nofile=777", "-w", "/tmp", "--boot-timeout", "4m", "defaults"), "defaults\n", 0)
	t.Cleanup(func() { hutch(t, "", "rm", "-f", "defaults") })
	want(t, hutch(t, "", "exec", "defaults", "--", "sh", "-c", "pwd; ulimit -n"), "/tmp\n777\n", 0)
	want(t, hutch(t, "", "exec", "-w", "/", "--rlimit", "nofile=66", "defaults", "--", "sh", "-c", "pwd; ulimit -n"), "/\n66\n", 0)
	want(t, hutch(t, "", "exec", "defaults", "--", "sleep", "1000"), "", exitTimeout)
	if o := hutch(t, "", "create", "defaults"); strings.Count(o.stderr, "hutch: ") != 1 || o.code != exitFailed {
		t.Errorf("an error is said once: %+v", o)
	}
	want(t, hutch(t, "", "stop", "defaults"), "", 0)
	want(t, hutch(t, "", "rm", "defaults"), "", 0) // stop has waited for the holder
}
