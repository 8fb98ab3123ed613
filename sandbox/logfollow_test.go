//go:build linux && amd64

package sandbox

import (
	"fmt"
	"sync"
	"testing"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

// hookSink counts, and calls hook before it takes an entry.
type hookSink struct {
	hook func(*execlog.Entry)

	mu     sync.Mutex
	output int64 // bytes
	gaps   int64
	untold bool // a gap of unknown size
	exits  int
	late   bool // an entry came after the exit
}

func (s *hookSink) Log(e execlog.Entry) error {
	s.hook(&e)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.Session == "":
		return nil
	case e.Event == nil:
		s.output += int64(len(e.Data))
	case e.Event.Kind == execlog.Gap:
		s.gaps += e.Event.Bytes
		s.untold = s.untold || e.Event.Bytes == 0
	}
	s.late = s.late || s.exits > 0
	if e.Event != nil && e.Event.Kind == execlog.Exit && e.Event.Code == 7 {
		s.exits++
	}
	return nil
}

func (s *hookSink) check(t *testing.T, total int64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.output+s.gaps != total && !(s.untold && s.output+s.gaps < total) || s.exits != 1 || s.late {
		t.Errorf("%d bytes are logged and %d in gaps, want %d in all; %d exits, entries after it: %v", s.output, s.gaps, total, s.exits, s.late)
	}
}

// A session that prints more than the guest keeps before its log follows it is logged with a gap at its start.
func TestALogThatComesLateTellsWhatItMissed(t *testing.T) {
	ctx := testContext(t)
	var sb *Sandbox
	s := &hookSink{hook: func(e *execlog.Entry) {
		for e.Event != nil && e.Event.Kind == execlog.Start {
			if list, err := sb.client.Sessions(ctx); err != nil || len(list) == 1 && !list[0].Running {
				return
			}
		}
	}}
	sb = agentSandbox(t, WithLogs(s))
	const total = 5_000_000
	x, err := sb.StartSession(ctx, "sh", []string{"-c", "head -c 5000000 /dev/zero; exit 7"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	sb.logs.wg.Wait()
	s.check(t, total)
	if s.gaps == 0 {
		t.Error("the log came in time: nothing was tested")
	}
}

// A sandbox that is closed while the log is behind leaves a log that says so, and has nothing after the exit: whether all of the output was on this side
// already, or more than fits was left in the guest.
func TestALogThatIsCutOffTellsThatItLacksSomething(t *testing.T) {
	for _, total := range []int64{900_000, 3_000_000} {
		ctx := testContext(t)
		gate := make(chan struct{})
		s := &hookSink{hook: func(e *execlog.Entry) {
			if e.Event == nil {
				<-gate
			}
		}}
		sb := agentSandbox(t, WithLogs(s))
		x, err := sb.StartSession(ctx, "sh", []string{"-c", fmt.Sprintf("head -c %d /dev/zero; exit 7", total)}, WithExecDetachable(4<<20))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		h, err := x.Stream(ctx, WithReadOnly()) // when it has all of the session, the log's attachment has what it can
		if err != nil {
			t.Fatal(err)
		}
		if res, err := h.Collect(ctx); err != nil || int64(len(res.Stdout())) != total {
			t.Fatal(err)
		}
		sb.client.Close()
		close(gate)
		sb.logs.wg.Wait()
		s.check(t, total)
		if total > 2<<20 && !s.untold {
			t.Error("nothing says that output is missing")
		}
	}
}
