package sandbox

import (
	"context"
	"io"
	"os"
	"time"
)

// bridge copies between a command's terminal and the caller's.
type bridge struct {
	h     *ExecHandle
	a     *attachment
	found chan struct{} // closed when the detach keys were typed
	shown chan struct{} // closed when all output was written, or none can be
	typed chan struct{} // closed when the caller's reader is not read any more
	end   chan struct{} // closed when the bridge is taken down

	cancel   context.CancelFunc // ends the receiving of output
	writeErr error              // of the caller's writer; valid after shown
}

func newBridge(h *ExecHandle, a *attachment) *bridge {
	return &bridge{
		h: h, a: a,
		found: make(chan struct{}), shown: make(chan struct{}), typed: make(chan struct{}), end: make(chan struct{}),
	}
}

func (b *bridge) start() {
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(context.Background())
	go b.show(ctx)
	go b.input()
	if b.a.resize != nil {
		go b.resize()
	}
}

// stop takes the bridge down. Reads and writes of the caller's that hang are left alone after attachGrace.
func (b *bridge) stop() {
	close(b.end)
	b.cancel()
	if d, ok := b.a.in.(interface{ SetReadDeadline(time.Time) error }); ok && d.SetReadDeadline(time.Unix(1, 0)) == nil {
		await(b.typed, attachGrace)
		_ = d.SetReadDeadline(time.Time{}) // the caller goes on with it
	}
	await(b.shown, attachGrace)
}

// await waits for ch to be closed, at most for d.
func await(ch <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
	}
}

// failure returns the error of the caller's writer.
func (b *bridge) failure() error {
	select {
	case <-b.shown:
		return b.writeErr
	default:
		return nil
	}
}

// show writes the command's output until its end.
func (b *bridge) show(ctx context.Context) {
	defer close(b.shown)
	for ev, err := range b.h.Events(ctx) {
		if err != nil {
			return
		}
		if len(ev.Data) == 0 {
			continue
		}
		n, err := b.a.out.Write(ev.Data)
		if err == nil && n < len(ev.Data) {
			err = io.ErrShortWrite
		}
		if err != nil {
			b.writeErr = err
			return
		}
	}
}

// input types what the caller types, and looks for the detach keys. After those it leaves the standard input open: closing it would type an
// end of file. A view without a standard input has the keys all the same.
func (b *bridge) input() {
	stdin := b.h.TakeStdin()
	detached := b.read(stdin)
	close(b.typed)
	if detached {
		close(b.found)
		<-b.h.gone
	}
	if stdin != nil {
		stdin.Close()
	}
}

// read copies from the caller's reader and reports whether the detach keys ended that.
func (b *bridge) read(stdin *ExecSink) (detached bool) {
	m := &keyMatcher{keys: b.a.keys}
	buf := make([]byte, 32<<10)
	for {
		n, err := b.a.in.Read(buf)
		select {
		case <-b.end:
			return false
		default:
		}
		pass, found := m.feed(buf[:n])
		if err != nil && !found {
			pass = append(pass, m.flush()...)
		}
		if len(pass) > 0 && stdin != nil {
			if _, werr := stdin.Write(pass); werr != nil {
				return found
			}
		}
		if found || err != nil {
			return found
		}
	}
}

// resize passes the caller's sizes on.
func (b *bridge) resize() {
	for {
		select {
		case size, ok := <-b.a.resize:
			if !ok {
				return
			}
			_ = b.h.Resize(size.Rows, size.Cols) // it has a terminal
		case <-b.end:
			return
		}
	}
}

// hostTerm is the type of the caller's terminal, where that is of use to a program.
func hostTerm() string {
	switch term := os.Getenv("TERM"); term {
	case "dumb":
		return ""
	default:
		return term
	}
}
