//go:build linux

package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// controllerDir is cgroupDir where children may have a controller, or a skip.
func controllerDir(t *testing.T, controller string) string {
	t.Helper()
	dir := cgroupDir(t)
	if !slices.Contains(controllers(dir), controller) {
		msg := "cgroup v2 has no " + controller + " controller here (cgroup v1 may own it); boot with cgroup_no_v1=all, or run in the lab"
		if os.Getenv("HUTCH_REQUIRE_CGROUP") == "1" {
			t.Fatal(msg)
		}
		t.Skip(msg)
	}
	return dir
}

// controllers asks the kernel which controllers dir can have: enabling them for
// children of the root is what an agent's surroundings do.
func controllers(dir string) []string {
	root := filepath.Dir(dir)
	have, _ := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	for _, c := range strings.Fields(string(have)) {
		os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
	b, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	return strings.Fields(string(b))
}

func TestLimitsThatCannotBeSetAreTyped(t *testing.T) {
	for _, limits := range []channel.Limits{{Memory: 64 << 20}, {CPU: 500}, {Pids: 5}} {
		req := sh("echo ran")
		req.Limits = &limits
		_, err := tryRun(connect(t, agent.Options{}), req, nil)
		wantStartError(t, err, channel.StageCgroup, channel.Errno(unix.EOPNOTSUPP))
	}
	dir := cgroupDir(t)
	have := controllers(dir)
	c := connect(t, agent.Options{Cgroup: dir})
	for name, limits := range map[string]channel.Limits{"memory": {Memory: 64 << 20}, "cpu": {CPU: 500}, "pids": {Pids: 5}} {
		if slices.Contains(have, name) {
			continue
		}
		req := sh("echo ran")
		req.Limits = &limits
		_, err := tryRun(c, req, nil)
		if se := wantStartError(t, err, channel.StageCgroup, channel.ENOENT); se.Path != name || !strings.Contains(se.Error(), "no "+name+" controller") {
			t.Fatalf("%v", se)
		}
	}
	if st, err := c.Stats(context.Background()); err != nil || st.Cgroups != 0 {
		t.Fatalf("%+v, %v; want no cgroup left", st, err)
	}
	for _, limits := range []channel.Limits{{Memory: -1}, {CPU: -1}, {Pids: -1}} {
		req := sh("echo ran")
		req.Limits = &limits
		_, err := tryRun(c, req, nil)
		wantStartError(t, err, channel.StageRequest, channel.EINVAL)
	}
}

func TestMemoryLimitEndsInOOM(t *testing.T) {
	c := connect(t, agent.Options{Cgroup: controllerDir(t, "memory")})
	req := sh("exec head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null")
	req.Limits = &channel.Limits{Memory: 16 << 20}
	if r := run(t, c, req, nil); !r.exit.OOM {
		t.Fatalf("%+v", r.exit)
	}
	if r := run(t, c, sh("kill -9 $$"), nil); r.exit.OOM || r.exit.Signal != channel.SIGKILL {
		t.Fatalf("a plain SIGKILL: %+v", r.exit)
	}
}

func TestPidsLimit(t *testing.T) {
	c := connect(t, agent.Options{Cgroup: controllerDir(t, "pids")})
	req := sh("sleep 1 & sleep 1 & sleep 1 & wait")
	req.Limits = &channel.Limits{Pids: 2}
	if r := run(t, c, req, nil); r.exit.Code == 0 {
		t.Fatalf("%+v", r)
	}
}

func TestCPULimitIsSet(t *testing.T) {
	dir := controllerDir(t, "cpu")
	c := connect(t, agent.Options{Cgroup: dir})
	for limit, want := range map[int64]string{500: "50000 100000", 5: "5000 1000000"} {
		// The file is read from outside: at 5 thousandths a process takes seconds for anything.
		req := &channel.Request{Path: "sleep", Args: []string{"sleep", "1000"}, Limits: &channel.Limits{CPU: limit}}
		p, err := c.Start(context.Background(), req, channel.Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		var got string
		files, _ := filepath.Glob(filepath.Join(dir, "exec*", "cpu.max"))
		for _, f := range files {
			if procs, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cgroup.procs")); strings.TrimSpace(string(procs)) == strconv.Itoa(p.PID()) {
				b, _ := os.ReadFile(f)
				got = strings.TrimSpace(string(b))
			}
		}
		if got != want {
			t.Errorf("limit %d: cpu.max of %v is %q, want %q", limit, files, got, want)
		}
		p.Kill()
		if e, err := p.Wait(); err != nil || e.Signal != channel.SIGKILL {
			t.Fatalf("%+v, %v", e, err)
		}
	}
}
