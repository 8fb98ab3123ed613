//go:build linux

package agent_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// atOnce bounds what takes a second at most, with room for a loaded machine.
const atOnce = 10 * time.Second

// flow counts what is written to it.
type flow struct{ n atomic.Int64 }

func (f *flow) Write(p []byte) (int, error) { f.n.Add(int64(len(p))); return len(p), nil }

// pendingCalls starts one call of each kind that waits for the agent. Each
// result is sent with the call's name.
func pendingCalls(c *channel.Client, running, kept *channel.Process) (n int, results <-chan struct {
	name string
	err  error
}) {
	ctx := context.Background()
	calls := map[string]func() error{
		"Start": func() error { _, err := c.Start(ctx, sh("true"), channel.Stdio{Stdin: zeros{}}); return err },
		"Attach": func() error {
			_, err := c.Attach(ctx, "kept", channel.AttachRequest{ReadOnly: true}, channel.Stdio{})
			return err
		},
		"Stats":    func() error { _, err := c.Stats(ctx); return err },
		"Sessions": func() error { _, err := c.Sessions(ctx); return err },
		"Forget":   func() error { return c.Forget(ctx, "kept") },
		"Signal":   func() error { return running.Signal(ctx, channel.SIGUSR1, true) },
		"Detach": func() error {
			if err := kept.Detach(); err != nil {
				return err
			}
			_, err := kept.Wait()
			return err
		},
	}
	ch := make(chan struct {
		name string
		err  error
	}, len(calls))
	var entered sync.WaitGroup
	for name, call := range calls {
		entered.Add(1)
		go func() {
			entered.Done()
			err := call()
			ch <- struct {
				name string
				err  error
			}{name, err}
		}()
	}
	entered.Wait()
	return len(calls), ch
}

func TestAgentKilledInTheMiddleOfEverything(t *testing.T) {
	ctx := context.Background()
	before := runtime.NumGoroutine()
	c, cmd := connectProcess(t)
	var out, echo flow
	var ps []*channel.Process
	begin := func(req *channel.Request, stdio channel.Stdio) *channel.Process {
		t.Helper()
		p, err := c.Start(ctx, req, stdio)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
		return p
	}
	begin(&channel.Request{Path: "cat", Args: []string{"cat", "/dev/zero"}}, channel.Stdio{Stdout: &out})
	begin(&channel.Request{Path: "cat"}, channel.Stdio{Stdin: zeros{}, Stdout: &echo})
	begin(&channel.Request{Path: "sleep", Args: []string{"sleep", "1000"}, TTY: &channel.TTY{}}, channel.Stdio{Stdout: io.Discard})
	running := begin(&channel.Request{Path: "sleep", Args: []string{"sleep", "1000"}}, channel.Stdio{})
	kept := begin(detachable("exec sleep 1000", "kept"), channel.Stdio{Stdout: io.Discard})
	eventually(t, "both streams flow", func() bool { return out.n.Load() > 1<<20 && echo.n.Load() > 1<<20 })

	cmd.Process.Signal(unix.SIGSTOP) // so that calls are pending at the death
	n, results := pendingCalls(c, running, kept)
	killed := time.Now()
	cmd.Process.Kill()
	for range n {
		if r := <-results; !errors.Is(r.err, channel.ErrAgentLost) {
			t.Errorf("%s: %v, want ErrAgentLost", r.name, r.err)
		}
	}
	for i, p := range ps {
		if e, err := p.Wait(); e != nil || !errors.Is(err, channel.ErrAgentLost) {
			t.Errorf("exec %d: %+v, %v", i, e, err)
		}
		if err := p.Kill(); !errors.Is(err, channel.ErrAgentLost) {
			t.Errorf("kill of exec %d, which may live: %v", i, err)
		}
		unix.Kill(p.PID(), unix.SIGKILL) // the agent was not process 1
	}
	if d := time.Since(killed); d > atOnce {
		t.Errorf("took %v", d)
	}
	c.Close()
	cmd.Wait()
	eventually(t, "as few goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
}

func TestEndOfTheConnectionLeavesNothingOnEitherSide(t *testing.T) {
	dial := longAgent(t, agent.Options{})
	run(t, dial(), sh("true"), nil)
	before := runtime.NumGoroutine()
	for range 20 {
		c := dial()
		var out flow
		p, err := c.Start(context.Background(), &channel.Request{Path: "cat"}, channel.Stdio{Stdin: zeros{}, Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the stream flows", func() bool { return out.n.Load() > 1<<20 })
		c.Close()
		if e, err := p.Wait(); e != nil || !errors.Is(err, channel.ErrAgentLost) || !errors.Is(err, channel.ErrClosed) {
			t.Fatalf("%+v, %v", e, err)
		}
		eventually(t, "as few goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
	}
}
