package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
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

// want compares what hutch printed and its exit code.
func want(t *testing.T, o outcome, stdout string, code int) {
	t.Helper()
	if o.stdout != stdout || o.code != code {
		t.Errorf("stdout %q, code %d; want %q, %d (stderr %q)", o.stdout, o.code, stdout, code, o.stderr)
	}
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

// Ctrl-C while a holder boots is no failed boot, whatever the holder makes of the signal that is passed on to it.
func TestSignalDuringTheBootIsNoFailure(t *testing.T) {
	failure := errors.New("boot: exit status 143")
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := holderError(ctx, failure); err != failure {
		t.Errorf("without a signal: %v", err)
	}
	cancel(exitCode(130))
	if err := holderError(ctx, failure); err != exitCode(130) {
		t.Errorf("after one: %v", err)
	}
}
