package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// cgroups makes one cgroup v2 directory per exec. An empty one is used again:
// making and removing one costs more than a short exec.
//
// Source: Documentation/admin-guide/cgroup-v2.rst.
type cgroups struct {
	root string

	mu   sync.Mutex
	next int
	free []*cgroup
	busy []*cgroup // the exec is over but descendants live
	n    int       // directories that exist
}

// maxFree bounds the cgroups kept for later execs.
const maxFree = 32

// cgroup is the directory of one exec.
type cgroup struct {
	path string
	dir  *os.File
	// killed: never used again. Linux 6.12 to 6.18 at least compare the count of
	// cgroup.kill writes of the parent's cgroup with the new one's at a clone
	// into a cgroup, and kill the child at once if they differ.
	killed  atomic.Bool
	limited bool  // used once
	ooms    int64 // oom_kill of memory.events when it was last read
}

// newCgroups prepares root, which must be a directory of a cgroup v2 mount that
// may have children: it is made if it does not exist.
func newCgroups(root string) (*cgroups, error) {
	if err := os.Mkdir(root, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("agent: cgroup: %w", err)
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		return nil, fmt.Errorf("agent: cgroup: %s is not in a cgroup v2 mount: %w", root, err)
	}
	delegate(root)
	return &cgroups{root: root}, nil
}

// delegate lets the children of dir use the controllers that dir has. One that
// cannot be used is left out: killing needs none.
func delegate(dir string) {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, c := range strings.Fields(string(have)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// acquire returns an empty cgroup. One that gets limits is fresh and not used again.
func (g *cgroups) acquire(limited bool) (*cgroup, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.free); n > 0 && !limited {
		c := g.free[n-1]
		g.free = g.free[:n-1]
		return c, nil
	}
	g.next++
	path := filepath.Join(g.root, "exec"+strconv.Itoa(g.next))
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	d, err := os.Open(path)
	if err != nil {
		_ = unix.Rmdir(path)
		return nil, err
	}
	g.n++
	return &cgroup{path: path, dir: d, limited: limited}, nil
}

// release gives a cgroup back. One with living processes (daemons that the exec
// left) waits until they are gone.
func (g *cgroups) release(c *cgroup) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = append(g.busy, c)
	g.collect(4)
}

// collect looks at up to n waiting cgroups, the newest first. The caller holds g.mu.
func (g *cgroups) collect(n int) {
	for i := len(g.busy) - 1; i >= 0 && n > 0; i, n = i-1, n-1 {
		c := g.busy[i]
		if c.populated() {
			continue
		}
		g.busy = append(g.busy[:i], g.busy[i+1:]...)
		if len(g.free) < maxFree && !c.killed.Load() && !c.limited {
			g.free = append(g.free, c)
		} else {
			g.remove(c)
		}
	}
}

func (g *cgroups) remove(c *cgroup) {
	c.dir.Close()
	if unix.Rmdir(c.path) == nil {
		g.n--
	}
}

// count is the number of cgroups of execs that run or left processes.
func (g *cgroups) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.collect(len(g.busy))
	return g.n - len(g.free)
}

func (g *cgroups) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range append(g.free, g.busy...) {
		g.remove(c)
	}
	g.free, g.busy = nil, nil
	_ = unix.Rmdir(g.root)
}

func (c *cgroup) fd() int { return int(c.dir.Fd()) }

// kill sends SIGKILL to every process in the cgroup, also those that left the
// process group and the session.
func (c *cgroup) kill() {
	c.killed.Store(true)
	if os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	// A kernel before 5.14: kill what is listed until nothing is new.
	for range 100 {
		b, err := os.ReadFile(filepath.Join(c.path, "cgroup.procs"))
		pids := strings.Fields(string(b))
		if err != nil || len(pids) == 0 {
			return
		}
		for _, p := range pids {
			if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

func (c *cgroup) populated() bool { return c.counter("cgroup.events", "populated") != 0 }

// oomKilled reports whether the OOM killer ended a process of the cgroup since
// the last call.
func (c *cgroup) oomKilled() bool {
	n := c.counter("memory.events", "oom_kill")
	killed := n > c.ooms
	c.ooms = n
	return killed
}

// counter is the value of a key in a flat-keyed file, 0 if there is none.
func (c *cgroup) counter(file, key string) int64 {
	b, err := os.ReadFile(filepath.Join(c.path, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
