//go:build unix

package virtiotest

import (
	"encoding/binary"
	"time"

	"github.com/hutchvm/hutch/virtio"
)

// Descriptor flags (§2.7.5).
const (
	DescNext     = 1
	DescWrite    = 2
	DescIndirect = 4
)

// Buf is one buffer of a chain.
type Buf struct {
	GPA   uint64
	Len   uint32
	Write bool // the device writes it
}

// Out is a device-readable buffer.
func Out(gpa uint64, n int) Buf { return Buf{GPA: gpa, Len: uint32(n)} }

// In is a device-writable buffer.
func In(gpa uint64, n int) Buf { return Buf{GPA: gpa, Len: uint32(n), Write: true} }

// Desc is a raw descriptor (§2.7.5).
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Used is one element of the used ring (§2.7.8).
type Used struct {
	Head uint16
	Len  uint32
}

// Queue is the driver side of one virtqueue.
//
// The three areas and the bytes in them (n is Size):
//
//	Desc   16*n       addr 8, len 4, flags 2, next 2
//	Avail  6+2*n      flags 2, idx 2, ring 2*n, used_event 2
//	Used   6+8*n      flags 2, idx 2, ring (id 4, len 4)*n, avail_event 2
//
// Each area has its own cache line and canary bytes behind it (CheckCanaries).
type Queue struct {
	Index             int
	Size              uint16
	Desc, Avail, Used uint64 // guest addresses

	d        *Driver
	eventIdx bool
	free     []uint16            // free descriptors
	chains   map[uint16][]uint16 // descriptors in use, by head
	availIdx uint16              // next avail.idx to publish
	kicked   uint16              // avail.idx at the last Kick
	usedIdx  uint16              // next used element to collect
	noIntr   bool
}

const (
	canaryBytes = 64
	canary      = 0xc5
)

func newQueue(d *Driver, i int, size uint16) *Queue {
	q := &Queue{Index: i, Size: size, d: d, chains: map[uint16][]uint16{}}
	q.eventIdx = d.Features&virtio.FeatureRingEventIdx != 0
	area := func(n uint64) uint64 {
		gpa := d.Alloc(int(n)+canaryBytes, 64)
		c := make([]byte, canaryBytes)
		for i := range c {
			c[i] = canary
		}
		d.Put(gpa+n, c)
		return gpa
	}
	q.Desc = area(16 * uint64(size))
	q.Avail = area(6 + 2*uint64(size))
	q.Used = area(6 + 8*uint64(size))
	for i := range size {
		q.free = append(q.free, size-1-i)
	}
	return q
}

// CheckCanaries fails the test if a byte behind one of the areas changed.
func (q *Queue) CheckCanaries() {
	q.d.TB.Helper()
	for _, end := range []uint64{q.Desc + 16*uint64(q.Size), q.Avail + 6 + 2*uint64(q.Size), q.Used + 6 + 8*uint64(q.Size)} {
		for i, b := range q.d.Bytes(end, canaryBytes) {
			if b != canary {
				q.d.TB.Fatalf("virtiotest: queue %d: the byte at %#x, %d behind an area, became %#x", q.Index, end+uint64(i), i, b)
			}
		}
	}
}

// SetDesc writes descriptor i as it is.
func (q *Queue) SetDesc(i uint16, d Desc) {
	q.d.TB.Helper()
	q.d.Put(q.Desc+16*uint64(i), EncodeDesc(d))
}

// EncodeDesc is the 16 bytes of a descriptor, for indirect tables.
func EncodeDesc(d Desc) []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint64(b[0:8], d.Addr)
	binary.LittleEndian.PutUint32(b[8:12], d.Len)
	binary.LittleEndian.PutUint16(b[12:14], d.Flags)
	binary.LittleEndian.PutUint16(b[14:16], d.Next)
	return b
}

// SetAvail writes entry i (modulo Size) of the available ring.
func (q *Queue) SetAvail(i, head uint16) {
	q.d.TB.Helper()
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], head)
	q.d.Put(q.Avail+4+2*uint64(i&(q.Size-1)), b[:])
}

// SetAvailIdx publishes idx with the flags this driver wants, in one store with
// release order.
func (q *Queue) SetAvailIdx(idx uint16) {
	q.availIdx = idx
	w := uint32(idx) << 16
	if q.noIntr {
		w |= 1
	}
	if err := q.d.Mem.StoreUint32(q.Avail, w); err != nil {
		q.d.TB.Fatal(err)
	}
}

// Free is the number of free descriptors.
func (q *Queue) Free() int { return len(q.free) }

// Post makes a chain of these buffers available, without notifying, and returns
// its head. It fails the test if there are too few free descriptors.
func (q *Queue) Post(bufs ...Buf) uint16 {
	q.d.TB.Helper()
	if len(bufs) == 0 || len(bufs) > len(q.free) {
		q.d.TB.Fatalf("virtiotest: queue %d: %d buffers, %d free descriptors", q.Index, len(bufs), len(q.free))
	}
	ids := make([]uint16, len(bufs))
	for i := range ids {
		ids[i] = q.free[len(q.free)-1-i]
	}
	q.free = q.free[:len(q.free)-len(bufs)]
	for i, b := range bufs {
		d := Desc{Addr: b.GPA, Len: b.Len}
		if b.Write {
			d.Flags |= DescWrite
		}
		if i+1 < len(bufs) {
			d.Flags |= DescNext
			d.Next = ids[i+1]
		}
		q.SetDesc(ids[i], d)
	}
	return q.offer(ids)
}

// PostIndirect makes a chain available whose buffers are all in an indirect
// table (§2.7.5.3).
func (q *Queue) PostIndirect(bufs ...Buf) uint16 {
	q.d.TB.Helper()
	if len(q.free) == 0 {
		q.d.TB.Fatalf("virtiotest: queue %d: no free descriptor", q.Index)
	}
	var table []byte
	for i, b := range bufs {
		d := Desc{Addr: b.GPA, Len: b.Len}
		if b.Write {
			d.Flags |= DescWrite
		}
		if i+1 < len(bufs) {
			d.Flags |= DescNext
			d.Next = uint16(i + 1)
		}
		table = append(table, EncodeDesc(d)...)
	}
	t := q.d.AllocPut(table)
	id := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.SetDesc(id, Desc{Addr: t.GPA, Len: t.Len, Flags: DescIndirect})
	return q.offer([]uint16{id})
}

func (q *Queue) offer(ids []uint16) uint16 {
	q.chains[ids[0]] = ids
	q.SetAvail(q.availIdx, ids[0])
	q.SetAvailIdx(q.availIdx + 1)
	return ids[0]
}

// Notify writes QueueNotify, whether the device wants it or not.
func (q *Queue) Notify() { q.d.Write32(QueueNotify, uint32(q.Index)) }

// Kick notifies the device if it asked for it (§2.7.10) and says whether it did.
func (q *Queue) Kick() bool {
	old, now := q.kicked, q.availIdx
	q.kicked = now
	if !q.wantsKick(old, now) {
		return false
	}
	q.Notify()
	return true
}

func (q *Queue) wantsKick(old, now uint16) bool {
	if !q.eventIdx {
		return q.load16(q.Used)&1 == 0
	}
	event := q.load16(q.Used + 4 + 8*uint64(q.Size))
	return now-event-1 < now-old
}

func (q *Queue) load16(gpa uint64) uint16 {
	v, err := q.d.Mem.LoadUint16(gpa)
	if err != nil {
		q.d.TB.Fatal(err)
	}
	return v
}

// UsedIdx is the device's used index.
func (q *Queue) UsedIdx() uint16 { return q.load16(q.Used + 2) }

// UsedFlags is the device's used.flags.
func (q *Queue) UsedFlags() uint16 { return q.load16(q.Used) }

// Collect takes the next used element, if there is one, and frees its
// descriptors. It fails the test if the device returned a head that it does not
// have.
func (q *Queue) Collect() (Used, bool) {
	q.d.TB.Helper()
	if q.UsedIdx() == q.usedIdx {
		return Used{}, false
	}
	b := q.d.Bytes(q.Used+4+8*uint64(q.usedIdx&(q.Size-1)), 8)
	id := binary.LittleEndian.Uint32(b[0:4])
	u := Used{Head: uint16(id), Len: binary.LittleEndian.Uint32(b[4:8])}
	ids, ok := q.chains[u.Head]
	if id > 0xffff || !ok {
		q.d.TB.Fatalf("virtiotest: queue %d: the device returned head %d, which it does not have", q.Index, id)
	}
	delete(q.chains, u.Head)
	q.free = append(q.free, ids...)
	q.usedIdx++
	return u, true
}

// SuppressInterrupts sets VIRTQ_AVAIL_F_NO_INTERRUPT, which only counts without
// EVENT_IDX (§2.7.7).
func (q *Queue) SuppressInterrupts(on bool) {
	q.noIntr = on
	q.SetAvailIdx(q.availIdx)
}

// SetUsedEvent asks for an interrupt when the used index passes idx (§2.7.7).
func (q *Queue) SetUsedEvent(idx uint16) {
	if err := q.d.Mem.StoreUint16(q.Avail+4+2*uint64(q.Size), idx); err != nil {
		q.d.TB.Fatal(err)
	}
}

// WaitUsed waits for the next used element and collects it, sleeping on the
// device's interrupt as a driver does. It fails the test after Patience.
func (q *Queue) WaitUsed() Used {
	q.d.TB.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		q.SetUsedEvent(q.usedIdx)
		// The atomic store between the plain one and the check is the barrier
		// that a driver needs here.
		q.SetAvailIdx(q.availIdx)
		if u, ok := q.Collect(); ok {
			return u
		}
		select {
		case <-q.d.irq:
			q.d.Ack()
		case <-deadline.C:
			q.d.TB.Fatalf("virtiotest: queue %d: nothing used within %v (status %#x, fault %v)", q.Index, Patience, q.d.Status(), q.d.MMIO.Err())
		}
	}
}
