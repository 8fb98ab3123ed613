//go:build linux && amd64

package sandbox

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// acceptOrphanOfAClosedHandle: an orphan that holds the output of a command that has exited is killed with the handle, also in a session of its own.
func acceptOrphanOfAClosedHandle(t *testing.T, sb *Sandbox) {
	needCgroups(t, sb)
	path := install(t, sb, "holder")
	others := running(t, sb, path)
	h, err := sb.ExecStream(testContext(t), path, nil, func(c *Cmd) error { c.WaitDelay = -1; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if ev, out := until(t, h, ExecEventExited); ev.ExitCode != 0 {
		t.Fatalf("exit code %d after %q", ev.ExitCode, out)
	}
	if n := running(t, sb, path) - others; n != 1 {
		t.Fatalf("%d orphans, want 1", n)
	}
	select {
	case <-h.proc.p.Done():
		t.Fatal("the output ended although the orphan holds it")
	default:
	}
	if err := h.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Kill of a command that has exited: %v", err)
	}
	soon(t, "Close", func() { h.Close() })
	waitUntil(t, "the orphan is dead", func() bool { return running(t, sb, path) <= others })
}

// acceptBlockedWriters: commands whose output nobody reads stand still, and cost the host a bounded amount of memory each, for as long as they stand.
func acceptBlockedWriters(t *testing.T, sb *Sandbox) {
	const commands, each = 4, 4 << 20 // more than all the buffers between a command and its reader
	ctx := testContext(t)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before := heap()
	var handles []*ExecHandle
	for range commands {
		h, err := sb.ExecStream(ctx, "cat", []string{"/dev/zero"})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		handles = append(handles, h)
	}
	for i := range 10 {
		if res, err := sb.Exec(ctx, "echo", []string{"fine"}); err != nil || res.Stdout() != "fine\n" {
			t.Fatalf("command %d beside them: %+v, %v", i, res, err)
		}
	}
	bound := int64(commands * each)
	if _, ok := sb.host.(*remote); ok {
		bound *= 3 // this process is also the holder, and the agent
	}
	if grown := heap() - before; grown > bound {
		t.Errorf("%d unread commands hold %d bytes of the host's memory", commands, grown)
	} else {
		t.Logf("%d unread commands hold %d bytes of the host's memory", commands, grown)
	}
	for _, h := range handles {
		_ = h.Kill()
		res, err := h.Collect(ctx)
		if err != nil || res.State().Totals().Stdout > each || res.State().Totals().Stdout != int64(len(res.StdoutBytes())) || strings.Trim(res.Stdout(), "\x00") != "" {
			t.Errorf("a command that nobody read wrote %d bytes, of which %d arrived; %v", res.State().Totals().Stdout, len(res.StdoutBytes()), err)
		}
		if wall := res.State().WallTime(); res.State().UserTime()+res.State().SystemTime() > wall/2+time.Second {
			t.Errorf("it used %v of the processor in %v instead of standing still", res.State().UserTime()+res.State().SystemTime(), wall)
		}
	}
}
