//go:build linux

package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

func TestReaperTakesOrphansAndStealsNoStatus(t *testing.T) {
	c, _ := connectMode(t, "init")
	const n = 300
	for i := range n {
		// The grandchild outlives its parent and is adopted.
		r := run(t, c, sh(fmt.Sprintf("(sh -c 'exit 9' >/dev/null 2>&1 &) ; exit %d", i%256)), nil)
		if r.exit.Code != i%256 {
			t.Fatalf("exec %d: %+v", i, r.exit)
		}
	}
	quickExecs(t, c, 500, 32)
	req := sh("ulimit -n; exit 3") // the stop of a traced start must not reach the reaper
	req.Rlimits = []channel.Rlimit{{Name: "nofile", Soft: 50, Hard: 50}}
	for range 50 {
		want(t, run(t, c, req, nil), "50\n", "", 3)
	}
	eventually(t, "every orphan reaped, no zombie", func() bool {
		st, err := c.Stats(context.Background())
		return err == nil && st.Zombies == 0 && st.Reaped >= n
	})
}

func TestUserLookup(t *testing.T) {
	etc := t.TempDir()
	os.WriteFile(filepath.Join(etc, "passwd"), []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/srv/app:/bin/sh\nbroken:x:abc:1::\n"), 0o644)
	os.WriteFile(filepath.Join(etc, "group"), []byte("root:x:0:\napp:x:1001:\nvideo:x:44:other,app\ndisk:x:6:app\n"), 0o644)
	for _, tt := range []struct {
		spec     string
		uid, gid uint32
		groups   []uint32
		home     string
		fails    bool
	}{
		{"root", 0, 0, nil, "/root", false},
		{"app", 1000, 1001, []uint32{44, 6}, "/srv/app", false},
		{"1000", 1000, 1001, []uint32{44, 6}, "/srv/app", false},
		{"app:video", 1000, 44, nil, "/srv/app", false},
		{"app:7", 1000, 7, nil, "/srv/app", false},
		{"4242", 4242, 0, nil, "/", false},
		{"4242:4243", 4242, 4243, nil, "/", false},
		{"nobody", 0, 0, nil, "", true},
		{"broken", 0, 0, nil, "", true},
		{"app:nogroup", 0, 0, nil, "", true},
		{"-1", 0, 0, nil, "", true},
		{"4294967296", 0, 0, nil, "", true},
	} {
		uid, gid, groups, home, err := agent.LookupUser(etc, tt.spec)
		if (err != nil) != tt.fails || uid != tt.uid || gid != tt.gid || !slices.Equal(groups, tt.groups) || home != tt.home {
			t.Errorf("%q: %d %d %v %q %v", tt.spec, uid, gid, groups, home, err)
		}
	}
	// An initramfs without /etc/passwd still has root.
	if uid, _, _, home, err := agent.LookupUser(t.TempDir(), "root"); err != nil || uid != 0 || home != "/root" {
		t.Errorf("root without passwd: %d %q %v", uid, home, err)
	}
}

func TestCmdline(t *testing.T) {
	m := agent.ParseCmdline("console=ttyS0 hutch.port=99  quiet a=b=c\n")
	if m["hutch.port"] != "99" || m["a"] != "b=c" {
		t.Fatal(m)
	}
	if _, ok := m["quiet"]; !ok {
		t.Fatal(m)
	}
}
