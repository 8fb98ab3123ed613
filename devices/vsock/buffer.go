package vsock

import (
	"sync"
	"sync/atomic"
)

// chunkSize is the unit in which a ring takes memory. An idle connection holds
// at most one chunk, a full one its size plus one.
const chunkSize = 16 << 10

type chunk [chunkSize]byte

// chunkPool is shared by all devices: a ring only hands out bytes that were
// written to it, so what a chunk held before is never seen.
var chunkPool = sync.Pool{New: func() any { return new(chunk) }}

// ring is a bounded first-in first-out byte buffer for one producer and one
// consumer, who need no common lock:
//
//	          r (consumer)        w (producer)
//	          v                   v
//	... free | unread bytes .... | free ...      0 <= w-r <= size
//
// r and w count bytes since the ring was made; byte x is in slot
// (x/chunkSize) mod len(slots). A chunk is taken when w enters its slot and
// given back when r leaves it. One slot more than the size needs keeps the two
// apart.
//
// Concurrency: reserve, commit and write by the producer; peek, consume and
// read by the consumer; len and free by either.
type ring struct {
	size  int
	slots []*chunk
	r, w  atomic.Uint64
}

func newRing(size int) *ring {
	return &ring{size: size, slots: make([]*chunk, (size+chunkSize-1)/chunkSize+1)}
}

func (b *ring) len() int  { return int(b.w.Load() - b.r.Load()) }
func (b *ring) free() int { return b.size - b.len() }

func (b *ring) slot(pos uint64) int { return int(pos / chunkSize % uint64(len(b.slots))) }

// reserve returns up to n bytes of free space, in one piece. Empty only if n is
// 0 or the ring is full.
func (b *ring) reserve(n int) []byte {
	n = min(n, b.free())
	if n <= 0 {
		return nil
	}
	w := b.w.Load()
	s := b.slot(w)
	if b.slots[s] == nil {
		b.slots[s] = chunkPool.Get().(*chunk)
	}
	off := int(w % chunkSize)
	return b.slots[s][off:min(chunkSize, off+n)]
}

// commit makes the first n bytes of the last reserve readable.
func (b *ring) commit(n int) { b.w.Add(uint64(n)) }

// peek returns unread bytes, in one piece. Empty only if there are none.
func (b *ring) peek() []byte {
	n := b.len()
	if n == 0 {
		return nil
	}
	r := b.r.Load()
	off := int(r % chunkSize)
	return b.slots[b.slot(r)][off:min(chunkSize, off+n)]
}

// consume frees the first n bytes of the last peek.
func (b *ring) consume(n int) {
	r := b.r.Load()
	if int(r%chunkSize)+n == chunkSize {
		s := b.slot(r)
		chunkPool.Put(b.slots[s])
		b.slots[s] = nil
	}
	b.r.Add(uint64(n)) // after the slot is empty: the producer may enter it now
}

// write appends what fits of p.
func (b *ring) write(p []byte) (n int) {
	for n < len(p) {
		dst := b.reserve(len(p) - n)
		if len(dst) == 0 {
			break
		}
		k := copy(dst, p[n:])
		b.commit(k)
		n += k
	}
	return n
}

// read moves what there is into p.
func (b *ring) read(p []byte) (n int) {
	for n < len(p) {
		src := b.peek()
		if len(src) == 0 {
			break
		}
		k := copy(p[n:], src)
		b.consume(k)
		n += k
	}
	return n
}
