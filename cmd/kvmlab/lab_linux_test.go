package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// builtDir is the folder of builtProgram, for TestMain to remove.
var builtDir string

// builtProgram is kvmlab as a static executable, built once.
var builtProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kvmlab-test-")
	if err != nil {
		return "", err
	}
	builtDir = dir
	path := filepath.Join(dir, "kvmlab")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kvmlab: %w: %s", err, out)
	}
	return path, nil
})

// unavailable skips, or fails where the lab is required.
func unavailable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// labProgram returns kvmlab once a lab runs, which all tests share with whoever else uses it.
func labProgram(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: starts the lab")
	}
	if os.Getenv(insideEnv) != "" {
		t.Skip("inside the lab: run this test outside, it starts one")
	}
	program, err := builtProgram()
	if err != nil {
		unavailable(t, "no lab: %v (install Go)", err)
	}
	if err := startedLab(program); err != nil {
		unavailable(t, "no lab: %v", err)
	}
	return program
}

var (
	startOnce sync.Once
	startErr  error
)

// startedLab starts the lab once; its error says what is missing and how to get it.
func startedLab(program string) error {
	startOnce.Do(func() {
		if out, err := exec.Command(program, "-force", "-v", "--", "true").CombinedOutput(); err != nil {
			startErr = fmt.Errorf("%w: %s", err, out)
		}
	})
	return startErr
}

// result is what a command left.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("code %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
}

// inLab runs a command in the lab, killed after a generous time.
func inLab(t *testing.T, stdin []byte, dir string, env []string, args ...string) result {
	t.Helper()
	cmd := exec.Command(labProgram(t), append([]string{"-force", "-timeout", "3m", "--"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir = bytes.NewReader(stdin), &stdout, &stderr, dir
	cmd.Env = append(os.Environ(), env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func TestLabKeepsOutputsApartAndGivesTheExitCode(t *testing.T) {
	got := inLab(t, nil, "", nil, "sh", "-c", `printf 'out\0\r\n'; printf 'err\0\r\n' >&2; exit 42`)
	if want := (result{"out\x00\r\n", "err\x00\r\n", 42}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLabExitCodesOfFailures(t *testing.T) {
	for _, tc := range []struct {
		code int
		args []string
	}{
		{exitSignalBase + int(syscall.SIGKILL), []string{"sh", "-c", "kill -9 $$"}},
		{exitNotFound, []string{"no-such-command-at-all"}},
		{exitNotExecutable, []string{"/etc/passwd"}},
	} {
		if got := inLab(t, nil, "", nil, tc.args...); got.code != tc.code {
			t.Errorf("%q: code %d (%s), want %d", tc.args, got.code, got.stderr, tc.code)
		}
	}
	cmd := exec.Command(labProgram(t), "-force", "-timeout", "2s", "--", "sleep", "600")
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != exitTimeout {
		t.Errorf("-timeout: %v, want code %d", err, exitTimeout)
	}
}

func TestLabTakesStdinWhole(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	in := make([]byte, 1<<20)
	for i := range in {
		in[i] = byte(rng.Uint32())
	}
	got := inLab(t, in, "", nil, "sha256sum")
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256(in)); got.stdout != want || got.code != 0 {
		t.Errorf("got %v, want %q", got, want)
	}
	if got := inLab(t, in, "", nil, "cat"); got.stdout != string(in) {
		t.Errorf("1 MiB through cat: %d bytes came back, or other ones", len(got.stdout))
	}
}

func TestLabHasTheSameDirectoryAndEnvironment(t *testing.T) {
	dir := t.TempDir()
	got := inLab(t, nil, dir, []string{"LAB_TEST=a b\tc=d"}, "sh", "-c", `pwd; echo "$LAB_TEST"; echo "$KVMLAB"; id -u`)
	if want := dir + "\na b\tc=d\n1\n0\n"; got.stdout != want {
		t.Errorf("got %v, want %q", got, want)
	}
}

func TestLabSeesChangedFilesAndDoesNotChangeThem(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	// A command that keeps the file open all the time would hold a cached copy in a shared mount.
	holder := exec.Command(labProgram(t), "-force", "--", "sh", "-c", `exec 3<"$1"; cat <&3; read x`, "sh", file)
	for i, text := range []string{"first", "second, longer", "3"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := inLab(t, nil, dir, nil, "sh", "-c", `cat file; ls; echo changed in the lab >file; touch new`); got.stdout != text+"file\n" {
			t.Fatalf("after change %d the lab gave %v, want the text %q and one file", i, got, text)
		}
		if now, err := os.ReadFile(file); err != nil || string(now) != text {
			t.Fatalf("the host's file is now %q, %v; want %q", now, err, text)
		}
		if i == 0 {
			stdin, err := holder.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := holder.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { stdin.Close(); holder.Wait() }() // its code does not matter
		}
	}
}

func TestLabForwardsSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT} {
		cmd := exec.Command(labProgram(t), "-force", "-timeout", "2m", "--", "sh", "-c",
			`trap 'echo got; exit 9' `+strconv.Itoa(int(sig))+`; echo ready; while :; do sleep 0.1; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ready := make([]byte, len("ready\n"))
		if _, err := out.Read(ready); err != nil || string(ready) != "ready\n" {
			t.Fatalf("read %q, %v", ready, err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		rest := make([]byte, 16)
		n, _ := out.Read(rest) // its error shows as a missing "got"
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); string(rest[:n]) != "got\n" || code != 9 {
			t.Errorf("%v: printed %q, code %d; want got and 9", sig, rest[:n], code)
		}
	}
}

func TestLabRunsSeveralAtOnceAndIsReusedWithinSeconds(t *testing.T) {
	labProgram(t)
	start := time.Now()
	inLab(t, nil, "", nil, "true")
	t.Logf("reuse took %v", time.Since(start))
	if took := time.Since(start); took > 30*time.Second { // milliseconds on an idle machine; a boot would take longer than this on one so busy
		t.Errorf("reuse took %v", took)
	}
	var wg sync.WaitGroup
	for i := range slots + 2 {
		wg.Go(func() {
			want := strconv.Itoa(i)
			if got := inLab(t, []byte(want), "", nil, "sh", "-c", "cat; exit "+want); got.stdout != want || got.code != i {
				t.Errorf("command %d: %v", i, got)
			}
		})
	}
	wg.Wait()
}

func TestLabKillsWhatACommandLeaves(t *testing.T) {
	got := inLab(t, nil, "", nil, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo started")
	if got.stdout != "started\n" || got.code != 0 {
		t.Fatalf("got %v", got)
	}
	if got := inLab(t, nil, "", nil, "sh", "-c", "ps -A -o comm= | grep -c '^sleep$'"); got.stdout != "0\n" {
		t.Errorf("processes named sleep that another command sees: %q, want 0", got.stdout)
	}
}

func TestLabHasAWorkingKVM(t *testing.T) {
	labProgram(t)
	program := filepath.Join(t.TempDir(), "kvm.test")
	build := exec.Command("go", "test", "-c", "-o", program, "../../kvm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of package kvm: %v: %s", err, out)
	}
	dir, err := filepath.Abs("../../kvm")
	if err != nil {
		t.Fatal(err)
	}
	got := inLab(t, nil, dir, []string{"HUTCH_REQUIRE_KVM=1"}, program, "-test.v", "-test.run", "^(TestRunHandsOutAByte|TestStopBeforeRunEndsTheNextRunOnly)$")
	if got.code != 0 || !strings.Contains(got.stdout, "--- PASS: TestRunHandsOutAByte") {
		t.Errorf("code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}
