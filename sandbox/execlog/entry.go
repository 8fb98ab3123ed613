package execlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

// A Source says where the bytes of an Entry come from.
type Source string

// The sources.
const (
	Stdout Source = "stdout"
	Stderr Source = "stderr"
	Output Source = "output" // a terminal, or stdout and stderr through one pipe
	System Source = "system" // the sandbox itself; Entry.Event has it in parts
)

// Sources lists all of them.
func Sources() []Source { return []Source{Stdout, Stderr, Output, System} }

// An Entry is one chunk of output, or one line of the sandbox about it.
type Entry struct {
	Time    time.Time // set by the sink when zero
	Source  Source    // not empty
	Session string    // session ID; empty for what concerns the whole sandbox
	Data    []byte    // the bytes as they arrived, at most 64 KiB when read back; of a System entry, a line of text
	Seq     uint64    // the sink's number, from 1, a reader's cursor; what a caller of Log sets here is not kept
	Event   *Event    // of a System entry; not to be changed any more
}

// An EventKind says what a System entry reports.
type EventKind string

// The kinds of events.
const (
	Start        EventKind = "start"         // a session started: Args, PID
	Exit         EventKind = "exit"          // its process exited: Code or Signal
	Failed       EventKind = "failed"        // it could not be started, or its end is not known
	Gap          EventKind = "gap"           // Bytes of Source are missing here: the Source and the Session are empty if they are not known
	SandboxStart EventKind = "sandbox-start" // the sandbox has booted
	SandboxStop  EventKind = "sandbox-stop"  // the sandbox is gone
)

// An Event is a System entry in parts. Which fields are set depends on Kind.
type Event struct {
	Kind   EventKind `json:"kind"`
	Args   []string  `json:"args"`
	PID    int       `json:"pid"`
	Code   int       `json:"code"`   // exit code, -1 when a signal ended the process
	Signal int       `json:"signal"` // its number
	Bytes  int64     `json:"bytes"`
	Source Source    `json:"source"` // of a gap
}

// MarshalJSON omits what is zero, but for the code of an Exit.
func (v Event) MarshalJSON() ([]byte, error) {
	out := struct {
		Kind   EventKind `json:"kind"`
		Args   []string  `json:"args,omitempty"`
		PID    int       `json:"pid,omitempty"`
		Code   *int      `json:"code,omitempty"`
		Signal int       `json:"signal,omitempty"`
		Bytes  int64     `json:"bytes,omitempty"`
		Source Source    `json:"source,omitempty"`
	}{v.Kind, v.Args, v.PID, nil, v.Signal, v.Bytes, v.Source}
	if v.Kind == Exit || v.Code != 0 {
		out.Code = &v.Code
	}
	return json.Marshal(out)
}

// A Sink takes entries. Log is safe for concurrent use and keeps Data no longer than it runs. Its error concerns that entry alone: the caller may go
// on. The sinks of this package make several entries of output that is larger than 64 KiB.
type Sink interface {
	Log(Entry) error
}

// A Reader gives entries back. File and Ring are Readers.
type Reader interface {
	// Read yields the entries that q selects, the oldest first. Nothing is read before the iteration begins, and each iteration reads anew.
	//
	// An error is yielded with a zero Entry. Reading goes on after a *CorruptError; any other error is the last thing. If ctx ends before all was
	// read, its error is that; with Query.Follow there is no "all", and the end of ctx ends the reading without an error.
	//
	// An entry's Data is the consumer's own; its Event is shared with others.
	//
	// Where entries are missing that were there (dropped by rotation or by a ring since the entry before, or since Query.After), a Gap entry
	// stands in their place, whatever q selects. It has their last number.
	Read(ctx context.Context, q Query) iter.Seq2[Entry, error]
}

// A Query selects entries: those that all its fields select. The zero value is all there are. A Gap that a sink has logged is a System entry: a
// query for sources that are to be complete must select System too.
type Query struct {
	Tail         int       // only the last so many of those that the rest selects, before Follow; 0 = all
	Since, Until time.Time // not before, not after; zero = no bound
	Sources      []Source  // empty = all
	Session      string    // empty = all
	After        uint64    // only entries numbered above it: the Seq of the last entry that was read
	Follow       bool      // go on with what comes, until ctx or Until ends; Since: time.Now() leaves out what there is
	// Poll is how often Follow looks at a file; 0 = 100 ms. A Ring needs none.
	Poll time.Duration
}

// match says whether q selects e.
func (q *Query) match(e *Entry) bool {
	return e.Seq > q.After && (q.Since.IsZero() || !e.Time.Before(q.Since)) && (q.Until.IsZero() || !e.Time.After(q.Until)) &&
		(q.Session == "" || q.Session == e.Session) && (len(q.Sources) == 0 || slices.Contains(q.Sources, e.Source))
}

// over says whether nothing that comes can be selected any more.
func (q *Query) over(now time.Time) bool { return !q.Until.IsZero() && now.After(q.Until) }

func (q *Query) poll() time.Duration {
	if q.Poll <= 0 {
		return 100 * time.Millisecond
	}
	return q.Poll
}

// missed is the Gap in place of the entries numbered above from, up to to. bytes is how much output they held, 0 if that is not known.
func missed(from, to uint64, bytes int64) Entry {
	e := Entry{Time: time.Now(), Source: System, Seq: to, Event: &Event{Kind: Gap, Bytes: bytes}}
	e.Data = fmt.Appendf(nil, "%d entries are not kept any more", to-from)
	return e
}

// Multi returns a sink that passes every entry to all of sinks, in order, also when some of them fail. Its error joins theirs. An entry without a
// time gets one, the same for all.
func Multi(sinks ...Sink) Sink { return multi(slices.Clone(sinks)) }

type multi []Sink

func (m multi) Log(e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	var errs []error
	for _, s := range m {
		if err := s.Log(e); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
