package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/internal/errdoc"
	"github.com/hutchvm/hutch/kvm"
	"github.com/hutchvm/hutch/sandbox"
)

var fineChecks = []sandbox.CheckResult{
	{Name: "device", Status: sandbox.CheckPass, Detail: "/dev/kvm is there and answers"},
	{Name: "kernel", Status: sandbox.CheckPass, Detail: "6.12.1-hutch (/cache/own)", Steps: []sandbox.CheckStep{
		{Name: "option", Try: "WithKernel, --kernel", Reason: "not set"}, {Name: "cache", Try: "/cache/own", Reason: "used"}}},
	{Name: "memory", Status: sandbox.CheckWarn, Detail: "100 MiB are available, and the guest may come to use 256 MiB", Fix: "give the guest less"},
}

const fineText = `PASS  device      /dev/kvm is there and answers
PASS  kernel      6.12.1-hutch (/cache/own)
                  option: WithKernel, --kernel: not set
                  cache: /cache/own: used
WARN  memory      100 MiB are available, and the guest may come to use 256 MiB
                  fix: give the guest less

hutch can boot a microVM here.
`

var brokenChecks = []sandbox.CheckResult{
	{Name: "device", Status: sandbox.CheckPass, Detail: "/dev/kvm is there"},
	{Name: "permission", Status: sandbox.CheckFail, Detail: "open /dev/kvm: permission denied", Fix: "join a group"},
	{Name: "kernel", Status: sandbox.CheckFail, Detail: "no usable kernel found", Fix: "hutch kernel fetch X", Also: "hutch kernel build",
		Steps: []sandbox.CheckStep{{Name: "cache", Try: "own kernel", Reason: "not built"}}},
}

const brokenText = `PASS  device      /dev/kvm is there
FAIL  permission  open /dev/kvm: permission denied
                  fix: join a group
FAIL  kernel      no usable kernel found
                  cache: own kernel: not built
                  fix: hutch kernel fetch X
                  or:  hutch kernel build

hutch cannot boot a microVM here: 2 of 3 checks failed.
`

func TestDoctorsTableIsAlignedAndEndsWithAVerdict(t *testing.T) {
	for _, c := range []struct {
		results []sandbox.CheckResult
		want    string
	}{{fineChecks, fineText}, {brokenChecks, brokenText}} {
		if got := checksText(c.results, false); got != c.want {
			t.Errorf("got\n%s\nwant\n%s", got, c.want)
		}
		coloured := checksText(c.results, true)
		plain := strings.NewReplacer("\x1b[32mPASS\x1b[0m", "PASS", "\x1b[33mWARN\x1b[0m", "WARN", "\x1b[31mFAIL\x1b[0m", "FAIL").Replace(coloured)
		if plain != c.want || coloured == plain {
			t.Errorf("in colour %q", coloured)
		}
	}
}

func TestDoctorOfThisMachine(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	got := hutch(t, "", "doctor", "-k", filepath.Join(t.TempDir(), "none"))
	if got.code != 1 || strings.Contains(got.stdout, "\x1b") || !strings.Contains(got.stdout, "\nFAIL  kernel      no usable kernel found\n                  option: ") {
		t.Errorf("without a kernel: %+v", got)
	}
	got = hutch(t, "", "doctor", "-m", "1K")
	if got.code != 125 || got.stdout != "" || !strings.HasPrefix(got.stderr, "hutch: --memory: 1024: ") {
		t.Errorf("with a bad flag: %+v", got)
	}
	got = hutch(t, "", "doctor", "--json")
	var results []sandbox.CheckResult
	if err := json.Unmarshal([]byte(got.stdout), &results); err != nil || (got.code == 0) != (failedChecks(results) == 0) {
		t.Errorf("--json: %v, %+v", err, got)
	}
	if !strings.HasPrefix(got.stdout, "[\n  {\n    \"name\": \"device\",\n    \"status\": ") {
		t.Errorf("--json: %s", got.stdout)
	}
	for _, r := range results {
		if r.Name == "kernel" && len(r.Steps) == 0 {
			t.Errorf("--json: no steps in %+v", r)
		}
	}
}

// The verdict is what New does: where a guest can run, doctor says so, and one runs.
func TestDoctorsVerdictIsTrue(t *testing.T) {
	needKVM(t)
	image := os.Getenv(sandbox.EnvInitramfs)
	got := hutch(t, "", "doctor")
	for _, want := range []string{"PASS  device      /dev/kvm is there and answers\n", "PASS  permission  this user may open it\n", "PASS  hardware    hardware KVM (",
		"PASS  kernel      ", "PASS  userland    ", "\n\nhutch can boot a microVM here.\n"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if got.code != 0 || got.stderr != "" || image != "" && !strings.Contains(got.stdout, "PASS  userland    the image "+image+"\n") {
		t.Errorf("%+v", got)
	}
	if got := hutch(t, "", "run", "true"); got != (outcome{}) {
		t.Errorf("hutch run: %+v", got)
	}
}

func TestTheCatalogueHasWhatTheCommandLineAdds(t *testing.T) {
	errdoc.Compare(t, "hutch", map[string]string{
		"run-no-kvm":       explainBoot(fmt.Errorf("sandbox: %w", &kvm.Error{Op: "open /dev/kvm", Errno: 2, Kind: kvm.ErrNoKVM, Hint: "REASON"})).Error(),
		"run-boot-timeout": explainBoot(fmt.Errorf("boot: %w", sandbox.ErrBootTimeout)).Error(),
		"run-memory":       explainBoot(&sandbox.ConfigError{Option: "WithMemory", Value: "1048576", Reason: "too small"}).Error(),
		"doctor":           strings.TrimSuffix(brokenText, "\n"),
	})
	if err := errors.New("other"); explainBoot(err) != err {
		t.Error("another error is changed")
	}
}
