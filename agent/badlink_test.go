//go:build linux

package agent_test

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// linkFaults is what one direction of a Link does to its bytes. The zero value
// passes them on unchanged.
type linkFaults struct {
	// Piece is the largest piece in bytes that the receiver gets in one Read;
	// pieces have random sizes from 1 up to it. 0 = whole frames.
	Piece int
	// Reorder lets frames of different streams overtake each other.
	Reorder bool
	// Delay is the longest random wait before a frame; 0 = none.
	Delay time.Duration
	// StallEvery is the mean number of frames between two stalls, in which
	// nothing moves in this direction for Stall; 0 = no stalls.
	StallEvery int
	Stall      time.Duration
	// Cut ends the connection, both directions, after this many bytes of this
	// direction were delivered; 0 = never.
	Cut int64
}

// A badLink is a connection for tests that does to its bytes what a virtual
// machine's transport may do without breaking them: it hands them over in pieces
// of any size, late, with pauses, and ends anywhere. And it does one thing that
// no byte stream does: yamux frames of different streams overtake each other.
// Both ends run goroutines of their own for each stream, so the protocol may not
// depend on the order between streams, and shuffling finds what a busy scheduler
// would find once a year.
//
// Bytes of one stream keep their order; handshake messages and session frames
// (ping, go-away) neither overtake nor are overtaken. All choices come from one
// seed, though not the timing of what they are applied to.

// linkQueue is how many bytes of a direction may be under way.
const linkQueue = 1 << 20

// badLink is a connection with faults.
type badLink struct {
	ends [4]net.Conn // host, host's peer in the link, guest's peer in the link, guest
	dirs [2]*linkDirection
	wg   sync.WaitGroup
}

// newBadLink returns a Link and its two ends: the host's, for channel.NewClient,
// and the guest's, for agent.Serve. toGuest and toHost are the faults of the two
// directions. Close the Link, or both ends, when done.
func newBadLink(seed uint64, toGuest, toHost linkFaults) (l *badLink, host, guest net.Conn) {
	l = new(badLink)
	l.ends[0], l.ends[1] = net.Pipe()
	l.ends[2], l.ends[3] = net.Pipe()
	// The handshake is Hello and helloAck of the guest, hostHello of the host.
	l.dirs[0] = newLinkDirection(l, toGuest, l.ends[1], l.ends[2], seed, 1)
	l.dirs[1] = newLinkDirection(l, toHost, l.ends[2], l.ends[1], seed+1, 2)
	for _, d := range l.dirs {
		l.wg.Go(d.read)
		l.wg.Go(d.write)
	}
	return l, l.ends[0], l.ends[3]
}

// Cut ends the connection at once, as a lost virtual machine does.
func (l *badLink) Cut() {
	for _, c := range l.ends[1:3] {
		c.Close()
	}
	for _, d := range l.dirs {
		d.stop()
	}
}

// Close is Cut, and waits until nothing of the badLink is left.
func (l *badLink) Close() error {
	l.Cut()
	l.wg.Wait()
	return nil
}

// Delivered is how many bytes were delivered to the guest and to the host.
func (l *badLink) Delivered() (toGuest, toHost int64) {
	return l.dirs[0].count(), l.dirs[1].count()
}

// Overtaken is how many frames overtook another one, in both directions.
func (l *badLink) Overtaken() (n int) {
	for _, d := range l.dirs {
		d.mu.Lock()
		n += d.overtaken
		d.mu.Unlock()
	}
	return n
}

// linkDirection moves units from one connection to another.
type linkDirection struct {
	l        *badLink
	f        linkFaults
	src, dst net.Conn
	in       linkUnits
	rng      *rand.Rand // of write

	mu        sync.Mutex
	cond      sync.Cond
	queue     []linkUnit
	size      int  // bytes in queue
	ended     bool // src has ended
	stopped   bool
	closing   chan struct{} // closed with stopped
	held      map[uint32]int
	delivered int64
	overtaken int
}

func newLinkDirection(l *badLink, f linkFaults, src, dst net.Conn, seed uint64, handshake int) *linkDirection {
	d := &linkDirection{
		l: l, f: f, src: src, dst: dst, rng: rand.New(rand.NewPCG(seed, 0)),
		in:   linkUnits{bufio.NewReaderSize(src, 64<<10), handshake},
		held: make(map[uint32]int), closing: make(chan struct{}),
	}
	d.cond.L = &d.mu
	return d
}

func (d *linkDirection) count() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.delivered
}

func (d *linkDirection) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stopped {
		d.stopped = true
		close(d.closing)
	}
	d.cond.Broadcast()
}

// read queues units until the source ends.
func (d *linkDirection) read() {
	for {
		u, err := d.in.next()
		d.mu.Lock()
		for d.size > linkQueue && !d.stopped {
			d.cond.Wait()
		}
		if len(u.b) > 0 {
			d.queue = append(d.queue, u)
			d.size += len(u.b)
		}
		d.ended = err != nil
		d.cond.Broadcast()
		over := d.ended || d.stopped
		d.mu.Unlock()
		if over {
			return
		}
	}
}

// write delivers units until the source has ended and all were delivered, or
// the connection is cut. Then it ends the connection.
func (d *linkDirection) write() {
	defer d.l.Cut()
	for {
		d.mu.Lock()
		for len(d.queue) == 0 && !d.ended && !d.stopped {
			d.cond.Wait()
		}
		over := d.stopped || len(d.queue) == 0
		d.mu.Unlock()
		if over {
			return
		}
		d.wait()
		if !d.deliver(d.pick()) {
			return
		}
	}
}

// wait is the delay before a unit, which also lets others queue up behind it.
func (d *linkDirection) wait() {
	var t time.Duration
	if d.f.Delay > 0 {
		t = rand.N(d.f.Delay) // not of the seed: how often it is called depends on timing anyway
	}
	if d.f.StallEvery > 0 && d.rng.IntN(d.f.StallEvery) == 0 {
		t += d.f.Stall
	}
	if t == 0 {
		return
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.closing:
	}
}

// pick takes the next unit from the queue: the first, or with Reorder the first
// of any stream, unless a unit of the connection is before it. Some streams are
// held back for a number of picks, so that they fall far behind.
func (d *linkDirection) pick() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := 0
	if d.f.Reorder && d.queue[0].stream != 0 {
		i = d.choose()
	}
	u := d.queue[i]
	d.queue = append(d.queue[:i], d.queue[i+1:]...)
	d.size -= len(u.b)
	if i > 0 {
		d.overtaken++
	}
	d.cond.Broadcast()
	return u.b
}

// choose returns the index of the unit to take. The caller holds d.mu.
func (d *linkDirection) choose() int {
	var firsts []int
	seen := make(map[uint32]bool)
	for i, u := range d.queue {
		if u.stream == 0 {
			break
		}
		if !seen[u.stream] {
			seen[u.stream] = true
			firsts = append(firsts, i)
		}
	}
	for _, i := range firsts {
		if s := d.queue[i].stream; d.held[s] == 0 && d.rng.IntN(8) == 0 {
			d.held[s] = 1 + d.rng.IntN(16)
		}
	}
	var free []int
	for _, i := range firsts {
		if s := d.queue[i].stream; d.held[s] > 0 {
			d.held[s]--
		} else {
			free = append(free, i)
		}
	}
	if len(free) == 0 {
		free = firsts
	}
	return free[d.rng.IntN(len(free))]
}

// deliver writes b in pieces and reports whether to go on.
func (d *linkDirection) deliver(b []byte) bool {
	for len(b) > 0 {
		n := len(b)
		if d.f.Piece > 0 {
			n = min(n, 1+d.rng.IntN(d.f.Piece))
		}
		if d.f.Cut > 0 {
			n = int(min(int64(n), d.f.Cut-d.count()))
		}
		m, err := d.dst.Write(b[:n])
		d.mu.Lock()
		d.delivered += int64(m)
		over := d.f.Cut > 0 && d.delivered >= d.f.Cut
		d.mu.Unlock()
		if err != nil || over {
			return false
		}
		b = b[n:]
	}
	return true
}

var _ io.Closer = (*badLink)(nil)
