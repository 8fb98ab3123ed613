package execlog

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"
	"time"
)

// entryCost is what an entry counts in a Ring beside its data.
const entryCost = 128

// A Ring is a Sink and a Reader that keeps the newest entries in memory.
type Ring struct {
	max int

	mu      sync.Mutex
	entries []Entry // from head on
	head    int
	size    int
	seq     uint64
	news    chan struct{} // closed when an entry comes
}

// NewRing returns a ring of about maxBytes of data and of what entries cost beside it (128 bytes); at least one entry is kept.
func NewRing(maxBytes int) *Ring { return &Ring{max: maxBytes, news: make(chan struct{})} }

// Log implements Sink. It never fails.
func (r *Ring) Log(e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Data = bytes.Clone(e.Data)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	e.Seq = r.seq
	r.entries = append(r.entries, e)
	r.size += len(e.Data) + entryCost
	for r.size > r.max && len(r.entries)-r.head > 1 {
		r.size -= len(r.entries[r.head].Data) + entryCost
		r.entries[r.head] = Entry{}
		r.head++
	}
	if r.head > len(r.entries)/2 {
		n := copy(r.entries, r.entries[r.head:])
		clear(r.entries[n:])
		r.entries, r.head = r.entries[:n], 0
	}
	close(r.news)
	r.news = make(chan struct{})
	return nil
}

// after returns copies of the entries above seq, how many that should be there are not any more, and a channel for news.
func (r *Ring) after(seq uint64) (list []Entry, missing uint64, news <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	live := r.entries[r.head:]
	if len(live) > 0 && live[0].Seq > seq+1 {
		missing = live[0].Seq - seq - 1
	}
	for i := range live {
		if live[i].Seq > seq {
			list = append(list, live[i:]...)
			break
		}
	}
	return list, missing, r.news
}

// Read implements Reader. A reader that falls behind what is kept gets a Gap entry, whose Bytes is 0: their number is not known any more.
func (r *Ring) Read(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		list, _, news := r.after(q.After)
		at := q.After
		var last tail
		last.n = q.Tail
		for _, e := range list {
			at = e.Seq
			switch {
			case !q.match(&e):
			case q.Tail > 0:
				last.add(e)
			case !yield(e, nil):
				return
			}
		}
		for _, e := range last.list {
			if !yield(e, nil) {
				return
			}
		}
		for q.Follow && ctx.Err() == nil && !q.over(time.Now()) {
			if !wait(ctx, &q, news) {
				return
			}
			var missing uint64
			if list, missing, news = r.after(at); missing > 0 && at > 0 {
				if !yield(missed(at, missing), nil) {
					return
				}
			}
			for _, e := range list {
				at = e.Seq
				if q.match(&e) && !yield(e, nil) {
					return
				}
			}
		}
	}
}

// missed is the entry in place of n others behind the number seq.
func missed(seq, n uint64) Entry {
	return Entry{
		Time: time.Now(), Source: System, Seq: seq + n, Event: &Event{Kind: Gap},
		Data: fmt.Appendf(nil, "%d entries are not kept any more", n),
	}
}

// wait waits for news, and reports false when ctx or the time of q is over.
func wait(ctx context.Context, q *Query, news <-chan struct{}) bool {
	var until <-chan time.Time
	if !q.Until.IsZero() {
		t := time.NewTimer(time.Until(q.Until))
		defer t.Stop()
		until = t.C
	}
	select {
	case <-news:
		return true
	case <-until:
	case <-ctx.Done():
	}
	return false
}
