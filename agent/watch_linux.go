package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// detachWait is how long a detachment waits for the process to take the stdin
// that was sent before it.
const detachWait = 500 * time.Millisecond

// watcher is one attachment to a detachable session.
type watcher struct {
	s    *session
	x    *channel.Exec
	req  *channel.AttachRequest
	at   [2]int64 // cursors at the start
	outs []*watchOut
	gaps chan *channel.GapError // a final one; capacity 2
	stop chan struct{}          // closed when it leaves
	wg   sync.WaitGroup         // output copies

	in      *channel.InStream // nil = no stdin
	taken   atomic.Int64      // stdin bytes of this watcher
	limit   atomic.Int64      // stdin bytes to take at most; -1 = all
	inOnce  sync.Once
	inStart sync.Once
	begin   sync.Once
	begun   chan struct{} // closed when the first message was sent, or never will be
	stopped atomic.Bool
	inDone  chan struct{}
}

// watchOut is one output stream of a watcher.
type watchOut struct {
	rd *ringReader
	w  *channel.OutStream
}

// newWatcher makes a watcher, which must leave.
func newWatcher(s *session, x *channel.Exec, req *channel.AttachRequest) (*watcher, *channel.StartFailure) {
	w := &watcher{s: s, x: x, req: req, gaps: make(chan *channel.GapError, 2), stop: make(chan struct{}), inDone: make(chan struct{}), begun: make(chan struct{})}
	w.limit.Store(-1)
	for i, out := range []*channel.OutStream{x.Stdout(), x.Stderr()} {
		r := s.rings[i]
		if r == nil {
			continue
		}
		rd, gap, ok := r.reader([]int64{req.FromStdout, req.FromStderr}[i], req.AllowGap || out == nil)
		switch {
		case !ok:
			return nil, &channel.StartFailure{Stage: channel.StageRequest, Errno: channel.EINVAL, Msg: "cursor of " + r.name + " is beyond its end"}
		case gap != nil:
			return nil, &channel.StartFailure{Stage: channel.StageSession, Reason: channel.ReasonGap, Gap: gap}
		}
		w.at[i] = rd.pos
		if out != nil {
			w.outs = append(w.outs, &watchOut{rd, out})
		}
	}
	if in := x.Stdin(); in != nil && !req.ReadOnly {
		if s.sink == nil {
			return nil, &channel.StartFailure{Stage: channel.StageSession, Reason: channel.ReasonNoStdin}
		}
		if why := s.sink.take(w, req.Takeover); why != 0 {
			return nil, &channel.StartFailure{Stage: channel.StageSession, Reason: why}
		}
		w.in = in
	}
	if req.Rows > 0 && req.Cols > 0 && !req.ReadOnly && s.tty != nil {
		fitTerminal(s.tty, req.Rows, req.Cols)
	}
	if !req.Uncounted {
		s.watchers.Add(1)
	}
	return w, nil
}

// own makes the process wait for this watcher.
func (w *watcher) own() {
	for _, o := range w.outs {
		o.rd.own()
	}
}

// serve runs the watcher until the session is over, the host detaches, or the
// host is gone.
func (w *watcher) serve(ctx context.Context) {
	w.begin.Do(func() { close(w.begun) })
	w.startStdin()
	for _, o := range w.outs {
		w.wg.Go(func() { w.copyOut(o) })
	}
	outs := make(chan struct{})
	go func() { w.wg.Wait(); close(outs) }()
	exited, over, copied := w.s.exited, w.s.over, outs
	for exited != nil || over != nil || copied != nil {
		select {
		case <-ctx.Done():
			return
		case <-exited:
			exited = nil
			w.s.recMu.Lock()
			e := *w.s.record
			w.s.recMu.Unlock()
			_ = w.x.Exited(&e)
		case <-over:
			over = nil
		case <-copied:
			copied = nil
		case g := <-w.gaps:
			w.halt()
			_ = w.x.Gap(g, true)
			return
		case c, ok := <-w.x.Controls():
			if !ok {
				return
			}
			if c.Detach != nil {
				w.detach(c.Detach)
				return
			}
			w.obey(c)
		}
	}
	select {
	case g := <-w.gaps:
		_ = w.x.Gap(g, true)
		return
	default:
	}
	w.s.recMu.Lock()
	e := *w.s.record
	w.s.recMu.Unlock()
	w.stopStdin()
	w.x.Drained(&e)
}

// obey does what the host asks of the process.
func (w *watcher) obey(c channel.Control) {
	switch {
	case w.req.ReadOnly && c.Signal != nil:
		_ = w.x.SignalDone(c.Signal.Seq, channel.EPERM)
	case w.req.ReadOnly:
	case c.Signal != nil:
		_ = w.x.SignalDone(c.Signal.Seq, errnoOf(w.s.child.signal(syscall.Signal(c.Signal.Sig), c.Signal.Group)))
	case c.Kill != nil:
		w.s.terminate(c.Kill.Grace)
	case c.Resize != nil && w.s.tty != nil:
		_ = setSize(w.s.tty, c.Resize.Rows, c.Resize.Cols)
	}
}

// detach ends the watcher at the host's wish.
func (w *watcher) detach(d *channel.DetachRequest) {
	if w.in != nil && d.Stdin >= 0 {
		w.limit.Store(d.Stdin)
		if w.taken.Load() < d.Stdin {
			t := time.NewTimer(detachWait)
			defer t.Stop()
			select {
			case <-w.inDone:
			case <-t.C:
			case <-w.x.Controls(): // the host is gone
			}
		}
	}
	w.halt()
	at := w.at
	for _, o := range w.outs {
		at[ringIndex(o.rd.r)] = o.rd.pos
	}
	w.x.DetachedAt(at[0], at[1], w.taken.Load())
}

func ringIndex(r *ring) int {
	if r.name == "stderr" {
		return 1
	}
	return 0
}

// halt ends the copies.
func (w *watcher) halt() {
	if w.stopped.Swap(true) {
		return
	}
	close(w.stop)
	for _, o := range w.outs {
		o.w.Cancel()
		o.rd.leave()
	}
	w.stopStdin()
	w.wg.Wait()
}

// leave ends the watcher and releases what it holds.
func (w *watcher) leave() {
	w.begin.Do(func() { close(w.begun) })
	w.halt()
	for _, o := range w.outs {
		o.w.Close()
	}
	if !w.req.Uncounted {
		w.s.watchers.Add(-1)
	}
}

// copyOut sends a stream from its ring until its end.
func (w *watcher) copyOut(o *watchOut) {
	defer o.w.Close()
	defer o.rd.leave()
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	for {
		n, gap, wait, end := o.rd.next(*bp)
		switch {
		case end:
			return
		case gap != nil && !w.req.AllowGap:
			w.gaps <- gap
			return
		case gap != nil:
			_ = w.x.Gap(gap, false)
		case wait != nil:
			select {
			case <-wait:
			case <-w.stop:
				return
			}
		default:
			m, err := o.w.Write((*bp)[:n])
			o.rd.advance(m)
			if err != nil {
				return
			}
		}
	}
}

// copyStdin moves stdin until its end, which ends the process's, or until the
// watcher leaves, which does not.
func (w *watcher) copyStdin() {
	defer close(w.inDone)
	k := w.s.sink
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	last := byte('\n')
	for l := w.limit.Load(); l < 0 || w.taken.Load() < l; l = w.limit.Load() {
		n, err := w.in.Read(*bp)
		if n > 0 {
			m, werr := k.write((*bp)[:n])
			w.taken.Add(int64(m))
			if werr != nil {
				if !w.stopping() && !errors.Is(werr, os.ErrDeadlineExceeded) {
					_ = w.x.StdinClosed(w.taken.Load())
					k.close()
				}
				return
			}
			last = (*bp)[n-1]
		}
		if err == io.EOF && !w.in.Gone() && !w.stopping() && w.limit.Load() < 0 {
			if k.tty {
				(&inCopy{f: k.f}).typeEOF(last)
			} else {
				k.close()
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *watcher) stopping() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// startStdin starts the copy, once.
func (w *watcher) startStdin() {
	if w.in != nil {
		w.inStart.Do(func() { go w.copyStdin() })
	}
}

// stopStdin gives stdin up; it returns when another watcher may have it.
func (w *watcher) stopStdin() {
	w.inOnce.Do(func() {
		if w.in == nil {
			return
		}
		k := w.s.sink
		w.in.Cancel()
		w.startStdin()                            // it closes inDone
		_ = k.f.SetWriteDeadline(time.Unix(1, 0)) // a write that the process does not take
		<-w.inDone
		_ = k.f.SetWriteDeadline(time.Time{})
		k.mu.Lock()
		k.writer = nil
		k.mu.Unlock()
	})
}
