package sandbox

import (
	"fmt"

	"github.com/hutchvm/hutch/channel"
)

// sessionView is what a follower wants of a session. The zero value is all that is kept and all that comes, without a standard input.
type sessionView struct {
	stdoutCursor, stderrCursor int64
	readOnly, stdin, takeover  bool
	gaps                       bool
	maxOutput                  int
	size                       WinSize
}

// A SessionOption changes one setting of Session.Stream.
type SessionOption func(*sessionView) error

// WithCursor sets where in the output to begin: a number of bytes since the command started, as ExecHandle.Cursors returns them, zero for the
// oldest byte that is kept, -1 for now. A cursor whose bytes are not kept any more is a *GapError.
func WithCursor(stdout, stderr int64) SessionOption {
	return func(v *sessionView) error {
		if stdout < -1 || stderr < -1 {
			return &ConfigError{"WithCursor", fmt.Sprintf("%d, %d", stdout, stderr), "give a cursor, 0 for the oldest byte, or -1 for now"}
		}
		v.stdoutCursor, v.stderrCursor = stdout, stderr
		return nil
	}
}

// WithReadOnly only looks: no standard input, signals, kills and sizes.
func WithReadOnly() SessionOption {
	return func(v *sessionView) error { v.readOnly = true; return nil }
}

// WithStdin takes the session's standard input, for ExecHandle.TakeStdin. One follower at a time has it: ErrStdinBusy.
func WithStdin() SessionOption {
	return func(v *sessionView) error { v.stdin = true; return nil }
}

// WithTakeover takes the standard input from the follower that has it, who sees a StdinError.
func WithTakeover() SessionOption {
	return func(v *sessionView) error { v.takeover = true; return nil }
}

// WithGaps goes on after output that is not kept any more, and reports an ExecEventGap instead of failing with a *GapError.
func WithGaps() SessionOption {
	return func(v *sessionView) error { v.gaps = true; return nil }
}

// WithAttachView applies options of Session.Stream to Session.Attach: WithReadOnly, WithTakeover, WithCursor.
func WithAttachView(opts ...SessionOption) AttachOption {
	return func(a *attachment) error {
		for _, o := range opts {
			if o == nil {
				return &ConfigError{"WithAttachView", "nil", "an option is nil; leave it out instead"}
			}
			if err := o(&a.view); err != nil {
				return err
			}
		}
		return nil
	}
}

// Detach leaves a command that was started with WithExecDetachable running, without this handle: the events up to this moment still arrive,
// then Done; Wait and Collect return a *DetachedError. Cursors then says where Session.Stream goes on. It waits for
// nothing but input that was written and is still on its way out of this process.
//
// Errors: ErrNotDetachable, or os.ErrProcessDone when the command has ended.
func (h *ExecHandle) Detach() error {
	if h.stdin != nil {
		h.stdin.settle(attachGrace)
	}
	return h.proc.sb.failure(h.proc.p.Detach())
}

// Cursors returns how many bytes of each stream the command had printed up to the last ones that arrived. They are exact after Done, and
// are where WithCursor goes on without loss or repetition.
func (h *ExecHandle) Cursors() (stdout, stderr int64) { return h.proc.p.Cursors() }

// maxQueuedGaps bounds the Gap events that wait for a receiver: a guest can make any number of them.
const maxQueuedGaps = 256

// Skipped returns how many bytes of each stream were left out because the guest does not keep them any more (WithGaps).
func (h *ExecHandle) Skipped() (stdout, stderr int64) { return h.proc.p.Skipped() }

// gap queues a Gap event. One that continues the last event is added to it, and so is any beyond maxQueuedGaps to the last of its stream, which
// then spans bytes that did arrive; Skipped counts exactly.
func (h *ExecHandle) gap(g channel.GapError) {
	h.mu.Lock()
	if h.gaps >= maxQueuedGaps {
		for i := len(h.queue) - 1; i >= 0; i-- {
			if q := h.queue[i].Gap; q != nil && q.Stream == g.Stream {
				h.queue[i].Gap = &GapError{Stream: g.Stream, Want: q.Want, Have: g.Have}
				h.mu.Unlock()
				return
			}
		}
	}
	if n := len(h.queue); n > 0 && h.queue[n-1].Gap != nil && h.queue[n-1].Gap.Stream == g.Stream && h.queue[n-1].Gap.Have == g.Want {
		h.queue[n-1].Gap = &GapError{Stream: g.Stream, Want: h.queue[n-1].Gap.Want, Have: g.Have}
	} else if !h.ended && !h.closed {
		h.gaps++
		h.queue = append(h.queue, queuedEvent{ExecEvent: ExecEvent{Kind: ExecEventGap, Gap: &g}})
	}
	h.mu.Unlock()
	h.signal()
}
