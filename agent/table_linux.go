package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/hutchvm/hutch/channel"
)

const (
	// maxEnded is how many ended detachable sessions are remembered.
	maxEnded = 256
	// defaultReplayTotal is Options.ReplayBytes's default.
	defaultReplayTotal = 256 << 20
)

// table is the detachable sessions of an agent.
type table struct {
	maxReplay  int64
	maxRunning int

	mu     sync.Mutex
	byID   map[string]*session
	ended  []*session // the oldest first
	seq    int64
	replay int64 // bytes reserved
}

// add takes a place and replay bytes for a session that is about to start.
func (t *table) add(s *session) *channel.StartFailure {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[s.req.Session] != nil {
		return &channel.StartFailure{Stage: channel.StageSession, Path: s.req.Session, Msg: "session ID is in use; forget the ended session first"}
	}
	if len(t.byID)-len(t.ended) >= t.maxRunning {
		return &channel.StartFailure{Stage: channel.StageLimit, Max: t.maxRunning}
	}
	for _, r := range s.rings {
		if r != nil {
			s.reserved += r.size
		}
	}
	// Status outlives output: it costs nothing.
	for _, old := range t.ended {
		if t.replay+s.reserved <= t.maxReplay {
			break
		}
		t.drop(old)
	}
	if t.replay+s.reserved > t.maxReplay {
		return &channel.StartFailure{Stage: channel.StageLimit, Reason: channel.ReasonReplay, Max: int(t.maxReplay)}
	}
	t.replay += s.reserved
	t.seq++
	s.seq = t.seq
	t.byID[s.req.Session] = s
	return nil
}

// drop gives the replay bytes of a session back. The caller holds t.mu.
func (t *table) drop(s *session) {
	t.replay -= s.reserved
	s.reserved = 0
	for _, r := range s.rings {
		if r != nil {
			r.forget()
		}
	}
}

// remove forgets a session that did not start.
func (t *table) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(s)
	delete(t.byID, s.req.Session)
}

// started makes a session visible.
func (t *table) started(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.ready = true
}

// end moves a session to the ended ones.
func (t *table) end(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var kept int64
	for _, r := range s.rings {
		if r != nil {
			r.trim()
			k := r.kept()
			kept += k.To - k.From
		}
	}
	t.replay -= s.reserved - kept
	s.reserved, s.endedAt = kept, time.Now()
	t.ended = append(t.ended, s)
	if len(t.ended) > maxEnded {
		t.forget(t.ended[0])
	}
}

// forget removes an ended session. The caller holds t.mu.
func (t *table) forget(s *session) {
	t.drop(s)
	delete(t.byID, s.req.Session)
	if i := slices.Index(t.ended, s); i >= 0 {
		t.ended = slices.Delete(t.ended, i, i+1)
	}
}

// find returns a started session, or nil.
func (t *table) find(id string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byID[id]; s != nil && s.ready {
		return s
	}
	return nil
}

// forgetID is Client.Forget.
func (t *table) forgetID(id string) channel.Reason {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[id]
	switch {
	case s == nil || !s.ready:
		return channel.ReasonNotFound
	case s.endedAt.IsZero():
		return channel.ReasonRunning
	}
	t.forget(s)
	return 0
}

// list is SessionHandler.Sessions.
func (t *table) list(after int64, most int) (list []channel.SessionInfo, seqs []int64, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*session
	for _, s := range t.byID {
		if s.ready && s.seq > after {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *session) int { return int(a.seq - b.seq) })
	for _, s := range all[:min(most, len(all))] {
		list, seqs = append(list, s.info()), append(seqs, s.seq)
	}
	return list, seqs, len(all) > most
}

// all returns every session.
func (t *table) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*session
	for _, s := range t.byID {
		if s.ready {
			all = append(all, s)
		}
	}
	return all
}

// info describes s. The caller holds the table's mu.
func (s *session) info() channel.SessionInfo {
	i := channel.SessionInfo{
		ID: s.req.Session, PID: s.child.pid, Args: s.req.Args, TTY: s.req.TTY != nil,
		Running: s.endedAt.IsZero(), Started: s.begun, Ended: s.endedAt, Watchers: int(s.watchers.Load()),
	}
	select {
	case <-s.exited:
		s.recMu.Lock()
		e := *s.record
		s.recMu.Unlock()
		i.Exit = &e
	default:
	}
	if s.sink != nil {
		s.sink.mu.Lock()
		i.StdinTaken = s.sink.writer != nil
		s.sink.mu.Unlock()
	}
	i.Stdout = s.rings[0].kept()
	if s.rings[1] != nil {
		i.Stderr = s.rings[1].kept()
	}
	return i
}
