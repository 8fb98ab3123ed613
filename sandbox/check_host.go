package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory compares the guest's memory with what the host and this process's address space have.
func (c *checker) memory() {
	want := c.cfg.memory
	if limit, limited := c.seen.space(); limited {
		if used := c.seen.addressesUsed(); used+want > int64(min(limit, math.MaxInt64)) {
			c.add(CheckResult{Name: "memory", Status: CheckFail, Detail: fmt.Sprintf("this process may have %d MiB of addresses (RLIMIT_AS) and has %d MiB, a guest needs %d MiB more",
				limit>>20, used>>20, want>>20), Fix: "ulimit -v unlimited", Also: "give the guest less (WithMemory, --memory)"})
			return
		}
	}
	have, err := c.seen.availableMemory()
	switch {
	case err != nil:
		c.add(CheckResult{Name: "memory", Status: CheckWarn, Detail: fmt.Sprintf("how much this host has is not known: %v", err)})
	case have < want:
		c.add(CheckResult{Name: "memory", Status: CheckWarn, Detail: fmt.Sprintf("%d MiB are available, and the guest may come to use %d MiB", have>>20, want>>20),
			Fix: "give the guest less (WithMemory, --memory), or the host more"})
	default:
		c.pass("memory", "%d MiB are available, for a guest of %d MiB", have>>20, want>>20)
	}
}

// spareTasks is how many threads a program with one guest starts beside those of its virtual CPUs, and some.
const spareTasks = 32

// cgroup looks at the limits of this process's control group and of those above it.
func (c *checker) cgroup() {
	var said []string
	for _, l := range []struct {
		v2, v1, v1Used, v2Used string
		what                   string
		need                   float64
		unit                   float64
		fix                    string
	}{
		{"memory.max", "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory.current", "MiB of memory", float64(c.cfg.memory) / (1 << 20), 1 << 20,
			"give the guest less (WithMemory, --memory), or the container more (docker run --memory)"},
		{"pids.max", "pids/pids.max", "pids/pids.current", "pids.current", "processes and threads", float64(c.cfg.cpus + spareTasks), 1,
			"raise the limit (docker run --pids-limit, TasksMax= of a systemd unit)"},
		{"cpu.max", "cpu/cpu.cfs_quota_us", "", "", "processors", float64(c.cfg.cpus), 1,
			"give the guest fewer (WithCPUs, --cpus), or the container more (docker run --cpus)"},
	} {
		group, left, ok := c.seen.tightest(l.v2, l.v2Used, l.v1, l.v1Used)
		if !ok {
			continue
		}
		left /= l.unit
		if left < l.need {
			c.add(CheckResult{Name: "cgroup", Status: CheckWarn, Detail: fmt.Sprintf("the control group %s leaves %.4g %s, and a guest may come to use %.4g", group, left, l.what, l.need), Fix: l.fix})
			return
		}
		said = append(said, fmt.Sprintf("%.4g %s", left, l.what))
	}
	if said == nil {
		c.pass("cgroup", "no control group limits memory, processes or CPU time")
		return
	}
	c.pass("cgroup", "control groups leave %s", strings.Join(said, ", "))
}

func (s surroundings) read(name string) (string, bool) {
	b, err := os.ReadFile(filepath.Join(s.root, name))
	return strings.TrimSpace(string(b)), err == nil
}

// availableMemory is what the host can still give.
func (s surroundings) availableMemory() (int64, error) {
	b, err := os.ReadFile(filepath.Join(s.root, "proc/meminfo"))
	if err != nil {
		return 0, err
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// addressesUsed is the size of this process's address space in bytes, 0 if it is not known.
func (s surroundings) addressesUsed() int64 {
	text, _ := s.read("proc/self/statm")
	pages, _, _ := strings.Cut(text, " ")
	n, err := strconv.ParseInt(pages, 10, 64)
	if err != nil {
		return 0
	}
	return n * int64(os.Getpagesize())
}

// tightest is what is left of a limit in the control group of this process, or in the one above it that leaves less.
// Sources: cgroup-v2.rst, "Controllers"; cgroup-v1/memory.rst, pids.rst, scheduler/sched-bwc.rst.
func (s surroundings) tightest(v2, v2Used, v1, v1Used string) (group string, left float64, ok bool) {
	self, _ := s.read("proc/self/cgroup")
	look := func(path string, quota func(group string) (float64, bool)) {
		for g := filepath.Clean("/" + path); ; g = filepath.Dir(g) {
			if n, limited := quota(g); limited && (!ok || n < left) {
				group, left, ok = g, n, true
			}
			if g == "/" {
				return
			}
		}
	}
	controller, file, _ := strings.Cut(v1, "/")
	for line := range strings.Lines(self) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		if id == "0" && controllers == "" {
			look(path, func(g string) (float64, bool) {
				return s.left(filepath.Join("sys/fs/cgroup", g), v2, v2Used)
			})
		}
		for _, name := range strings.Split(controllers, ",") {
			if name == controller {
				look(path, func(g string) (float64, bool) {
					return s.left(filepath.Join("sys/fs/cgroup", name, g), file, filepath.Base(v1Used))
				})
			}
		}
	}
	return group, left, ok
}

// noLimit is where version 1 begins to mean none: it has no word for it, and gives the largest number of pages.
const noLimit = 1 << 60

// left is a group's limit less what is used of it; of CPU time it is a number of processors.
func (s surroundings) left(dir, file, used string) (float64, bool) {
	text, ok := s.read(filepath.Join(dir, file))
	if !ok {
		return 0, false
	}
	words := strings.Fields(text)
	if file == "cpu.cfs_quota_us" {
		period, _ := s.read(filepath.Join(dir, "cpu.cfs_period_us"))
		words = append(words, period)
	}
	var n [2]float64
	for i, w := range words[:min(len(words), 2)] {
		f, err := strconv.ParseFloat(w, 64)
		if err != nil || f < 0 || f >= noLimit { // "max", or -1
			return 0, false
		}
		n[i] = f
	}
	switch {
	case len(words) == 0:
		return 0, false
	case len(words) > 1 && n[1] > 0:
		return n[0] / n[1], true
	}
	now, _ := s.read(filepath.Join(dir, used))
	u, _ := strconv.ParseFloat(now, 64)
	if strings.HasPrefix(file, "memory.") {
		u = max(0, u-s.reclaimable(dir))
	}
	return max(0, n[0]-u), true
}

// reclaimable are the bytes of a group's memory that are only cache, which the kernel gives up before it refuses memory.
func (s surroundings) reclaimable(dir string) float64 {
	stat, _ := s.read(filepath.Join(dir, "memory.stat"))
	for line := range strings.Lines(stat) {
		if f := strings.Fields(line); len(f) == 2 && (f[0] == "inactive_file" || f[0] == "total_inactive_file") {
			n, _ := strconv.ParseFloat(f[1], 64)
			return n
		}
	}
	return 0
}
