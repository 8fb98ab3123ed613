//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

func TestOrphanThatLeftTheSessionDelaysNobodyPastWaitDelay(t *testing.T) {
	c := connect(t, agent.Options{})
	for _, tty := range []*channel.TTY{nil, {}} {
		for _, detached := range []bool{false, true} {
			// The terminal's hang-up reaches only those who stayed in the session.
			req := sh(`trap 'exit 0' USR1; export P=$$; echo hi
				setsid sh -c 'trap "" HUP; echo $$; kill -USR1 $P; exec sleep 1000' & while :; do sleep 0.01; done`)
			req.WaitDelay, req.Detachable, req.TTY = 50*time.Millisecond, detached, tty
			begin := time.Now()
			r := run(t, c, req, nil)
			got := lines(strings.ReplaceAll(r.stdout, "\r", ""))
			if len(got) != 2 || got[0] != "hi" || r.exit.Code != 0 || !r.exit.Orphaned {
				t.Fatalf("tty %v, detachable %v: %+v %+v", tty != nil, detached, r, r.exit)
			}
			if d := time.Since(begin); d > atOnce {
				t.Fatalf("took %v", d)
			}
			if dead(got[1]) {
				t.Fatalf("tty %v, detachable %v: the daemon was killed", tty != nil, detached)
			}
			run(t, c, sh("kill -KILL "+got[1]), nil)
		}
	}
}

func TestOrphanIsReadForAsLongAsTheCallerWants(t *testing.T) {
	c := connect(t, agent.Options{})
	req := sh("(sleep 2.2; echo late) & echo hi; exit 5") // longer than the default of 2 s
	req.WaitDelay = -1
	if r := run(t, c, req, nil); r.stdout != "hi\nlate\n" || r.exit.Code != 5 || r.exit.Orphaned {
		t.Fatalf("%+v %+v", r, r.exit)
	}
}

func TestDeadlineOfTheContextEndsAProcessThatIgnoresSIGTERM(t *testing.T) {
	c := connect(t, agent.Options{})
	for _, tty := range []*channel.TTY{nil, {}} {
		patiently(t, func(timeout time.Duration) bool {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			begin := time.Now()
			var out bytes.Buffer
			req := sh("trap '' TERM; echo partial; while :; do sleep 0.01; done")
			req.Grace, req.TTY = 50*time.Millisecond, tty
			p, err := c.Start(ctx, req, channel.Stdio{Stdout: &out})
			if err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				return false
			}
			e, err := p.Wait()
			got := strings.ReplaceAll(out.String(), "\r", "")
			if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix("partial\n", got) {
				t.Fatalf("tty %v: %+v, %v, %q", tty != nil, e, err, got)
			}
			if got == "" {
				return false
			}
			if e == nil || e.Signal != channel.SIGKILL || e.TimedOut || time.Since(begin) < timeout+req.Grace {
				t.Fatalf("tty %v: %+v after %v", tty != nil, e, time.Since(begin))
			}
			return true
		})
	}
}
