package execlog

import (
	"context"
	"errors"
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
	Source  Source
	Session string // session ID; empty for what concerns the whole sandbox
	Data    []byte // 1 byte to 64 KiB as they arrived; of a System entry, a line of text
	Seq     uint64 // the sink's number, from 1; what a caller of Log sets here is not kept
	Event   *Event // of a System entry
}

// An EventKind says what a System entry reports.
type EventKind string

// The kinds of events.
const (
	Start        EventKind = "start"         // a session started: Args, PID
	Exit         EventKind = "exit"          // its process exited: Code or Signal
	Failed       EventKind = "failed"        // it could not be started, or its end is not known
	Gap          EventKind = "gap"           // Bytes of output are missing here
	SandboxStart EventKind = "sandbox-start" // the sandbox has booted
	SandboxStop  EventKind = "sandbox-stop"  // the sandbox is gone
)

// An Event is a System entry in parts. Which fields are set depends on Kind.
type Event struct {
	Kind   EventKind `json:"kind"`
	Args   []string  `json:"args,omitempty"`
	PID    int       `json:"pid,omitempty"`
	Code   int       `json:"code,omitempty"`   // exit code, -1 when a signal ended the process
	Signal int       `json:"signal,omitempty"` // its number
	Bytes  int64     `json:"bytes,omitempty"`
	Source Source    `json:"source,omitempty"` // of a gap
}

// A Sink takes entries. Log is safe for concurrent use and does not keep Data. Its error concerns that entry alone: the caller may go on.
type Sink interface {
	Log(Entry) error
}

// A Reader gives entries back.
type Reader interface {
	// Read yields the entries that q selects, the oldest first. An error is yielded with a zero Entry: a *CorruptError, after which reading goes on,
	// or one that ends it. The end of ctx ends the reading without an error.
	Read(ctx context.Context, q Query) iter.Seq2[Entry, error]
}

// A Query selects entries. The zero value is all there are.
type Query struct {
	Tail         int       // only the last so many of those that the rest selects, before Follow; 0 = all
	Since, Until time.Time // not before, not after; zero = no bound
	Sources      []Source  // empty = all
	Session      string    // empty = all
	After        uint64    // only entries numbered above it
	Follow       bool      // go on with what comes, until ctx or Until ends
	// Poll is how often Follow looks at a file; 0 = 100 ms.
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

// tail keeps the last n entries.
type tail struct {
	n    int
	list []Entry
}

func (t *tail) add(e Entry) {
	if len(t.list) == t.n {
		copy(t.list, t.list[1:])
		t.list = t.list[:t.n-1]
	}
	t.list = append(t.list, e)
}

// Multi returns a sink that passes every entry to all of sinks. Its error joins theirs.
func Multi(sinks ...Sink) Sink { return multi(slices.Clone(sinks)) }

type multi []Sink

func (m multi) Log(e Entry) error {
	var errs []error
	for _, s := range m {
		if err := s.Log(e); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
