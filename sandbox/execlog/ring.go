package execlog

import (
	"bytes"
	"context"
	"iter"
	"sync"
	"time"
)

// entryCost is what an entry counts in a Ring beside its bytes.
const entryCost = 160

// A Ring is a Sink and a Reader that keeps the newest entries in memory. Make one with NewRing.
type Ring struct {
	max int

	mu    sync.Mutex
	slots []slot // from head on
	head  int
	size  int
	seq   uint64
	sum   int64         // of output ever logged, in bytes
	news  chan struct{} // closed when an entry comes; nil if nobody waits
}

type slot struct {
	Entry
	cost int
	sum  int64 // of output logged before and with it
}

// NewRing returns a ring of about maxBytes: of data, and of what an entry costs beside it (160 bytes, its session's ID and its event). At least
// one entry is kept.
func NewRing(maxBytes int) *Ring { return &Ring{max: maxBytes} }

// Log implements Sink. It never fails, and never waits for a reader.
func (r *Ring) Log(e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Source == System || len(e.Data) <= maxData {
		return r.add(&e)
	}
	return split(e, r.add)
}

func (r *Ring) add(e *Entry) error {
	s := slot{Entry: *e, cost: entryCost + len(e.Data) + len(e.Session)}
	s.Data = bytes.Clone(e.Data)
	if e.Event != nil {
		for _, a := range e.Event.Args {
			s.cost += len(a) + 16
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Source != System {
		r.sum += int64(len(e.Data))
	}
	r.seq++
	s.Seq, s.sum = r.seq, r.sum
	r.slots = append(r.slots, s)
	r.size += s.cost
	for r.size > r.max && len(r.slots)-r.head > 1 {
		r.size -= r.slots[r.head].cost
		r.slots[r.head] = slot{}
		r.head++
	}
	if r.head > len(r.slots)/2 {
		n := copy(r.slots, r.slots[r.head:])
		clear(r.slots[n:])
		r.slots, r.head = r.slots[:n], 0
	}
	if r.news != nil {
		close(r.news)
		r.news = nil
	}
	return nil
}

// own returns e with data of its own: what one consumer does to it, or appends to it, no other one is to see.
func own(e Entry) Entry {
	e.Data = bytes.Clone(e.Data)
	return e
}

// ringReader is one reading of a ring.
type ringReader struct {
	r   *Ring
	at  uint64 // the number of the last entry
	sum int64  // its sum; -1 if that is not known
}

// next returns the entries after the last one, and the Gap before them if there is one.
func (c *ringReader) next() (list []slot, gap *Entry) {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	live := r.slots[r.head:]
	if len(live) == 0 || c.at >= r.seq {
		return nil, nil
	}
	oldest := live[0]
	if oldest.Seq > c.at+1 {
		var lost int64
		if c.sum >= 0 {
			lost = oldest.sum - c.sum
			if oldest.Source != System {
				lost -= int64(len(oldest.Data))
			}
		}
		e := missed(c.at, oldest.Seq-1, lost)
		gap, list = &e, append(list, live...)
	} else {
		list = append(list, live[c.at+1-oldest.Seq:]...)
	}
	c.at, c.sum = r.seq, r.sum
	return list, gap
}

// news returns a channel that is closed when there is something behind the last entry.
func (c *ringReader) news() <-chan struct{} {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.seq > c.at {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	if c.r.news == nil {
		c.r.news = make(chan struct{})
	}
	return c.r.news
}

// Read implements Reader. A reader that falls behind what is kept gets a Gap entry: its Bytes counts the output of all sessions that it missed, and
// is 0 if Query.After lies there, because then nobody knows.
func (r *Ring) Read(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		c := &ringReader{r: r, at: q.After}
		if q.After > 0 {
			c.sum = -1
		}
		last := tail{n: q.Tail}
		list, gap := c.next()
		if gap != nil && q.After > 0 && q.Tail <= 0 && !yield(*gap, nil) {
			return
		}
		for i := range list {
			if ctx.Err() != nil {
				if !q.Follow {
					yield(Entry{}, ctx.Err())
				}
				return
			}
			switch e := list[i].Entry; {
			case !q.match(&e):
			case q.Tail > 0:
				last.add(e)
			case !yield(own(e), nil):
				return
			}
		}
		for _, e := range last.all() {
			if !yield(own(e), nil) {
				return
			}
		}
		if q.Follow {
			c.follow(ctx, &q, yield)
		}
	}
}

func (c *ringReader) follow(ctx context.Context, q *Query, yield func(Entry, error) bool) {
	var until <-chan time.Time
	if !q.Until.IsZero() {
		t := time.NewTimer(time.Until(q.Until))
		defer t.Stop()
		until = t.C
	}
	for ctx.Err() == nil {
		select {
		case <-c.news():
		case <-until:
			return
		case <-ctx.Done():
			return
		}
		list, gap := c.next()
		if gap != nil && !yield(*gap, nil) {
			return
		}
		for i := range list {
			if ctx.Err() != nil || q.match(&list[i].Entry) && !yield(own(list[i].Entry), nil) {
				return
			}
		}
	}
}
