package execlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"
)

// maxPartial bounds a line that has not ended, in bytes; beyond it what there is becomes a record.
const maxPartial = 64 << 10

// A Handler is a Sink that makes a slog record of every line of output: its message is the line without its end, its attributes are "source" and
// "session". A line that is not valid UTF-8 has the message "(binary)" and its bytes as base64 in the attribute "data". What stands
// behind the last newline is held back until the line or the session ends, at most 64 KiB.
//
// System entries are records too, with the event's parts as attributes. All are of slog.LevelInfo, but for failures and gaps, which are
// slog.LevelWarn.
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

// Log implements Sink. Errors: those of the slog handler.
func (s *Handler) Log(e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Source == System {
		var err error
		if e.Event != nil && (e.Event.Kind == Exit || e.Event.Kind == Failed) {
			err = s.flush(e.Time, func(k partialKey) bool { return k.session == e.Session })
		}
		return errors.Join(err, s.system(&e))
	}
	k := partialKey{e.Session, e.Source}
	data := e.Data
	if held := s.partial[k]; len(held) > 0 {
		data = append(held, data...)
	}
	var errs []error
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 && len(data) < maxPartial {
			break
		}
		text, next := data, len(data)
		if i >= 0 {
			text, next = data[:i], i+1
		}
		errs = append(errs, s.record(e.Time, k, text))
		data = data[next:]
	}
	if len(data) == 0 {
		delete(s.partial, k)
	} else {
		s.partial[k] = bytes.Clone(data)
	}
	return errors.Join(errs...)
}

// Flush makes records of all lines that were held back.
func (s *Handler) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush(time.Now(), func(partialKey) bool { return true })
}

func (s *Handler) flush(now time.Time, which func(partialKey) bool) error {
	var errs []error
	for k, text := range s.partial {
		if which(k) {
			errs = append(errs, s.record(now, k, text))
			delete(s.partial, k)
		}
	}
	return errors.Join(errs...)
}

func (s *Handler) record(t time.Time, k partialKey, text []byte) error {
	ctx := context.Background()
	if !s.h.Enabled(ctx, slog.LevelInfo) {
		return nil
	}
	msg, binary := string(bytes.TrimSuffix(text, []byte("\r"))), !utf8.Valid(text)
	if binary {
		msg = "(binary)"
	}
	r := slog.NewRecord(t, slog.LevelInfo, msg, 0)
	r.AddAttrs(slog.String("source", string(k.source)), slog.String("session", k.session))
	if binary {
		r.AddAttrs(slog.String("data", base64.StdEncoding.EncodeToString(text)))
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
		}
	}
	return s.h.Handle(ctx, r)
}
