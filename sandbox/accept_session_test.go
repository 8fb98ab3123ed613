//go:build linux && amd64

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
)

// acceptDetachedOutput: what a command prints while nobody is there is replayed from where its handle stopped, to the byte, and again.
func acceptDetachedOutput(t *testing.T, sb *Sandbox) {
	const lines = 1_500_000 // more than 10 MiB
	ctx, want := testContext(t), numbers(lines)
	h, err := sb.ExecStream(ctx, "sh", []string{"-c", fmt.Sprintf("seq 1 %d; exit 6", lines)}, WithExecDetachable(11<<20)) // of each stream
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, first := until(t, h, ExecEventStdout) // in the middle of the output
	if err := h.Detach(); err != nil {
		t.Fatal(err)
	}
	res, err := h.Collect(ctx)
	if !errors.Is(err, ErrDetached) {
		t.Fatalf("Collect after Detach: %v", err)
	}
	first += res.Stdout()
	at, _ := h.Cursors()
	if int(at) != len(first) || !strings.HasPrefix(want, first) || len(first) == len(want) {
		t.Fatalf("cursor %d after %d bytes of %d", at, len(first), len(want))
	}
	id, _ := h.ID()
	x := sb.Session(id)
	if state, err := x.Wait(ctx); err != nil || state.ExitCode() != 6 || state.Totals().Stdout != int64(len(want)) {
		t.Fatalf("Wait = %+v, %v; want %d bytes", state, err, len(want))
	}
	for range 2 { // what is kept is not used up
		f, err := x.Stream(ctx, WithCursor(at, 0))
		if err != nil {
			t.Fatal(err)
		}
		res, err := f.Collect(ctx)
		f.Close()
		if err != nil || first+res.Stdout() != want || res.ExitCode() != 6 {
			t.Fatalf("from the cursor: %d bytes, want %d; code %d, %v", len(first)+len(res.StdoutBytes()), len(want), res.ExitCode(), err)
		}
	}
	if err := x.Forget(ctx); err != nil {
		t.Error(err)
	}
}

// followed is what one follower got.
type followed struct {
	got, lost int64
	end       string
	code      int
	err       error
}

func follow(t *testing.T, h *ExecHandle) (f followed) {
	f.code = -2
	for ev, err := range h.Events(testContext(t)) {
		if err != nil {
			f.err = err
			return f
		}
		f.got += int64(len(ev.Data))
		switch ev.Kind {
		case ExecEventGap:
			f.lost += ev.Gap.Have - ev.Gap.Want
		case ExecEventExited:
			f.code = ev.ExitCode
		case ExecEventFailed:
			f.err = ev.Err
		}
		f.end = (f.end + string(ev.Data))[max(0, len(f.end)+len(ev.Data)-4):]
	}
	return f
}

// acceptFiveFollowers: of five followers one reads nothing until the command has ended; the others have everything, or know how much they lack, before.
func acceptFiveFollowers(t *testing.T, sb *Sandbox) {
	const total = 10<<20 + 4
	ctx := testContext(t)
	x, err := sb.StartSession(ctx, "sh", []string{"-c", fmt.Sprintf("read x; head -c %d /dev/zero; echo end; exit 7", total-4)}, WithExecOpenStdin(), WithExecDetachable(256<<10))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([]followed, 5)
	handles := make([]*ExecHandle, 5)
	for i := range handles {
		opts := []SessionOption{WithGaps()}
		if i == 1 {
			opts = append(opts, WithStdin())
		}
		if handles[i], err = x.Stream(ctx, opts...); err != nil {
			t.Fatal(err)
		}
		defer handles[i].Close()
		if i > 0 {
			wg.Go(func() { results[i] = follow(t, handles[i]) })
		}
	}
	if info, err := x.Info(ctx); err != nil || info.Watchers != 5 {
		t.Errorf("%d watchers, %v", info.Watchers, err)
	}
	if _, err := io.WriteString(handles[1].TakeStdin(), "\n"); err != nil {
		t.Fatal(err)
	}
	wg.Wait() // the quick ones, while the slow one has read nothing
	results[0] = follow(t, handles[0])
	for i, f := range results {
		if f.err != nil || f.got+f.lost != total || f.end != "end\n" || f.code != 7 {
			t.Errorf("follower %d: %+v of %d bytes", i, f, total)
		}
	}
	if results[0].lost == 0 {
		t.Error("the slow follower lost nothing: it was not slow, and this test shows nothing")
	}
	if err := x.Forget(ctx); err != nil {
		t.Error(err)
	}
}

// acceptTTYSession: a terminal is left with the detach keys, and found again with what it showed, at the new terminal's size.
func acceptTTYSession(t *testing.T, sb *Sandbox) {
	ctx, path := testContext(t), install(t, sb, "size")
	attach := func(rows, cols uint16, f func(keys io.Writer, s *screen)) (string, int, error) {
		r, w := io.Pipe()
		s := newScreen()
		var code int
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			opts := []AttachOption{WithAttachIO(r, s, nil), WithAttachSize(rows, cols)}
			if rows == 37 {
				code, err = sb.AttachWith(ctx, path, append(opts, WithAttachExec(WithExecID("accept-terminal")))...)
			} else {
				code, err = sb.Session("accept-terminal").Attach(ctx, opts...)
			}
		}()
		f(w, s)
		soon(t, "the attachment", func() { <-done })
		w.Close()
		return s.text.String(), code, err
	}
	_, code, err := attach(37, 91, func(keys io.Writer, s *screen) {
		s.expect(t, "\x25\x00\x5b\x00")
		io.WriteString(keys, "\x1d")
	})
	if !errors.Is(err, ErrDetached) || code != -1 {
		t.Fatalf("code %d, %v; want detached", code, err)
	}
	x := sb.Session("accept-terminal")
	if info, err := x.Info(ctx); err != nil || !info.Running || !info.TTY || info.Watchers != 0 {
		t.Fatalf("%+v, %v", info, err)
	}
	shown, code, err := attach(41, 123, func(keys io.Writer, s *screen) {
		s.expect(t, "\x25\x00\x5b\x00") // replayed
		waitUntil(t, "the program sees the new size", func() bool {
			io.WriteString(keys, "\r")
			s.mu.Lock()
			defer s.mu.Unlock()
			return strings.Contains(s.text.String(), "\x29\x00\x7b\x00")
		})
		io.WriteString(keys, "\x04")
	})
	if err != nil || code != 0 {
		t.Fatalf("code %d, %v after %q", code, err, shown)
	}
	// Ended, it still has its screen and its code.
	again, code, err := attach(41, 123, func(io.Writer, *screen) {})
	if err != nil || code != 0 || !strings.HasPrefix(again, shown) && !strings.HasPrefix(shown, again) || again == "" {
		t.Errorf("after the end: code %d, %v, %q; it had shown %q", code, err, again, shown)
	}
	if err := x.Forget(ctx); err != nil {
		t.Error(err)
	}
}
