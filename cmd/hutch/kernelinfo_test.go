package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelCommandsOnAnEmptyCacheSayWhatHelps(t *testing.T) {
	t.Setenv("HUTCH_CACHE", t.TempDir())
	t.Setenv("HUTCH_KERNEL", "no-such-kernel")
	for _, args := range [][]string{{"kernel", "resolve"}, {"kernel", "inspect"}, {"kernel", "resolve", "also-none"}} {
		if o := hutch(t, "", args...); o.code != exitFailed || !strings.Contains(o.stderr, "hutch kernel fetch") {
			t.Errorf("%q: %+v", args, o)
		}
	}
	for _, args := range [][]string{{"kernel", "import", filepath.Join(t.TempDir(), "none.deb")}, {"kernel", "import"}, {"kernel", "prune"}, {"kernel", "prune", "none"}, {"kernel", "resolve", "a", "b"}} {
		if o := hutch(t, "", args...); o.code != exitFailed || o.stderr == "" || o.stdout != "" {
			t.Errorf("%q: %+v", args, o)
		}
	}
	want(t, hutch(t, "", "kernel", "prune", "--all"), "", 0)
}

func TestDoctorExitsWithOneWhenSomethingFails(t *testing.T) {
	o := hutch(t, "", "doctor", "--json", "-k", filepath.Join(t.TempDir(), "none"))
	var list []struct{ Name, Status, Fix string }
	if err := json.Unmarshal([]byte(o.stdout), &list); err != nil || o.code != 1 {
		t.Fatalf("%v, %+v", err, o)
	}
	for _, r := range list {
		if r.Name == "kernel" && r.Status == "FAIL" && strings.Contains(r.Fix, "hutch kernel") {
			return
		}
	}
	t.Errorf("%+v", list)
}
