//go:build linux

package agent_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// start starts req and returns the first line that it prints.
func start(t *testing.T, ctx context.Context, c *channel.Client, req *channel.Request) (*channel.Process, string) {
	t.Helper()
	r, w := io.Pipe()
	p, err := c.Start(ctx, req, channel.Stdio{Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, r)
	t.Cleanup(func() { w.Close() })
	return p, strings.TrimSpace(line)
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(longTime); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// dead reports whether no process has this ID, or only a zombie that the test's
// environment has not reaped.
func dead(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

// removeCgroup removes what the agent's end has not: it waits for the last process
// of the tree to be gone. What it cannot remove is empty and goes with the machine.
func removeCgroup(dir string) {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
			return
		}
		execs, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
		for _, e := range execs {
			unix.Rmdir(filepath.Dir(e))
		}
	}
}

// cgroupDir returns a cgroup for the agent, or skips.
func cgroupDir(t *testing.T) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		// A name of its own each time: an exec's cgroup may outlive its test for a moment, and then the test's cannot be removed yet.
		if dir, err := os.MkdirTemp(root, "hutch-test-*"); err == nil {
			t.Cleanup(func() { removeCgroup(dir) })
			return dir
		}
	}
	if os.Getenv("HUTCH_REQUIRE_CGROUP") == "1" {
		t.Fatal("HUTCH_REQUIRE_CGROUP=1 but no writable cgroup v2 directory")
	}
	t.Skip("needs a writable cgroup v2 mount; run as root, or in the lab")
	return ""
}

const tree = `sh -c 'sleep 1000 & echo $$ $!; wait' & wait`

func TestKillEndsTheWholeGroup(t *testing.T) {
	c := connect(t, agent.Options{})
	p, line := start(t, context.Background(), c, sh(tree))
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if e, err := p.Wait(); err != nil || e.Signal != channel.SIGKILL || e.Orphaned {
		t.Fatalf("%+v, %v", e, err)
	}
	for _, pid := range strings.Fields(line) {
		eventually(t, "death of "+pid, func() bool { return dead(pid) })
	}
}

func TestKillByCgroupReachesThoseWhoLeftTheSession(t *testing.T) {
	dir := cgroupDir(t)
	c := connect(t, agent.Options{Cgroup: dir})
	for range 5 {
		p, line := start(t, context.Background(), c, sh(`setsid sh -c 'sleep 1000 & echo $$ $!; wait' & wait`))
		p.Kill()
		if e, err := p.Wait(); err != nil || e.Signal != channel.SIGKILL || e.Orphaned {
			t.Fatalf("%+v, %v", e, err)
		}
		for _, pid := range strings.Fields(line) {
			eventually(t, "death of "+pid, func() bool { return dead(pid) })
		}
	}
	eventually(t, "no cgroup in use", func() bool {
		st, err := c.Stats(context.Background())
		return err == nil && st.Cgroups == 0
	})
	if os.Getenv("HUTCH_TEST_RELAY") != "" {
		return // the end of a relay is not the agent's
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "removal of the agent's cgroups", func() bool { _, err := os.Stat(dir); return os.IsNotExist(err) })
}

func TestCgroupIsUsedAgainOnlyWhenEmpty(t *testing.T) {
	c := connect(t, agent.Options{Cgroup: cgroupDir(t)})
	req := sh("setsid sleep 1000 >/dev/null 2>&1 & echo $!")
	daemon := run(t, c, req, nil)
	for range 3 {
		run(t, c, sh("true"), nil)
	}
	st, err := c.Stats(context.Background())
	if err != nil || st.Cgroups != 1 {
		t.Fatalf("with one daemon: %+v, %v; want 1 cgroup", st, err)
	}
	if dead(strings.TrimSpace(daemon.stdout)) {
		t.Fatal("the daemon of an exec that ended by itself was killed")
	}
	run(t, c, sh("kill "+daemon.stdout), nil)
	eventually(t, "no cgroup in use", func() bool { st, _ := c.Stats(context.Background()); return st.Cgroups == 0 })
}

func TestCancelKillsAndKeepsPartialOutput(t *testing.T) {
	c := connect(t, agent.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	p, line := start(t, ctx, c, sh(`echo $$; exec sleep 1000`))
	cancel()
	e, err := p.Wait()
	if !errors.Is(err, context.Canceled) || e == nil || e.Signal != channel.SIGKILL || e.Stdout != int64(len(line)+1) {
		t.Fatalf("%+v, %v", e, err)
	}
	eventually(t, "death of "+line, func() bool { return dead(line) })
}

func TestCancelWithGraceLetsTheProcessFinish(t *testing.T) {
	c := connect(t, agent.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	req := sh(`trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done`)
	req.Grace = longTime
	p, _ := start(t, ctx, c, req)
	cancel()
	e, err := p.Wait()
	if err != nil || e.Code != 3 || e.Stdout != int64(len("ready\nbye\n")) {
		t.Fatalf("%+v, %v; a process that exits by itself after SIGTERM is an ordinary exit", e, err)
	}
}

func TestCancelBeforeStart(t *testing.T) {
	c := connect(t, agent.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Start(ctx, sh("true"), channel.Stdio{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// patiently calls try with longer and longer timeouts, until the process had the
// time to print something: how long that is is the machine's affair.
func patiently(t *testing.T, try func(timeout time.Duration) (printed bool)) {
	t.Helper()
	for timeout := 200 * time.Millisecond; !try(timeout); timeout *= 2 {
		if timeout > longTime {
			t.Fatalf("nothing was printed in %v", timeout)
		}
	}
}

func TestTimeoutInTheGuest(t *testing.T) {
	c := connect(t, agent.Options{})
	req := sh(`trap '' TERM; echo partial; while :; do sleep 0.01; done`)
	patiently(t, func(timeout time.Duration) bool {
		req.Timeout, req.Grace = timeout, 50*time.Millisecond
		r := run(t, c, req, nil)
		if !r.exit.TimedOut || r.exit.Signal == 0 || r.exit.Wall < timeout {
			t.Fatalf("%+v %+v", r, r.exit)
		}
		if r.stdout == "" {
			return false
		}
		if r.stdout != "partial\n" || r.exit.Signal != channel.SIGKILL || r.exit.Wall < timeout+req.Grace {
			t.Fatalf("%+v %+v", r, r.exit)
		}
		return true
	})
	req = sh("exit 2")
	req.Timeout = longTime
	if r := run(t, c, req, nil); r.exit.TimedOut || r.exit.Code != 2 {
		t.Fatalf("%+v", r.exit)
	}
}

func TestHostThatGoesAwayTakesItsExecsAlong(t *testing.T) {
	c := connect(t, agent.Options{})
	p, line := start(t, context.Background(), c, sh(tree))
	c.Close()
	_, err := p.Wait()
	if !errors.Is(err, channel.ErrAgentLost) || !errors.Is(err, channel.ErrClosed) {
		t.Fatalf("%v, want ErrAgentLost and ErrClosed", err)
	}
	for _, pid := range strings.Fields(line) {
		eventually(t, "death of "+pid, func() bool { return dead(pid) })
	}
}

func TestKilledAgentEndsEveryCall(t *testing.T) {
	c, cmd := connectProcess(t)
	var ps []*channel.Process
	for range 10 {
		p, _ := start(t, context.Background(), c, sh("echo up; exec sleep 1000"))
		ps = append(ps, p)
	}
	begin := time.Now()
	cmd.Process.Kill()
	for _, p := range ps {
		if e, err := p.Wait(); !errors.Is(err, channel.ErrAgentLost) || e != nil {
			t.Fatalf("%+v, %v", e, err)
		}
		unix.Kill(p.PID(), unix.SIGKILL) // the agent was not process 1: its children live on
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Fatalf("took %v", d)
	}
	<-c.Done()
	if _, err := c.Start(context.Background(), sh("true"), channel.Stdio{}); !errors.Is(err, channel.ErrAgentLost) {
		t.Fatal(err)
	}
	if _, err := c.Stats(context.Background()); !errors.Is(err, channel.ErrAgentLost) {
		t.Fatal(err)
	}
}

func TestFrozenAgentDelaysNobodyPastTheDeadline(t *testing.T) {
	c, cmd := connectProcess(t)
	running, _ := start(t, context.Background(), c, sh("echo up; exec sleep 1000"))
	cmd.Process.Signal(unix.SIGSTOP)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := c.Start(ctx, sh("true"), channel.Stdio{Stdin: zeros{}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := c.Stats(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := running.Signal(ctx, channel.SIGUSR1, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Fatalf("took %v", d)
	}
	// Nothing guessed that the agent was dead: it goes on where it stopped.
	cmd.Process.Signal(unix.SIGCONT)
	want(t, run(t, c, sh("echo alive"), nil), "alive\n", "", 0)
	if e, err := running.Wait(); err != nil || e.Signal != channel.SIGUSR1 { // the signal was on its way all the time
		t.Fatalf("%+v, %v", e, err)
	}
}

func TestShutdownEndsServe(t *testing.T) {
	conn, end := socketpair(t)
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), end, agent.Options{}) }()
	c, err := channel.NewClient(context.Background(), conn, channel.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, _ := start(t, context.Background(), c, sh("echo up; exec sleep 1000"))
	if err := c.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatalf("Serve after a shutdown: %v, want nil", err)
	}
	if _, err := p.Wait(); !errors.Is(err, channel.ErrAgentLost) {
		t.Fatal(err)
	}
}

func TestNothingIsLeftInTheAgent(t *testing.T) {
	c, _ := connectProcess(t)
	ctx := context.Background()
	run(t, c, sh("true"), nil) // the poller and the pools exist
	before, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		run(t, c, sh("echo "+strconv.Itoa(i)), strings.NewReader("x"))
		tryRun(c, &channel.Request{Path: "no-such"}, strings.NewReader("x"))
		req := sh("tty")
		req.TTY = &channel.TTY{}
		run(t, c, req, nil)
	}
	eventually(t, "as few goroutines and descriptors as before", func() bool {
		after, err := c.Stats(ctx)
		return err == nil && after.Goroutines <= before.Goroutines && after.FDs <= before.FDs && after.Streams <= before.Streams && after.Zombies == 0
	})
}

func TestCancelledProcessThatSucceedsAfterTheSignalIsCancelled(t *testing.T) {
	c := connect(t, agent.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := sh("trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done")
	req.Grace = longTime
	p, _ := start(t, ctx, c, req)
	cancel()
	if e, err := p.Wait(); !errors.Is(err, context.Canceled) || e == nil || e.Code != 0 {
		t.Fatalf("%+v, %v; want the context's error beside the exit record", e, err)
	}
}
