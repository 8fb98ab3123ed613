package execlog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// maxPartial bounds a line that has not ended, in bytes; beyond it what there is becomes a record.
const maxPartial = 64 << 10

// A Handler is a Sink that makes a slog record of every line of output: its message is the line without its end ("\n" or "\r\n"), its attributes are
// "source" and "session". A line that is not valid UTF-8 has the message "(binary)" and its bytes as base64 (RFC 4648 §4) in the attribute "data".
//
// What stands behind the last newline is held back until the line ends, at most 64 KiB for each session and source. It becomes a record of its own,
// with the attribute "partial" = true, when it reaches that, when the session exits or loses output, when the sandbox stops and on Flush.
//
// System entries are records too, with the event's parts as attributes ("event", "args", "pid", "code", "signal", "bytes", "of"). All are of
// slog.LevelInfo, but for failures and gaps, which are slog.LevelWarn. Make one with NewHandler.
type Handler struct {
	h slog.Handler

	mu      sync.Mutex
	partial map[partialKey][]byte
}

type partialKey struct {
	session string
	source  Source
}

// NewHandler returns a sink on h.
func NewHandler(h slog.Handler) *Handler {
	return &Handler{h: h, partial: make(map[partialKey][]byte)}
}

// Log implements Sink. Errors: those of the slog handler, which has one call at a time.
func (s *Handler) Log(e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Source == System {
		return errors.Join(s.ended(&e), s.system(&e))
	}
	k := partialKey{e.Session, e.Source}
	data, held := e.Data, s.partial[k]
	if len(held) > 0 {
		data = append(held, data...) // held is this map's alone
	}
	all, from := len(data), len(held) // what is held has no newline, and is not looked through again
	var errs []error
	for ; ; from = 0 {
		i := bytes.IndexByte(data[from:], '\n')
		if i >= 0 {
			i += from
		}
		if i >= 0 && i <= maxPartial {
			errs = append(errs, s.record(e.Time, k, data[:i], false))
			data = data[i+1:]
			continue
		}
		if len(data) < maxPartial {
			break
		}
		n := cut(data, maxPartial)
		errs = append(errs, s.record(e.Time, k, data[:n], true))
		data = data[n:]
	}
	switch {
	case len(data) == 0:
		delete(s.partial, k)
	case len(held) > 0 && len(data) == all:
		s.partial[k] = data // grown, not copied each time
	default:
		s.partial[k] = bytes.Clone(data)
	}
	return errors.Join(errs...)
}

// ended makes records of the lines that e, a System entry, has ended.
func (s *Handler) ended(e *Entry) error {
	if e.Event == nil {
		return nil
	}
	switch e.Event.Kind {
	case SandboxStop:
		return s.flush(e.Time, func(partialKey) bool { return true })
	case Exit, Failed:
		return s.flush(e.Time, func(k partialKey) bool { return k.session == e.Session })
	case Gap:
		return s.flush(e.Time, func(k partialKey) bool {
			return k.session == e.Session && (e.Event.Source == "" || k.source == e.Event.Source)
		})
	}
	return nil
}

// Flush makes records of all lines that were held back.
func (s *Handler) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush(time.Now(), func(partialKey) bool { return true })
}

func (s *Handler) flush(now time.Time, which func(partialKey) bool) error {
	var keys []partialKey
	for k := range s.partial {
		if which(k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b partialKey) int {
		return cmp.Or(cmp.Compare(a.session, b.session), cmp.Compare(b.source, a.source)) // stdout before stderr
	})
	var errs []error
	for _, k := range keys {
		errs = append(errs, s.record(now, k, s.partial[k], true))
		delete(s.partial, k)
	}
	return errors.Join(errs...)
}

func (s *Handler) record(t time.Time, k partialKey, text []byte, partial bool) error {
	ctx := context.Background()
	if !s.h.Enabled(ctx, slog.LevelInfo) {
		return nil
	}
	msg, binary := "(binary)", !utf8.Valid(text)
	switch {
	case binary:
	case partial:
		msg = string(text)
	default:
		msg = string(bytes.TrimSuffix(text, []byte("\r")))
	}
	r := slog.NewRecord(t, slog.LevelInfo, msg, 0)
	r.AddAttrs(slog.String("source", string(k.source)), slog.String("session", k.session))
	if binary {
		r.AddAttrs(slog.String("data", base64.StdEncoding.EncodeToString(text)))
	}
	if partial {
		r.AddAttrs(slog.Bool("partial", true))
	}
	return s.h.Handle(ctx, r)
}

func (s *Handler) system(e *Entry) error {
	ctx, level := context.Background(), slog.LevelInfo
	v := e.Event
	if v != nil && (v.Kind == Failed || v.Kind == Gap) {
		level = slog.LevelWarn
	}
	if !s.h.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, string(e.Data), 0)
	r.AddAttrs(slog.String("source", string(System)))
	if e.Session != "" {
		r.AddAttrs(slog.String("session", e.Session))
	}
	if v != nil {
		r.AddAttrs(slog.String("event", string(v.Kind)))
		switch v.Kind {
		case Start:
			r.AddAttrs(slog.Any("args", v.Args), slog.Int("pid", v.PID))
		case Exit:
			r.AddAttrs(slog.Int("code", v.Code), slog.Int("signal", v.Signal))
		case Gap:
			r.AddAttrs(slog.Int64("bytes", v.Bytes))
			if v.Source != "" {
				r.AddAttrs(slog.String("of", string(v.Source)))
			}
		}
	}
	return s.h.Handle(ctx, r)
}
