package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Errors of queue and chain methods.
var (
	// ErrBroken is wrapped by every *QueueError: the driver violated the ring
	// rules and the queue does nothing more until the driver resets the device.
	ErrBroken = errors.New("virtio: queue is broken until the driver resets the device")
	// ErrStopped is returned while the queue is not running: it was not set up,
	// the driver took it back, or the device needs a reset.
	ErrStopped = errors.New("virtio: queue is stopped")
	// ErrNotInFlight is a mistake of the device: it returned a chain twice, or
	// used one after returning it.
	ErrNotInFlight = errors.New("virtio: chain is not in flight")
)

// QueueError says how the driver broke a queue. errors.Is(err, ErrBroken).
type QueueError struct {
	Queue  int    // index of the queue
	Rule   string // what was violated, with the section of the specification
	Value  uint64 // the offending number
	Detail error  // more, or nil
}

func (e *QueueError) Error() string {
	s := fmt.Sprintf("virtio: queue %d: %s (value %#x)", e.Queue, e.Rule, e.Value)
	if e.Detail != nil {
		s += ": " + e.Detail.Error()
	}
	return s
}

// Is makes errors.Is(err, ErrBroken) hold.
func (e *QueueError) Is(target error) bool { return target == ErrBroken }

func (e *QueueError) Unwrap() error { return e.Detail }

// Queue is the device side of one split virtqueue (§2.7).
//
// A device's worker runs this loop after each notification:
//
//	for {
//		q.DisableNotifications()
//		for {
//			c, ok, err := q.Pop()
//			if err != nil { return }   // stopped or broken: the transport knows
//			if !ok { break }
//			n := work(c)
//			q.AddUsed(c.Head(), n)     // or StageUsed, and PublishUsed per batch
//		}
//		irq.Used(q)
//		if !q.EnableNotifications() { return } // else: more came meanwhile
//	}
//
// Concurrency: safe for any number of goroutines; meant for one consumer. A
// lock is held during each call, so that a stopped queue is provably not in
// use; no call waits for the guest.
type Queue struct {
	mu       sync.Mutex
	index    int
	mem      *Memory
	size     uint16 // 0: not set up
	eventIdx bool   // VIRTIO_F_EVENT_IDX negotiated
	indirect bool   // VIRTIO_F_INDIRECT_DESC negotiated
	maxBytes uint64 // bound of a chain's summed lengths
	addr     queueAddr

	desc      []byte // descriptor table, 16-byte aligned
	avail     []byte // from the 4-byte boundary at or before the driver area
	availBase int    // 0 or 2: where the driver area begins in avail
	used      []byte // device area, 4-byte aligned

	nextAvail uint16 // free-running index of the next head to take
	seenAvail uint16 // avail.idx as last loaded; nextAvail..seenAvail are takeable
	nextUsed  uint16 // used index, staged elements included
	published uint16 // used index that the driver can see
	signalled uint16 // published when the last interrupt decision was taken
	noNotify  bool   // VIRTQ_USED_F_NO_NOTIFY is wanted

	chains   []Chain // by head; a head is in flight at most once
	inFlight int
	lastPop  *Chain // what Unpop may put back

	state    error // nil while running; ErrStopped or a *QueueError
	onBroken func(error)
	reported bool
	fence    atomic.Uint32
}

// queueAddr are the guest addresses of the three areas (§2.7): descriptor
// table, available ring (driver area), used ring (device area).
type queueAddr struct{ desc, driver, device uint64 }

// newStoppedQueue stands for a queue that the driver did not set up.
func newStoppedQueue(index int) *Queue {
	return &Queue{index: index, state: ErrStopped}
}

// newQueue makes a running queue over three checked areas.
//
// Errors: *QueueError when the size is no power of two in 1..MaxQueueSize, or an
// area is misaligned (16, 2, 4) or not wholly inside one region.
func newQueue(mem *Memory, index int, size uint32, addr queueAddr, features uint64, maxBytes uint32) (*Queue, error) {
	bad := func(rule string, v uint64) error {
		return &QueueError{Queue: index, Rule: rule, Value: v}
	}
	// Compared as 32 bits, before truncation: 0x10000 must not become 0.
	if size == 0 || size > MaxQueueSize || size&(size-1) != 0 {
		return nil, bad("queue size is not a power of two in 1..256, §2.7", uint64(size))
	}
	q := &Queue{
		index: index, mem: mem, size: uint16(size), addr: addr,
		eventIdx: features&FeatureRingEventIdx != 0,
		indirect: features&FeatureRingIndirectDesc != 0,
		maxBytes: uint64(maxBytes),
	}
	if maxBytes == 0 {
		q.maxBytes = DefaultMaxChainBytes
	}
	switch {
	case addr.desc%descAlign != 0:
		return nil, bad("descriptor table is not 16-byte aligned, §2.7", addr.desc)
	case addr.driver%availAlign != 0:
		return nil, bad("driver area is not 2-byte aligned, §2.7", addr.driver)
	case addr.device%usedAlign != 0:
		return nil, bad("device area is not 4-byte aligned, §2.7", addr.device)
	}
	var ok bool
	if q.desc, ok = mem.slice(addr.desc, descBytes(q.size)); !ok {
		return nil, bad("descriptor table is not wholly in guest RAM, §2.7", addr.desc)
	}
	if !mem.Contains(addr.driver, availBytes(q.size)) {
		return nil, bad("driver area is not wholly in guest RAM, §2.7", addr.driver)
	}
	if q.used, ok = mem.slice(addr.device, usedBytes(q.size)); !ok {
		return nil, bad("device area is not wholly in guest RAM, §2.7", addr.device)
	}
	// Widen the driver area to whole 32-bit words for load16. Regions begin and
	// end at multiples of 8, so the widened area is in the same region.
	q.availBase = int(addr.driver & 3)
	n := (uint64(q.availBase) + availBytes(q.size) + 3) &^ 3
	if q.avail, ok = mem.slice(addr.driver&^3, n); !ok {
		return nil, bad("driver area is not wholly in guest RAM, §2.7", addr.driver)
	}
	q.chains = make([]Chain, q.size)
	for i := range q.chains {
		q.chains[i].q, q.chains[i].head = q, uint16(i)
	}
	return q, nil
}

// Index is the number of the queue within its device.
func (q *Queue) Index() int { return q.index }

// Size is the number of entries, 0 if the driver did not set the queue up.
func (q *Queue) Size() uint16 { return q.size }

// Err is nil while the queue runs, ErrStopped or a *QueueError otherwise.
func (q *Queue) Err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.state
}

// stop ends all use of the ring and of popped chains. When it returns, no call
// that touches guest memory through the queue is running or will run.
func (q *Queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state == nil {
		q.state = ErrStopped
	}
}

// breakLocked records the driver's first violation.
func (q *Queue) breakLocked(rule string, v uint64, detail error) error {
	q.state = &QueueError{Queue: q.index, Rule: rule, Value: v, Detail: detail}
	return q.state
}

// unlock releases q.mu and tells the transport, once and with no lock held,
// that the queue broke.
func (q *Queue) unlock() {
	var report error
	if q.state != nil && q.state != ErrStopped && !q.reported {
		q.reported, report = true, q.state
	}
	q.mu.Unlock()
	if report != nil && q.onBroken != nil {
		q.onBroken(report)
	}
}

func (q *Queue) loadAvail(off int) uint16 { return load16(q.avail, q.availBase+off) }

// Pop takes the next chain that the driver made available; ok is false if there
// is none. The chain belongs to the device until AddUsed or StageUsed returns
// its head, exactly once; it then must not be touched any more.
//
// Shape: 0 <= Head < Size; readable buffers come before writable ones; at most
// Size buffers. Errors: *QueueError (errors.Is ErrBroken) if the driver violated
// §2.7.5 or §2.7.6, and again on every later call; ErrStopped.
// Does not allocate once the chains' buffer lists have grown.
// Source: VIRTIO 1.2 §2.7.13 seen from the device.
func (q *Queue) Pop() (c *Chain, ok bool, err error) {
	q.mu.Lock()
	defer q.unlock() // a fault on guest memory must not leave the lock behind
	c, err = q.popLocked()
	return c, c != nil, err
}

func (q *Queue) popLocked() (*Chain, error) {
	if q.state != nil {
		return nil, q.state
	}
	if q.nextAvail == q.seenAvail {
		// The acquire load orders the ring entry and descriptors behind it
		// (§2.7.13.3.1).
		q.seenAvail = q.loadAvail(availIdx)
		if n := q.seenAvail - q.nextAvail; n > q.size {
			return nil, q.breakLocked("available index is more than the queue size ahead, §2.7.6.1", uint64(n), nil)
		}
		if q.nextAvail == q.seenAvail {
			return nil, nil
		}
	}
	head := q.loadAvail(availRing + 2*int(q.nextAvail&(q.size-1)))
	if head >= q.size {
		return nil, q.breakLocked("head index is beyond the descriptor table, §2.7.6", uint64(head), nil)
	}
	c := &q.chains[head]
	if c.inFlight {
		return nil, q.breakLocked("head was made available again before it was used, §2.7.6", uint64(head), nil)
	}
	if err := c.walk(); err != nil {
		return nil, err
	}
	q.nextAvail++
	q.take(c)
	q.lastPop = c
	return c, nil
}

func (q *Queue) take(c *Chain) {
	c.inFlight = true
	c.written, c.pendLo, c.pendHi = 0, 0, 0
	q.inFlight++
}

// Available says whether Pop would find a buffer (or a broken ring).
func (q *Queue) Available() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.availableLocked()
}

func (q *Queue) availableLocked() bool {
	return q.state == nil && (q.nextAvail != q.seenAvail || q.loadAvail(availIdx) != q.nextAvail)
}

// Unpop gives the most recently popped chain back untaken, so that the next Pop
// yields it again: for a device that finds it has nothing to put in.
// Errors: ErrNotInFlight if c is not the chain of the last Pop; ErrStopped;
// *QueueError.
func (q *Queue) Unpop(c *Chain) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.state != nil:
		return q.state
	case c == nil || c != q.lastPop || !c.inFlight:
		return ErrNotInFlight
	}
	c.inFlight = false
	q.inFlight--
	q.nextAvail--
	q.lastPop = nil
	return nil
}

// AddUsed returns a popped chain to the driver and publishes it (§2.7.8).
//
// n is the number of bytes the device wrote into the writable part, counted
// from its start. The driver is told at most what was really written in one
// piece from the first byte on (WriteAt, MarkWritten), so that it never takes
// stale memory for data (§2.7.8.2).
//
// Errors: ErrNotInFlight, ErrStopped, *QueueError; nothing is returned then.
func (q *Queue) AddUsed(head uint16, n uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.stageLocked(head, n); err != nil {
		return err
	}
	q.publishLocked()
	return nil
}

// StageUsed is AddUsed without publishing: the driver sees the chain with the
// next PublishUsed or AddUsed. A staged head counts as returned.
func (q *Queue) StageUsed(head uint16, n uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stageLocked(head, n)
}

// PublishUsed makes all staged chains visible with one store.
func (q *Queue) PublishUsed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state == nil && q.published != q.nextUsed {
		q.publishLocked()
	}
}

func (q *Queue) stageLocked(head uint16, n uint32) error {
	if q.state != nil {
		return q.state
	}
	if head >= q.size || !q.chains[head].inFlight {
		return ErrNotInFlight
	}
	c := &q.chains[head]
	n = uint32(min(uint64(n), c.written))
	// Plain stores: publishLocked's release store orders them (§2.7.8.2: "The
	// device MUST set len prior to updating the used idx").
	e := q.used[usedRing+usedElem*int(q.nextUsed&(q.size-1)):][:usedElem]
	binary.LittleEndian.PutUint32(e[0:4], uint32(head))
	binary.LittleEndian.PutUint32(e[4:8], n)
	q.nextUsed++
	c.inFlight = false
	q.inFlight--
	if q.lastPop == c {
		q.lastPop = nil
	}
	return nil
}

// publishLocked stores used.flags and used.idx as one 32-bit word: both are the
// device's, and the device area is 4-byte aligned.
func (q *Queue) publishLocked() {
	q.published = q.nextUsed
	q.storeUsedWord()
}

func (q *Queue) storeUsedWord() {
	w := uint32(q.published) << 16
	if q.noNotify {
		w |= usedNoNotify
	}
	store32(q.used, usedFlags, w)
}
