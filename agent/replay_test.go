//go:build linux

package agent_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// counted is a script that prints n lines of 10 bytes, each with its number, and
// what it prints.
func counted(n int) (script string, out []byte) {
	for i := range n {
		out = fmt.Appendf(out, "%09d\n", i)
	}
	return fmt.Sprintf("seq -f %%09.0f 0 %d; exit 6", n-1), out
}

// detachAfter starts a session, reads at least n bytes of it and detaches. It
// returns the cursor and what came.
func detachAfter(t *testing.T, c *channel.Client, req *channel.Request, n int) (at int64, got string) {
	t.Helper()
	out := new(syncBuffer)
	p, err := c.Start(context.Background(), req, channel.Stdio{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "some output", func() bool { return len(out.String()) >= n })
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	if e, err := p.Wait(); e != nil || !errors.Is(err, channel.ErrDetached) {
		t.Fatalf("%+v, %v", e, err)
	}
	at, _ = p.Cursors()
	if at != int64(len(out.String())) {
		t.Fatalf("cursor %d after %d bytes", at, len(out.String()))
	}
	return at, out.String()
}

// goOn lets the session "s", which waits for a line and has no reader, run to its
// end, and returns it.
func goOn(t *testing.T, c *channel.Client) (s channel.SessionInfo) {
	t.Helper()
	in, err := c.Attach(context.Background(), "s", channel.AttachRequest{}, channel.Stdio{Stdin: strings.NewReader("go\n")})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := in.Wait(); err != nil || e.Code != 6 {
		t.Fatalf("%+v, %v", e, err)
	}
	eventually(t, "the end of the session", func() bool {
		list, err := c.Sessions(context.Background())
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		s = list[0]
		return !s.Running
	})
	return s
}

func TestTenMebibytesWhileDetachedAreReplayedExactly(t *testing.T) {
	dial := longAgent(t, agent.Options{})
	script, whole := counted(1 << 20) // 10 MiB
	c := dial()
	req := detachable("echo start; read go; "+script, "s")
	req.Replay, req.OpenStdin = channel.MaxReplay, true
	whole = append([]byte("start\n"), whole...)
	at, head := detachAfter(t, c, req, 6)
	c.Close()

	c = dial()
	s := goOn(t, c)
	if s.Exit == nil || s.Exit.Code != 6 || s.Stdout != (channel.Kept{From: 0, To: int64(len(whole))}) {
		t.Fatalf("%+v %+v", s, s.Exit)
	}
	for range 2 { // the output and the exit status stay
		h := sha256.New()
		h.Write([]byte(head))
		p, err := c.Attach(context.Background(), "s", channel.AttachRequest{FromStdout: at}, channel.Stdio{Stdout: h})
		if err != nil {
			t.Fatal(err)
		}
		e, err := p.Wait()
		if err != nil || e.Code != 6 || [32]byte(h.Sum(nil)) != sha256.Sum256(whole) {
			t.Fatalf("%+v, %v, same hash %v", e, err, [32]byte(h.Sum(nil)) == sha256.Sum256(whole))
		}
		if to, _ := p.Cursors(); to != int64(len(whole)) {
			t.Fatalf("cursor %d, want %d", to, len(whole))
		}
	}
}

func TestTenMebibytesInASmallRingAreAGapWithTheRightCounts(t *testing.T) {
	c := longAgent(t, agent.Options{})()
	const kept = 1000
	script, whole := counted(1 << 20)
	whole = append([]byte("start\n"), whole...)
	req := detachable("echo start; read go; "+script, "s")
	req.Replay, req.OpenStdin = kept, true
	at, _ := detachAfter(t, c, req, 6)
	s := goOn(t, c)
	want := channel.GapError{Stream: "stdout", Want: at, Have: int64(len(whole)) - kept}
	if s.Exit == nil || s.Exit.Code != 6 || s.Stdout != (channel.Kept{From: want.Have, To: int64(len(whole))}) {
		t.Fatalf("%+v %+v", s, s.Exit)
	}
	var g *channel.GapError
	_, err := c.Attach(context.Background(), "s", channel.AttachRequest{FromStdout: at}, channel.Stdio{Stdout: new(syncBuffer)})
	if !errors.As(err, &g) || *g != want {
		t.Fatalf("%v, want %v", err, &want)
	}
	p, tail := attach(t, c, "s", channel.AttachRequest{FromStdout: at, AllowGap: true}, nil)
	e, err := p.Wait()
	if skipped, _ := p.Skipped(); err != nil || e.Code != 6 || skipped != want.Have-want.Want || tail.String() != string(whole[want.Have:]) {
		t.Fatalf("%+v, %v, skipped %d, %d bytes", e, err, skipped, len(tail.String()))
	}
}
