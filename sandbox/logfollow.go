package sandbox

import (
	"context"
	"sync"

	"github.com/hutchvm/hutch/channel"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

// logFollower logs a detachable session by an attachment of the log's own. Whatever the session printed is in the log, or a gap that counts it is.
type logFollower struct {
	*sessionLog
	attached chan struct{} // closed when the log says where the attachment began
	outs     [2]followedStream
}

// followedStream is the Writer of one stream.
type followedStream struct {
	f      *logFollower
	stderr bool

	mu   sync.Mutex
	n    int64 // bytes in the log
	over bool  // the session's end is in the log
}

func (w *followedStream) Write(p []byte) (int, error) {
	<-w.f.attached
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return 0, channel.ErrReaderClosed
	}
	w.f.write(w.stderr, p)
	w.n += int64(len(p))
	return len(p), nil
}

// stop returns how many bytes are in the log; no more come.
func (w *followedStream) stop() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	return w.n
}

// followOutput follows a detachable session from its first byte to its end.
func (s *sessionLog) followOutput() {
	f := &logFollower{sessionLog: s, attached: make(chan struct{})}
	f.outs[0].f, f.outs[1].f, f.outs[1].stderr = f, f, true
	stdio := channel.Stdio{Stdout: &f.outs[0]}
	if !s.merged {
		stdio.Stderr = &f.outs[1]
	}
	p, err := s.l.client.Attach(context.Background(), s.id, channel.AttachRequest{ReadOnly: true, AllowGap: true, Uncounted: true, OnGap: f.gap}, stdio)
	if err != nil {
		f.outs[0].stop()
		f.outs[1].stop()
		close(f.attached)
		s.ended(nil, err)
		return
	}
	var from [2]int64
	from[0], from[1] = p.Began()
	for i, at := range from {
		if at > 0 { // the command was quicker than the log
			f.gap(channel.GapError{Stream: followedNames[i], Have: at})
		}
	}
	close(f.attached)
	e, err := p.Wait()
	logged := [2]int64{f.outs[0].stop(), f.outs[1].stop()}
	if e != nil && err != nil {
		f.missing(p, e, from, logged, err)
	}
	s.ended(e, err)
}

var followedNames = [2]string{"stdout", "stderr"}

func (f *logFollower) gap(g channel.GapError) {
	src := execlog.Source(g.Stream)
	if f.merged {
		src = execlog.Output
	}
	f.l.event(f.id, execlog.Event{Kind: execlog.Gap, Bytes: g.Have - g.Want, Source: src}, "%d bytes of %s were lost before they could be logged", g.Have-g.Want, src)
}

// missing says what the log has not of a session that has ended: the connection went while its output was on the way.
func (f *logFollower) missing(p *channel.Process, e *channel.Exit, from, logged [2]int64, err error) {
	told := false
	var skipped [2]int64
	skipped[0], skipped[1] = p.Skipped()
	for i, total := range [2]int64{e.Stdout, e.Stderr} {
		if at := from[i] + skipped[i] + logged[i]; at < total {
			f.gap(channel.GapError{Stream: followedNames[i], Want: at, Have: total})
			told = true
		}
	}
	if !told {
		f.l.event(f.id, execlog.Event{Kind: execlog.Gap}, "output may be missing here: %v", err)
	}
}
