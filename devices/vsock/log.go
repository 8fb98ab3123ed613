package vsock

import (
	"log/slog"
	"time"
)

// At most logBurst lines per logWindow: the guest decides how often it
// misbehaves.
const (
	logBurst  = 10
	logWindow = 5 * time.Second
)

// violationLog collects what the guest did wrong. record runs under Device.mu
// and only stores; flush runs without it, since a slog.Handler is code of the
// caller.
type violationLog struct {
	now        func() time.Time
	start      time.Time // of the current window
	count      int       // lines in it
	suppressed uint64    // since the last line that was let through
	pending    []logLine // at most logBurst
}

type logLine struct {
	what       string
	packet     string // "" if it was no packet
	suppressed uint64
}

func newViolationLog(now func() time.Time) *violationLog { return &violationLog{now: now} }

func (l *violationLog) record(what string, h *Header) {
	if t := l.now(); t.Sub(l.start) >= logWindow {
		l.start, l.count = t, 0
	}
	if l.count >= logBurst || len(l.pending) >= logBurst {
		l.suppressed++
		return
	}
	l.count++
	line := logLine{what: what, suppressed: l.suppressed}
	l.suppressed = 0
	if h != nil {
		line.packet = h.String()
	}
	l.pending = append(l.pending, line)
}

func (l *violationLog) take() []logLine {
	p := l.pending
	l.pending = nil
	return p
}

func emit(lg *slog.Logger, lines []logLine) {
	for _, l := range lines {
		args := []any{"what", l.what}
		if l.packet != "" {
			args = append(args, "packet", l.packet)
		}
		if l.suppressed > 0 {
			args = append(args, "suppressed", l.suppressed)
		}
		lg.Warn("vsock: guest violates the protocol", args...)
	}
}
