package agent

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// execDetachable starts a session that outlives x, and serves x as its first
// watcher.
func (h *handler) execDetachable(ctx context.Context, x *channel.Exec) {
	s := &session{a: h.a, x: x, req: x.Request(), ctx: h.a.ctx, exited: make(chan struct{}), over: make(chan struct{})}
	size := s.req.Replay
	if size == 0 {
		size = channel.DefaultReplay
	}
	if size < 0 || size > channel.MaxReplay {
		x.Failed(&channel.StartFailure{Stage: channel.StageRequest, Errno: channel.EINVAL, Msg: "replay size"})
		return
	}
	s.rings[0] = &ring{name: "stdout", size: size}
	if s.req.TTY == nil && !x.Merged() {
		s.rings[1] = &ring{name: "stderr", size: size}
	}
	if f := h.a.table.add(s); f != nil {
		x.Failed(f)
		return
	}
	if f := s.start(); f != nil {
		h.a.table.remove(s)
		x.Failed(f)
		return
	}
	h.a.execs.Add(1)
	w, f := newWatcher(s, x, &channel.AttachRequest{}) // before output can be dropped
	if f == nil && !s.req.Detached {
		w.own()
	}
	s.x = nil // its connection may end before the session
	h.a.table.started(s)
	h.a.wg.Go(s.live)
	if f != nil {
		x.Failed(f)
		return
	}
	if x.Started(s.child.pid) == nil {
		w.serve(ctx)
	}
	w.leave()
}

// live runs a detachable session to its totals.
func (s *session) live() {
	defer close(s.over)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, o := range s.outs {
		wg.Go(o.copy)
	}
	if s.req.Timeout > 0 {
		t := time.AfterFunc(s.req.Timeout, func() {
			s.timedOut.Store(true)
			s.terminate(s.req.Grace)
		})
		defer t.Stop()
	}
	<-s.child.done
	e := s.exit()
	s.recMu.Lock()
	first := *e
	s.record = &first
	s.recMu.Unlock()
	close(s.exited)
	if s.sink != nil {
		e.Stdin = s.sink.close()
	}
	s.drain(e)
	s.leaveCgroup()
	if s.tty != nil {
		s.tty.Close()
	}
	s.recMu.Lock()
	s.record = e
	s.recMu.Unlock()
	s.a.table.end(s)
}

// running reports whether the process was not reaped yet.
func (s *session) running() bool {
	select {
	case <-s.child.done:
		return false
	default:
		return true
	}
}

// stdinSink is the stdin of a detachable session, which one watcher writes.
type stdinSink struct {
	f   *os.File
	tty bool
	n   atomic.Int64 // bytes that it took

	mu     sync.Mutex
	writer *watcher
	closed bool
	busy   sync.Mutex // held during a write
}

// close ends stdin and returns what it took.
func (k *stdinSink) close() int64 {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.f.Close()
	k.busy.Lock()
	defer k.busy.Unlock()
	return k.n.Load()
}

// take makes w the writer.
func (k *stdinSink) take(w *watcher, takeover bool) channel.Reason {
	for {
		k.mu.Lock()
		old := k.writer
		switch {
		case k.closed:
			k.mu.Unlock()
			return channel.ReasonNoStdin
		case old == nil:
			k.writer = w
			k.mu.Unlock()
			return 0
		case !takeover:
			k.mu.Unlock()
			return channel.ReasonStdinBusy
		}
		k.mu.Unlock()
		<-old.begun // its first message must stay the first
		old.stopStdin()
		_ = old.x.StdinClosed(old.taken.Load())
	}
}

// write writes p for a watcher.
func (k *stdinSink) write(p []byte) (int, error) {
	k.busy.Lock()
	defer k.busy.Unlock()
	n, err := k.f.Write(p)
	k.n.Add(int64(n))
	return n, err
}

// Attach implements channel.SessionHandler.
func (h *handler) Attach(ctx context.Context, x *channel.Exec) {
	req := x.AttachRequest()
	s := h.a.table.find(x.Request().Session)
	if s == nil {
		x.Failed(&channel.StartFailure{Stage: channel.StageSession, Reason: channel.ReasonNotFound})
		return
	}
	w, f := newWatcher(s, x, req)
	if f != nil {
		x.Failed(f)
		return
	}
	if x.Attached(s.child.pid, s.req.TTY != nil, w.at[0], w.at[1]) == nil {
		w.serve(ctx)
	}
	w.leave()
}

// Sessions implements channel.SessionHandler.
func (h *handler) Sessions(after int64, most int) ([]channel.SessionInfo, []int64, bool) {
	return h.a.table.list(after, most)
}

// Forget implements channel.SessionHandler.
func (h *handler) Forget(id string) channel.Reason { return h.a.table.forgetID(id) }

var (
	_ channel.SessionHandler = (*handler)(nil)
	_ io.WriteCloser         = (*ring)(nil)
)
