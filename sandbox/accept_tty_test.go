//go:build linux && amd64

package sandbox

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
)

func acceptTTYSize(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	h, err := sb.ExecStream(ctx, install(t, sb, "size"), nil, WithExecTTY(37, 91), WithExecStdinPipe())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	untilOutput(t, h, "\x25\x00\x5b\x00") // before anything was typed
	if err := h.Resize(41, 123); err != nil {
		t.Fatal(err)
	}
	in := h.TakeStdin()
	for got := ""; !strings.Contains(got, "\x29\x00\x7b\x00"); { // the size arrives beside the keys
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
		_, out := until(t, h, ExecEventStdout)
		got += out
	}
	in.Close() // types the end-of-file character
	if res, err := h.Wait(ctx); err != nil || !res.Success() {
		t.Fatalf("%+v, %v", res, err)
	}
}

func acceptTTYKeys(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	for key, sig := range map[string]syscall.Signal{"\x03": syscall.SIGINT, "\x1c": syscall.SIGQUIT} {
		h, err := sb.ExecStream(ctx, install(t, sb, "wait"), nil, WithExecTTY(24, 80), WithExecStdinPipe())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(h.TakeStdin(), key); err != nil {
			t.Fatal(err)
		}
		if res, err := h.Wait(ctx); err != nil || res.State().Signal() != sig {
			t.Errorf("key %q: %v, %v", key, res.State(), err)
		}
		h.Close()
	}
	h, err := sb.ExecStream(ctx, install(t, sb, "job"), nil, WithExecTTY(24, 80), WithExecStdinPipe())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	got := untilOutput(t, h, "ready")
	if _, err := io.WriteString(h.TakeStdin(), "\x1a"); err != nil {
		t.Fatal(err)
	}
	res, err := h.Collect(ctx)
	if err != nil || !strings.Contains(got+res.Stdout(), "stopped") || res.ExitCode() != 3 {
		t.Errorf("Ctrl-Z: %q, %v, %v", got+res.Stdout(), res.State(), err)
	}
}

// acceptTTYStop: Ctrl-Z stops the terminal's job, which then is in the state T until it is continued, and Ctrl-C ends it.
func acceptTTYStop(t *testing.T, sb *Sandbox) {
	ctx, path := testContext(t), install(t, sb, "jobs")
	h, err := sb.ExecStream(ctx, path, nil, WithExecTTY(24, 80), WithExecStdinPipe())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	in := h.TakeStdin()
	press := func(key string) {
		if _, err := io.WriteString(in, key); err != nil {
			t.Fatal(err)
		}
	}
	untilOutput(t, h, "ready")
	press("\x1a")
	untilOutput(t, h, "stopped")
	state := func() string { // of the job, the child
		res, err := sb.Shell(ctx, "cat /proc/[0-9]*/stat 2>/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(res.Stdout()) { // PID (NAME) STATE PARENT ...
			if f := strings.Fields(l[strings.LastIndexByte(l, ')')+1:]); len(f) > 1 && f[1] == fmt.Sprint(h.PID()) {
				return f[0]
			}
		}
		return "none"
	}
	if s := state(); s != "T" {
		t.Errorf("state %q of the stopped job, want T", s)
	}
	press("c\n") // continues it
	untilOutput(t, h, "goes on")
	waitUntil(t, "the job goes on", func() bool { return state() == "S" })
	press("\x03")
	res, err := h.Collect(ctx)
	if err != nil || res.ExitCode() != 3 || !strings.Contains(res.Stdout(), "over") {
		t.Errorf("%q, %v, %v", res.Stdout(), res.State(), err)
	}
}

// acceptTTYEndOfFile: Ctrl-D ends the input of the one who reads, and the terminal goes on.
func acceptTTYEndOfFile(t *testing.T, sb *Sandbox) {
	h := stream(t, sb, "cat; echo first; cat; exit 8", WithExecTTY(24, 80), WithExecStdinPipe())
	in := h.TakeStdin()
	if _, err := io.WriteString(in, "a\n\x04"); err != nil {
		t.Fatal(err)
	}
	untilOutput(t, h, "first\r\n")
	if _, err := io.WriteString(in, "b\n"); err != nil {
		t.Fatal(err)
	}
	untilOutput(t, h, "b\r\nb\r\n")
	in.Close()
	if res, err := h.Wait(testContext(t)); err != nil || res.ExitCode() != 8 {
		t.Errorf("%v, %v", res.State(), err)
	}
}

func acceptTTYLastLine(t *testing.T, sb *Sandbox) {
	path, ctx := install(t, sb, "hi"), testContext(t)
	inParallel(8, soak(300, 1000), func(i int) {
		if res, err := sb.Exec(ctx, path, nil, WithExecTTY(24, 80)); err != nil || res.Stdout() != "hi\r\n" || res.ExitCode() != 5 {
			t.Errorf("run %d: %q, %+v, %v", i, res.Stdout(), res.State(), err)
		}
	})
}

func acceptSlowFollower(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	x, err := sb.StartSession(ctx, "sh", []string{"-c", "read x; head -c 3000000 /dev/zero; echo end"}, WithExecOpenStdin(), WithExecDetachable(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	slow, err := x.Stream(ctx, WithGaps())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	quick, err := x.Stream(ctx, WithStdin(), WithGaps())
	if err != nil {
		t.Fatal(err)
	}
	defer quick.Close()
	if _, err := io.WriteString(quick.TakeStdin(), "\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := quick.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var got, lost int64
	last := ""
	for ev, err := range slow.Events(ctx) { // it has read nothing until now
		if err != nil {
			t.Fatal(err)
		}
		got += int64(len(ev.Data))
		if ev.Kind == ExecEventGap {
			lost += ev.Gap.Have - ev.Gap.Want
			last = ""
		}
		last += string(ev.Data) // the end may come in two pieces
		last = last[max(0, len(last)-10):]
	}
	if got+lost != 3000004 || lost == 0 || !strings.HasSuffix(last, "end\n") {
		t.Errorf("%d bytes arrived and %d were lost, of 3000004; the end is %q", got, lost, last)
	}
}
