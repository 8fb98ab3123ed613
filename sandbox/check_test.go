//go:build linux && amd64

package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checked returns the results by name.
func checked(t *testing.T, opts ...Option) map[string]CheckResult {
	t.Helper()
	list, err := Check(context.Background(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]CheckResult)
	for _, r := range list {
		if r.Name == "" || r.Detail == "" || r.Status == CheckFail && r.Fix == "" && r.Name != "device" {
			t.Errorf("%+v says too little", r)
		}
		m[r.Name] = r
	}
	return m
}

func TestCheckSaysWhatIsMissingAndHowToGetIt(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("no kernel and no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		opts []Option
		what string
		want CheckStatus
		fix  string
	}{
		{"no device", []Option{WithKVMDevice(filepath.Join(dir, "kvm"))}, "device", CheckFail, "modprobe"},
		{"no kernel of the name", []Option{WithKernel("no-such-kernel")}, "kernel", CheckFail, "hutch kernel fetch"},
		{"no kernel in the file", []Option{WithKernel(bad)}, "kernel", CheckFail, "hutch kernel"},
		{"no archive", []Option{WithInitramfs(bad)}, "userland", CheckFail, "hutch image build"},
		{"more memory than there is", []Option{WithMemory(MaxMemory)}, "memory", CheckWarn, "--memory"},
		{"memory", nil, "memory", CheckPass, ""},
	} {
		r := checked(t, tc.opts...)[tc.what]
		if r.Status != tc.want || !strings.Contains(r.Fix, tc.fix) {
			t.Errorf("%s: %+v; want %s with %q", tc.name, r, tc.want, tc.fix)
		}
	}
	var ce *ConfigError
	if _, err := Check(context.Background(), WithCPUs(-1)); !errors.As(err, &ce) {
		t.Errorf("bad option: %v", err)
	}
}

func TestCheckOfThisHostAgreesWithNew(t *testing.T) {
	m := checked(t)
	passed := true
	for _, name := range []string{"device", "permission", "hardware"} {
		passed = passed && m[name].Status == CheckPass
	}
	if err := usableKVM(); passed != (err == nil) {
		t.Errorf("Check says %+v, %+v, %+v; opening and probing says %v", m["device"], m["permission"], m["hardware"], err)
	}
}
