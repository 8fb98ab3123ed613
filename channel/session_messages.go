package channel

import "time"

// maxCursor bounds a cursor from the guest, so that sums do not overflow.
const maxCursor = 1 << 60

// maxCPU bounds Limits.CPU: a million processors.
const maxCPU = 1_000_000_000

// detachMsg: the host wants no more of the session, which goes on.
type detachMsg struct {
	Stdin int64 `cbor:"1,keyasint"` // stdin bytes sent; -1 = do not wait for them
}

// attachedMsg answers an AttachRequest: where each stream begins.
type attachedMsg struct {
	PID    int   `cbor:"1,keyasint"`
	TTY    bool  `cbor:"2,keyasint,omitempty"`
	Stdout int64 `cbor:"3,keyasint"`
	Stderr int64 `cbor:"4,keyasint"`
}

// gapMsg: the bytes of a stream from Want to Have are not sent. With Final it is
// the last message.
type gapMsg struct {
	Stderr bool  `cbor:"1,keyasint,omitempty"`
	Want   int64 `cbor:"2,keyasint"`
	Have   int64 `cbor:"3,keyasint"`
	Final  bool  `cbor:"4,keyasint,omitempty"`
}

// detachedMsg answers detachMsg: what was sent, as cursors, and what stdin took
// of this attachment. Last message.
type detachedMsg struct {
	Stdout int64 `cbor:"1,keyasint"`
	Stderr int64 `cbor:"2,keyasint"`
	Stdin  int64 `cbor:"3,keyasint"`
}

// Reason is why the agent refused something about a session.
type Reason uint8

// The reasons. They are numbers on the wire.
const (
	ReasonNotFound  Reason = 1 // no such session
	ReasonRunning   Reason = 2 // Forget of a running session
	ReasonStdinBusy Reason = 3 // another attachment writes stdin
	ReasonNoStdin   Reason = 4 // stdin is not open
	ReasonGap       Reason = 5 // the cursor is older than what is kept
	ReasonReplay    Reason = 6 // with StageLimit: the limit is the agent's replay bytes
)

// sessionsReq asks for the sessions numbered above After.
type sessionsReq struct {
	After int64 `cbor:"1,keyasint,omitempty"`
}

type forgetReq struct {
	Session string `cbor:"1,keyasint"`
}

// sessionsReply is one page.
type sessionsReply struct {
	List []sessionMsg `cbor:"1,keyasint"`
	More bool         `cbor:"2,keyasint,omitempty"`
}

// listPage is how many sessions one page has: with the bounds of sessionMsg it
// stays below maxReplyFrame.
const listPage = 32

type sessionMsg struct {
	Seq      int64       `cbor:"1,keyasint"`
	ID       string      `cbor:"2,keyasint"`
	PID      int         `cbor:"3,keyasint"`
	Args     []string    `cbor:"4,keyasint,omitempty"`
	ArgsCut  bool        `cbor:"5,keyasint,omitempty"`
	TTY      bool        `cbor:"6,keyasint,omitempty"`
	Running  bool        `cbor:"7,keyasint,omitempty"`
	Started  int64       `cbor:"8,keyasint"` // Unix ns
	Ended    int64       `cbor:"9,keyasint,omitempty"`
	Exit     *exitedMsg  `cbor:"10,keyasint,omitempty"`
	Totals   *drainedMsg `cbor:"11,keyasint,omitempty"`
	Watchers int         `cbor:"12,keyasint,omitempty"`
	Writer   bool        `cbor:"13,keyasint,omitempty"`
	Stdout   Kept        `cbor:"14,keyasint"`
	Stderr   Kept        `cbor:"15,keyasint"`
}

const (
	maxListArgs     = 16
	maxListArgBytes = 1 << 10
)

func (k Kept) valid() bool { return k.From >= 0 && k.From <= k.To && k.To <= maxCursor }

func (m *sessionMsg) valid() bool {
	n := 0
	for _, a := range m.Args {
		n += len(a)
	}
	return len(m.ID) <= maxSessionID && len(m.Args) <= maxListArgs && n <= maxListArgBytes &&
		m.Stdout.valid() && m.Stderr.valid() && (m.Exit == nil || m.Exit.valid()) && (m.Totals == nil || m.Exit != nil)
}

func (m *sessionMsg) info() SessionInfo {
	s := SessionInfo{
		ID: m.ID, PID: m.PID, Args: m.Args, ArgsCut: m.ArgsCut, TTY: m.TTY, Running: m.Running, Started: time.Unix(0, m.Started),
		Watchers: m.Watchers, StdinTaken: m.Writer, Stdout: m.Stdout, Stderr: m.Stderr,
	}
	if m.Ended != 0 {
		s.Ended = time.Unix(0, m.Ended)
	}
	if m.Exit != nil {
		s.Exit = m.Exit.exit()
		if m.Totals != nil {
			m.Totals.complete(s.Exit)
		}
	}
	return s
}

func sessionOf(seq int64, s *SessionInfo) sessionMsg {
	m := sessionMsg{
		Seq: seq, ID: s.ID, PID: s.PID, ArgsCut: s.ArgsCut, TTY: s.TTY, Running: s.Running, Started: s.Started.UnixNano(),
		Watchers: s.Watchers, Writer: s.StdinTaken, Stdout: s.Stdout, Stderr: s.Stderr,
	}
	left := maxListArgBytes
	for i, a := range s.Args {
		if i == maxListArgs || left == 0 {
			m.ArgsCut = true
			break
		}
		if len(a) > left {
			a, m.ArgsCut = a[:left], true
		}
		left -= len(a)
		m.Args = append(m.Args, a)
	}
	if !s.Ended.IsZero() {
		m.Ended = s.Ended.UnixNano()
	}
	if e := s.Exit; e != nil {
		m.Exit, m.Totals = exitedOf(e), drainedOf(e)
	}
	return m
}

func exitedOf(e *Exit) *exitedMsg {
	return &exitedMsg{
		Code: e.Code, Signal: int(e.Signal), Core: e.Core, OOM: e.OOM, TimedOut: e.TimedOut,
		Wall: int64(e.Wall), Usage: e.Usage,
	}
}

func drainedOf(e *Exit) *drainedMsg {
	return &drainedMsg{Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr, Orphaned: e.Orphaned}
}
