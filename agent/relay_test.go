//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// relayed returns a client of c's agent that goes through a relay.
func relayed(t testing.TB, c *channel.Client, tap channel.Tap) *channel.Client {
	t.Helper()
	conn, end := socketpair(t)
	served := make(chan error, 1)
	go func() { served <- c.Relay(context.Background(), end, channel.RelayConfig{Tap: tap}) }()
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	r, err := channel.NewClient(ctx, conn, channel.Config{})
	if err != nil {
		t.Fatalf("NewClient through a relay: %v", err)
	}
	t.Cleanup(func() {
		r.Close()
		select {
		case <-served:
		case <-time.After(longTime):
			t.Error("Relay did not return after the client's Close")
		}
	})
	return r
}

func TestRelayedExecsAreExact(t *testing.T) {
	direct := connect(t, agent.Options{})
	a, b := relayed(t, direct, nil), relayed(t, direct, nil)
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	var wg sync.WaitGroup
	for i := range 64 {
		c := []*channel.Client{direct, a, b}[i%3]
		wg.Go(func() {
			r, err := tryRun(c, sh(fmt.Sprintf("cat; echo err%d >&2; exit %d", i, i)), strings.NewReader(big))
			if err != nil || r.stdout != big || r.stderr != fmt.Sprintf("err%d\n", i) || r.exit.Code != i {
				t.Errorf("exec %d: %d bytes, stderr %q, %+v, %v", i, len(r.stdout), r.stderr, r.exit, err)
			}
		})
	}
	wg.Wait()
	_, err := tryRun(a, &channel.Request{Path: "no-such-command"}, nil)
	var se *channel.StartError
	if !errors.As(err, &se) || se.Stage != channel.StageLookup {
		t.Errorf("start error through a relay: %v", err)
	}
}

func TestRelaysAttachToOneSessionWithTheSameNumbers(t *testing.T) {
	direct := connect(t, agent.Options{})
	a, b := relayed(t, direct, nil), relayed(t, direct, nil)
	req := sh("read x; seq 1 5000; exit 6")
	req.Session, req.Detachable, req.OpenStdin = "both", true, true
	p, err := a.Start(context.Background(), req, channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	var outs [3]bytes.Buffer
	var procs [3]*channel.Process
	for i, c := range []*channel.Client{a, b, direct} { // each one's first attachment
		var in io.Reader
		if i == 1 {
			in = strings.NewReader("go\n")
		}
		if procs[i], err = c.Attach(context.Background(), "both", channel.AttachRequest{}, channel.Stdio{Stdin: in, Stdout: &outs[i]}); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range procs {
		if e, err := p.Wait(); err != nil || e.Code != 6 || outs[i].String() != outs[0].String() || outs[i].Len() != 23893 {
			t.Errorf("attachment %d: %d bytes, %+v, %v", i, outs[i].Len(), e, err)
		}
	}
	if list, err := b.Sessions(context.Background()); err != nil || len(list) != 1 || list[0].ID != "both" {
		t.Errorf("sessions through a relay: %+v, %v", list, err)
	}
}

func TestLostRelayKillsWhatIsNotDetachable(t *testing.T) {
	direct := connect(t, agent.Options{})
	a := relayed(t, direct, nil)
	keep := sh("sleep 1000")
	keep.Session, keep.Detachable = "keep", true
	if _, err := a.Start(context.Background(), keep, channel.Stdio{}); err != nil {
		t.Fatal(err)
	}
	p, err := a.Start(context.Background(), sh("sleep 1000"), channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := p.Wait(); !errors.Is(err, channel.ErrAgentLost) {
		t.Errorf("Wait = %v", err)
	}
	eventually(t, "the relayed exec is killed", func() bool {
		s, err := direct.Stats(context.Background())
		return err == nil && s.Sessions == 0
	})
	list, err := direct.Sessions(context.Background())
	if err != nil || len(list) != 1 || !list[0].Running {
		t.Fatalf("%+v, %v", list, err)
	}
	k, err := direct.Attach(context.Background(), "keep", channel.AttachRequest{}, channel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	k.Kill()
	k.Wait()
}

func TestRelayEndsWithTheAgent(t *testing.T) {
	direct, cmd := connectProcess(t)
	a := relayed(t, direct, nil)
	p, err := a.Start(context.Background(), sh("echo here; sleep 30"), channel.Stdio{Stdout: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	if _, err := p.Wait(); !errors.Is(err, channel.ErrAgentLost) {
		t.Errorf("Wait = %v", err)
	}
	select {
	case <-a.Done():
	case <-time.After(longTime):
		t.Error("the relay outlives the agent")
	}
}

// recorder is a tap that remembers.
type recorder struct {
	mu    sync.Mutex
	lines []string
	ended chan struct{}
}

func (r *recorder) add(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, a...))
}

func (r *recorder) Exec(req *channel.Request) channel.ExecTap {
	if req.Path == "true" {
		return nil
	}
	r.add("exec %s %q", req.Session, req.Args)
	return r
}
func (r *recorder) Started(pid int)              { r.add("started %v", pid > 0) }
func (r *recorder) Output(stderr bool, p []byte) { r.add("output %v %q", stderr, p) }
func (r *recorder) Ended(e *channel.Exit, err error) {
	if e == nil {
		r.add("ended %v", err)
	} else {
		r.add("ended %d %v %d", e.Code, e.Signal, e.Stdout)
	}
	close(r.ended)
}

func TestTapSeesWhatPasses(t *testing.T) {
	direct := connect(t, agent.Options{})
	for _, tc := range []struct{ script, want string }{
		{"echo out; exit 3", `exec s ["sh" "-c" "echo out; exit 3"]|output false "out\n"|started true|ended 3 signal 0 4`},
		{"echo err >&2; kill -9 $$", `exec s ["sh" "-c" "echo err >&2; kill -9 $$"]|output true "err\n"|started true|ended -1 SIGKILL 0`},
	} {
		rec := &recorder{ended: make(chan struct{})}
		c := relayed(t, direct, rec)
		run(t, c, &channel.Request{Path: "true"}, nil)
		req := sh(tc.script)
		req.Session = "s"
		run(t, c, req, nil)
		<-rec.ended
		// Control and data are streams of their own: the middle may be in another order.
		slices.Sort(rec.lines[1 : len(rec.lines)-1])
		if got := strings.Join(rec.lines, "|"); got != tc.want {
			t.Errorf("the tap saw %s\nwant %s", got, tc.want)
		}
	}
	rec := &recorder{ended: make(chan struct{})}
	c := relayed(t, direct, rec)
	if _, err := c.Start(context.Background(), &channel.Request{Path: "no-such-command", Session: "s"}, channel.Stdio{}); err == nil {
		t.Fatal("started")
	}
	<-rec.ended
	if got := strings.Join(rec.lines, "|"); got != `exec s ["no-such-command"]|ended cannot start process: lookup "no-such-command": executable file not found in $PATH of the guest` {
		t.Errorf("the tap saw %s", got)
	}
}
