package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox"
)

// newSandbox boots a sandbox for the test, and skips it where none can be booted. A test of your own needs no more than this.
func newSandbox(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	checks, err := sandbox.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if c.Status != sandbox.CheckFail {
			continue
		}
		if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
			t.Fatalf("%s: %s; %s", c.Name, c.Detail, c.Fix)
		}
		t.Skipf("%s: %s; %s", c.Name, c.Detail, c.Fix)
	}
	sb, err := sandbox.New(t.Context(), sandbox.WithBootTimeout(5*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	return sb
}

func TestJudgeSaysHowAScriptEnded(t *testing.T) {
	sb := newSandbox(t)
	wide := bounds{limits: sandbox.Limits{Memory: 128 << 20, CPUs: 1, Pids: 64}, timeout: 5 * time.Minute, maxOutput: 1 << 20}
	small, short, quiet := wide, wide, wide
	small.limits.Memory = 16 << 20
	short.timeout = time.Second
	quiet.maxOutput = 5
	for _, tc := range []struct {
		name, code      string
		bounds          bounds
		verdict, stdout string
	}{
		{"exit code", "whoami; pwd; exit 7", wide, "exit code 7", "nobody\n/tmp\n"},
		{"signal", "kill -9 $$", wide, "killed by signal 9", ""},
		{"memory", "dd if=/dev/zero of=/tmp/full bs=1M", small, "out of memory, of which it had 16777216 bytes", ""},
		{"time", "while :; do :; done", short, "timeout after 1s", ""},
		{"output", "echo 12345678; sleep 1000", quiet, "too much output, more than 5 bytes", "12345"},
		{"output to the last byte", "printf 12345", quiet, "exit code 0", "12345"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			verdict, err := judge(t.Context(), sb, tc.code, tc.bounds, &stdout, &stderr)
			if err != nil || verdict != tc.verdict || stdout.String() != tc.stdout {
				t.Errorf("verdict %q, %v, stdout %q (%d bytes), stderr %.200q; want %q, stdout %q", verdict, err, strings.TrimRight(stdout.String(), "\x00"), stdout.Len(), stderr.String(), tc.verdict, tc.stdout)
			}
		})
	}
}
