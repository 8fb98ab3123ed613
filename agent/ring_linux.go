package agent

import (
	"sync"

	"github.com/hutchvm/hutch/channel"
)

// ring keeps the last bytes of an output stream. Cursors count all bytes of the
// stream; the ring has those from start to end. It is the Writer of an outCopy.
type ring struct {
	name string
	size int64 // most bytes kept

	mu      sync.Mutex
	buf     []byte // byte c of the stream is at c modulo size
	start   int64
	end     int64
	owner   *ringReader   // its unread bytes are not dropped: Write waits; nil = none
	closed  bool          // no more bytes
	changed chan struct{} // closed at the next change; nil = nobody waits
}

// ringReader is one watcher's position.
type ringReader struct {
	r   *ring
	pos int64
}

// wait returns a channel that is closed at the next change. The caller holds mu.
func (r *ring) wait() <-chan struct{} {
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// wake tells those who wait. The caller holds mu.
func (r *ring) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Write appends p. With an owner it waits for room, otherwise the oldest bytes go.
func (r *ring) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		r.mu.Lock()
		room := r.size
		if r.owner != nil {
			room -= r.end - r.owner.pos
		}
		if room <= 0 {
			ch := r.wait()
			r.mu.Unlock()
			<-ch
			continue
		}
		m := int(min(room, int64(len(p))))
		r.put(p[:m])
		r.wake()
		r.mu.Unlock()
		p, n = p[m:], n+m
	}
	return n, nil
}

// put stores p, which is not longer than size. The caller holds mu.
func (r *ring) put(p []byte) {
	if need := min(r.size, r.end+int64(len(p))); int64(len(r.buf)) < need {
		// It has not wrapped yet: positions stay what they are.
		buf := make([]byte, min(r.size, max(need, 2*int64(len(r.buf)), 4096)))
		copy(buf, r.buf)
		r.buf = buf
	}
	at := r.end % r.size
	n := copy(r.buf[at:], p)
	copy(r.buf, p[n:])
	r.end += int64(len(p))
	r.start = max(r.start, r.end-r.size)
}

// Close says that no more bytes come.
func (r *ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.wake()
	return nil
}

// kept is what the ring has.
func (r *ring) kept() channel.Kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	return channel.Kept{From: r.start, To: r.end}
}

// trim frees what a ring that ended will not use.
func (r *ring) trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if int64(len(r.buf)) > r.end {
		r.buf = append([]byte(nil), r.buf[:r.end]...)
	}
}

// forget drops the bytes, and leaves the cursors.
func (r *ring) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf, r.start = nil, r.end
	r.wake()
}

// reader returns a reader at a cursor as in AttachRequest. gap is set if the
// cursor is not kept and allowGap is false; ok is false for one beyond the end.
func (r *ring) reader(from int64, allowGap bool) (rd *ringReader, gap *channel.GapError, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case from == -1:
		from = r.end
	case from == 0:
		from = r.start
	case from > r.end:
		return nil, nil, false
	case from < r.start && !allowGap:
		return nil, &channel.GapError{Stream: r.name, Want: from, Have: r.start}, true
	case from < r.start:
		from = r.start
	}
	return &ringReader{r, from}, nil, true
}

// own makes rd the reader that Write waits for.
func (rd *ringReader) own() {
	rd.r.mu.Lock()
	defer rd.r.mu.Unlock()
	rd.r.owner = rd
}

// leave lets Write go on without rd.
func (rd *ringReader) leave() {
	rd.r.mu.Lock()
	defer rd.r.mu.Unlock()
	if rd.r.owner == rd {
		rd.r.owner = nil
		rd.r.wake()
	}
}

// advance says that n bytes were delivered.
func (rd *ringReader) advance(n int) {
	rd.r.mu.Lock()
	defer rd.r.mu.Unlock()
	rd.pos += int64(n)
	if rd.r.owner == rd {
		rd.r.wake()
	}
}

// next copies the next bytes to p without advancing. If there are none, it
// returns a channel to wait on, or end. If they are not kept any more it returns
// the gap, and the reader is behind it.
func (rd *ringReader) next(p []byte) (n int, gap *channel.GapError, wait <-chan struct{}, end bool) {
	r := rd.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case rd.pos < r.start:
		gap = &channel.GapError{Stream: r.name, Want: rd.pos, Have: r.start}
		rd.pos = r.start
		return 0, gap, nil, false
	case rd.pos == r.end && r.closed:
		return 0, nil, nil, true
	case rd.pos == r.end:
		return 0, nil, r.wait(), false
	}
	p = p[:min(int64(len(p)), r.end-rd.pos)]
	n = copy(p, r.buf[rd.pos%r.size:])
	n += copy(p[n:], r.buf)
	return n, nil, nil, false
}
