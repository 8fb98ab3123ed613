//go:build linux

package agent_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// settled is an agent's counters after a first exec, and this process's
// goroutines.
func settled(t *testing.T, c *channel.Client) (channel.Stats, int) {
	t.Helper()
	run(t, c, sh("true"), nil)
	st, err := c.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return st, runtime.NumGoroutine()
}

// asBefore waits until both ends have released everything.
func asBefore(t *testing.T, c *channel.Client, before channel.Stats, goroutines int) {
	t.Helper()
	eventually(t, "as few goroutines, descriptors and streams as before at both ends, and no zombie", func() bool {
		st, err := c.Stats(context.Background())
		return err == nil && st.Goroutines <= before.Goroutines && st.FDs <= before.FDs && st.Streams <= before.Streams &&
			st.Sessions == 0 && st.Zombies == 0 && runtime.NumGoroutine() <= goroutines
	})
}

func TestThousandDetachableSessionsLeaveNothing(t *testing.T) {
	c, _ := connectMode(t, "init")
	before, goroutines := settled(t, c)
	const n = 1000
	ps := make([]*channel.Process, n)
	for i := range n {
		req := detachable("cat", fmt.Sprint("s", i))
		req.Path, req.Args, req.OpenStdin, req.Replay = "cat", nil, true, 4096
		p, err := c.Start(context.Background(), req, channel.Stdio{Stdout: io.Discard})
		if err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		ps[i] = p
	}
	list, err := c.Sessions(context.Background())
	if err != nil || len(list) != n {
		t.Fatalf("%d sessions, %v", len(list), err)
	}
	for _, p := range ps {
		p.Kill()
	}
	for i, p := range ps {
		if e, err := p.Wait(); err != nil || e.Signal != channel.SIGKILL {
			t.Fatalf("session %d: %+v, %v", i, e, err)
		}
	}
	asBefore(t, c, before, goroutines)
}

func TestThousandOrphaningExecsLeaveNothing(t *testing.T) {
	c, _ := connectMode(t, "init")
	before, goroutines := settled(t, c)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range 1000 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r, err := tryRun(c, sh(fmt.Sprintf("(setsid sh -c 'exit 9' >/dev/null 2>&1 &); exit %d", i%256)), nil)
			if err != nil || r.exit.Code != i%256 {
				t.Errorf("exec %d: %+v, %v", i, r.exit, err)
			}
		})
	}
	wg.Wait()
	asBefore(t, c, before, goroutines)
}

func TestTimeoutReachesThoseWhoLeftTheSession(t *testing.T) {
	c := connect(t, agent.Options{Cgroup: cgroupDir(t)})
	for _, detached := range []bool{false, true} {
		req := sh(`trap '' TERM; setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 0.01; done' & while :; do sleep 0.01; done`)
		req.Grace, req.Detachable = 50*time.Millisecond, detached
		patiently(t, func(timeout time.Duration) bool {
			req.Timeout = timeout
			r := run(t, c, req, nil)
			if !r.exit.TimedOut || r.exit.Orphaned {
				t.Fatalf("%+v %+v", r, r.exit)
			}
			if r.stdout == "" {
				return false
			}
			if len(lines(r.stdout)) != 1 || r.exit.Signal != channel.SIGKILL {
				t.Fatalf("%+v %+v", r, r.exit)
			}
			eventually(t, "death of "+r.stdout, func() bool { return dead(lines(r.stdout)[0]) })
			return true
		})
	}
}
