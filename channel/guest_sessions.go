package channel

import (
	"context"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// SessionHandler is a Handler whose sessions outlive their control stream. A
// Handler without it refuses Attach, Sessions and Forget.
type SessionHandler interface {
	// Attach serves one attachment as Exec serves an exec: Failed, or Attached
	// and what follows. The last message is Drained, DetachedAt or a final Gap;
	// none if the host went away.
	Attach(ctx context.Context, x *Exec)
	// Sessions returns up to max sessions with numbers above after, in their
	// order, their numbers, and whether there are more.
	Sessions(after int64, max int) (list []SessionInfo, seqs []int64, more bool)
	// Forget drops an ended session: 0, ReasonNotFound or ReasonRunning.
	Forget(id string) Reason
}

// DetachRequest ends an attachment. Stdin is how many stdin bytes the host has
// sent, which should still be taken; -1 = it does not care.
type DetachRequest struct{ Stdin int64 }

// attach serves one attachment.
func (s *server) attach(ctl *yamux.Stream, o open) {
	defer ctl.Close()
	x := &Exec{ctl: ctl, msgs: make(chan Control), attach: new(AttachRequest)}
	if err := readFrame(ctl, decModeHost, maxFrame, x.attach); err != nil {
		return
	}
	x.req.Session, x.req.Wired = o.Session, x.attach.Wired
	h, ok := s.h.(SessionHandler)
	k := meetKey{o.Session, o.Attach}
	if f := s.admit(k, ctl, false); f != nil {
		x.Failed(f)
	} else {
		if ok {
			s.serveExec(k, x, h.Attach)
		} else {
			x.Failed(&StartFailure{Stage: StageSession, Reason: ReasonNotFound})
		}
		s.leave(k, false)
	}
	if x.last != nil {
		_ = x.send(x.last) // an error means that the host has gone
	}
}

// sessionCall answers the calls about sessions.
func (s *server) sessionCall(req *callReq, reply *callReply) {
	h, ok := s.h.(SessionHandler)
	switch {
	case req.Sessions != nil:
		reply.Sessions = &sessionsReply{}
		if !ok {
			return
		}
		list, seqs, more := h.Sessions(req.Sessions.After, listPage)
		reply.Sessions.More = more
		for i := range list {
			reply.Sessions.List = append(reply.Sessions.List, sessionOf(seqs[i], &list[i]))
		}
	case req.Forget != nil:
		reply.Reason = ReasonNotFound
		if ok {
			reply.Reason = h.Forget(req.Forget.Session)
		}
	}
}

// AttachRequest is what an attachment wants; nil for an exec.
func (x *Exec) AttachRequest() *AttachRequest { return x.attach }

// Attached is the first message of an attachment: the cursors at which its
// streams begin.
func (x *Exec) Attached(pid int, tty bool, stdout, stderr int64) error {
	return x.send(&agentMsg{Attached: &attachedMsg{PID: pid, TTY: tty, Stdout: stdout, Stderr: stderr}})
}

// Gap reports bytes that are skipped. A final one is the last message, and is
// sent when the handler has returned.
func (x *Exec) Gap(g *GapError, final bool) error {
	m := &agentMsg{Gap: &gapMsg{Stderr: g.Stream == "stderr", Want: g.Want, Have: g.Have, Final: final}}
	if final {
		x.last = m
		return nil
	}
	return x.send(m)
}

// DetachedAt answers a DetachRequest with the cursors up to which output was
// written and the stdin bytes taken. It is the last message.
func (x *Exec) DetachedAt(stdout, stderr, stdin int64) {
	x.last = &agentMsg{Detached: &detachedMsg{Stdout: stdout, Stderr: stderr, Stdin: stdin}}
}

// Cancel unblocks Write, now and later. Write's count is exact.
func (s *OutStream) Cancel() { s.st.SetWriteDeadline(time.Unix(1, 0)) }

// Gone reports whether the connection is over: an end of input that Read
// returned is no end of input then.
func (s *InStream) Gone() bool { return s.st.Session().IsClosed() }

var _ io.Writer = (*OutStream)(nil)
