package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hutchvm/hutch/sandbox"
)

// TestScripts runs what is in testdata/script: each script is a user at a command line, with folders of its own for named sandboxes. Beside the
// commands of package testscript there are
//
//	exits CODE PROGRAM [ARG...]      runs the program; its exit code must be CODE
//	out TEXT, errout TEXT            the standard output (error) of the program that ran last is exactly TEXT, in which \n, \t, \r, \\ stand for themselves
//	set VAR stdout|stderr|FILE RE    sets a variable to what the first group of the regular expression matches there
//	until RE PROGRAM [ARG...]        runs the program, which must succeed, until its standard output matches
//
// and the conditions [guest] (a guest can run here; with HUTCH_REQUIRE_KVM=1 it is an error when none can), [root], and [guestlayer]
// (HUTCH_REQUIRE_KVM=1: the slow layer of tests, which runs after all others) and [soak]
// (HUTCH_SOAK=1: what takes minutes).
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		Setup:              setUpScript,
		Condition:          scriptCondition,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": scriptExits, "out": scriptOut("stdout", "out"), "errout": scriptOut("stderr", "errout"), "set": scriptSet, "until": scriptUntil,
		},
	})
}

// setUpScript gives a script the environment of the tests (which kernel, where the caches are), and folders for named sandboxes.
func setUpScript(env *testscript.Env) error {
	dir, err := shortDir()
	if err != nil {
		return err
	}
	var inherited []string
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); name {
		case "PATH", "WORK", "TMPDIR", "NO_COLOR", "HUTCH_TEST_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR": // the script's own
		default:
			inherited = append(inherited, kv)
		}
	}
	env.Vars = append(env.Vars, inherited...)
	env.Vars = append(env.Vars, "DIR="+dir, "XDG_STATE_HOME="+filepath.Join(dir, "state"), "XDG_RUNTIME_DIR="+filepath.Join(dir, "run"))
	env.Defer(func() {
		endHolders(filepath.Join(dir, "state"))
		os.RemoveAll(dir)
	})
	return nil
}

// shortDir makes a folder in which a socket's path is short enough: at most 107 bytes.
func shortDir() (string, error) { return os.MkdirTemp("", "hutch") }

// endHolders ends the holders that a script which failed has left.
func endHolders(state string) {
	records, _ := filepath.Glob(filepath.Join(state, "hutch", "*", "sandbox.json"))
	for _, path := range records {
		var rec sandbox.Record
		b, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(b, &rec) != nil || rec.PID < 2 || !rec.Ended.IsZero() {
			continue
		}
		if held(filepath.Join(filepath.Dir(path), "lock")) {
			_ = syscall.Kill(rec.PID, syscall.SIGKILL)
		}
	}
}

// held says whether somebody has a lock.
func held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

func scriptCondition(cond string) (bool, error) {
	switch cond {
	case "guest":
		err := noGuest()
		if err != nil && os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
			return false, err
		}
		return err == nil, nil
	case "guestlayer":
		return os.Getenv("HUTCH_REQUIRE_KVM") == "1", nil
	case "soak":
		return os.Getenv("HUTCH_SOAK") == "1", nil
	case "root":
		return os.Getuid() == 0, nil
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := scriptRun(ts, args[1:]); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// scriptRun runs a program and returns its exit code.
func scriptRun(ts *testscript.TestScript, args []string) int {
	err := ts.Exec(args[0], args[1:]...)
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ee) && ee.Exited():
		return ee.ExitCode()
	}
	ts.Fatalf("%v", err)
	return -1
}

func scriptOut(stream, command string) func(*testscript.TestScript, bool, []string) {
	plain := strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\r`, "\r", `\\`, `\`)
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if len(args) != 1 || neg {
			ts.Fatalf("usage: %s TEXT", command)
		}
		if got, want := ts.ReadFile(stream), plain.Replace(args[0]); got != want {
			ts.Fatalf("%s is %q, want %q", stream, got, want)
		}
	}
}

func scriptSet(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: set VAR stdout|stderr|FILE RE")
	}
	re, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	text := ts.ReadFile(args[1])
	m := re.FindStringSubmatch(text)
	if len(m) < 2 {
		ts.Fatalf("no group of %q matches in %q", re, text)
	}
	ts.Setenv(args[0], m[1])
}

// untilDeadline is for a hang: what scripts wait for takes well under a second on an idle machine.
const untilDeadline = 3 * time.Minute

func scriptUntil(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: until RE PROGRAM [ARG...]")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(untilDeadline); ; time.Sleep(50 * time.Millisecond) {
		if code := scriptRun(ts, args[1:]); code != 0 {
			ts.Fatalf("exit code %d", code)
		}
		if re.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("never did the output match %q", re)
		}
	}
}
