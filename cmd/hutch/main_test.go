package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hutchvm/hutch/kvm"
)

// TestMain puts a copy of the test binary that is hutch on the PATH: a program by itself, which can start itself again as a holder.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hutch": main})
}

type outcome struct {
	stdout, stderr string
	code           int
}

// hutch runs the command line with the given standard input.
func hutch(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command("hutch", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// noGuest is why no guest can run here, and what to do.
var noGuest = sync.OnceValue(func() error {
	sys, err := kvm.Open()
	if err == nil {
		defer sys.Close()
		var probe kvm.Probe
		if probe, err = sys.Probe(); err == nil && probe.SoftwareKVM() {
			err = errors.New("KVM without hardware virtualisation")
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("no guest can run here: %w; run it in the lab: go test -exec \"$PWD/bin/kvmlab --\" ./cmd/hutch", err)
})

func needKVM(t *testing.T) {
	t.Helper()
	switch err := noGuest(); {
	case err == nil:
	case os.Getenv("HUTCH_REQUIRE_KVM") == "1":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

func TestRunPassesStreamsAndTheCodeThrough(t *testing.T) {
	needKVM(t)
	for _, tc := range []struct {
		name  string
		stdin string
		args  []string
		want  outcome
	}{
		{"streams and code", "", []string{"run", "--", "sh", "-c", "echo out; echo err >&2; exit 42"}, outcome{"out\n", "err\n", 42}},
		{"nothing of its own", "", []string{"run", "true"}, outcome{"", "", 0}},
		{"stdin", "line\n\x00binary\xff", []string{"run", "cat"}, outcome{"line\n\x00binary\xff", "", 0}},
		{"flags", "", []string{"run", "-e", "A=b", "-w", "/tmp", "-u", "nobody", "--rlimit", "nofile=99", "-m", "128M", "-c", "2", "--", "sh", "-c", "echo $A; pwd; id -u; ulimit -n; nproc"},
			outcome{"b\n/tmp\n65534\n99\n2\n", "", 0}},
		{"flags end at the command", "", []string{"run", "sh", "-c", `for a in "$@"; do echo "<$a>"; done`, "sh", "-e", "--", "-c"}, outcome{"<-e>\n<-->\n<-c>\n", "", 0}},
		{"signal", "", []string{"run", "--", "sh", "-c", "kill -9 $$"}, outcome{"", "", 137}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := hutch(t, tc.stdin, tc.args...); got != tc.want {
				t.Errorf("got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestRunExplainsItsOwnFailures(t *testing.T) {
	needKVM(t)
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"not found", []string{"run", "no-such-command"}, 127, `"no-such-command": executable file not found`},
		{"not executable", []string{"run", "/etc/passwd"}, 126, "permission denied"},
		{"working directory", []string{"run", "-w", "/no/such/dir", "ls"}, 125, `chdir "/no/such/dir": no such file or directory`},
		{"timeout", []string{"run", "--timeout", "2s", "sleep", "1000"}, 124, "timeout of 2s"},
		{"kernel", []string{"run", "-k", "/no/such/kernel", "true"}, 125, "/no/such/kernel"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := hutch(t, "", tc.args...)
			if got.code != tc.code || got.stdout != "" || !strings.Contains(got.stderr, tc.says) {
				t.Errorf("got %+v\nwant code %d and %q on standard error", got, tc.code, tc.says)
			}
		})
	}
}

func TestRunWritesTheConsoleToAFile(t *testing.T) {
	needKVM(t)
	path := filepath.Join(t.TempDir(), "console")
	if got := hutch(t, "", "run", "--console", path, "--", "sh", "-c", "echo to the console > /dev/console"); got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), "to the console") {
		t.Fatalf("console file: %q, %v", b, err)
	}
}

func TestATerminationEndsHutchWithTheCodeOfTheSignal(t *testing.T) {
	needKVM(t)
	cmd := exec.Command("hutch", "run", "--", "sh", "-c", "echo runs; sleep 1000")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "runs\n" || err != nil {
		t.Errorf("the command wrote %q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 143 || stderr.Len() > 0 {
		t.Errorf("code %d, standard error %q; want 143 and nothing", code, &stderr)
	}
}

func TestUsageErrorsExitWith125(t *testing.T) {
	for _, args := range [][]string{{"run"}, {"run", "-m", "lots", "true"}, {"run", "-m", "1K", "true"}, {"run", "-c", "0x", "true"}, {"run", "-c", "0", "true"}, {"run", "--rlimit", "x", "true"},
		{"run", "-e", "=x", "true"}, {"run", "-w", "tmp", "true"}, {"run", "--timeout", "-1s", "true"}, {"run", ""}, {"frobnicate"}, {"kernel", "ftch"}, {"kernel", "fetch"},
		{"image", "biuld"}, {"image", "build", "-o", "/no/such/folder/file"}} {
		if got := hutch(t, "", args...); got.code != 125 || !strings.HasPrefix(got.stderr, "hutch: ") {
			t.Errorf("%q: got %+v, want code 125 and a message", args, got)
		}
	}
}

func TestHelpShowsExamples(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"kernel", "fetch", "--help"}, {"image", "build", "--help"}} {
		if got := hutch(t, "", args...); got.code != 0 || !strings.Contains(got.stdout, "Examples:") {
			t.Errorf("%q: code %d, no examples in %q", args, got.code, got.stdout)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"1": 1, "4096": 4096, "64K": 64 << 10, "256M": 256 << 20, "256MiB": 256 << 20, "2g": 2 << 30} {
		if got, err := parseSize(in); got != want || err != nil {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "M", "-1", "0", "1.5G", "99999999999G", "1X"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d; want an error", in, got)
		}
	}
}
