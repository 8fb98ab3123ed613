//go:build unix

package virtiotest

import (
	"testing"

	"github.com/hutchvm/hutch/virtio"
)

type null struct{}

func (null) ID() uint32                                               { return 4 }
func (null) Features() uint64                                         { return 0 }
func (null) QueueSizes() []uint16                                     { return []uint16{256} }
func (null) ReadConfig(uint32, []byte)                                {}
func (null) Activate(uint64, []*virtio.Queue, virtio.Interrupt) error { return nil }
func (null) Notify(int)                                               {}
func (null) Reset()                                                   {}

// The areas are as big as §2.7 says, aligned, disjoint, and every entry that the
// driver writes is inside its area.
func TestQueueLayout(t *testing.T) {
	for size := uint16(1); size <= 256; size *= 2 {
		d := New(t, null{})
		d.Negotiate(0)
		q := d.SetupQueue(0, size)
		n := uint64(size)
		areas := []struct {
			name             string
			start, size, mod uint64
		}{
			{"descriptor table", q.Desc, 16 * n, 16},
			{"available ring", q.Avail, 4 + 2*n + 2, 2},
			{"used ring", q.Used, 4 + 8*n + 2, 4},
		}
		for i, a := range areas {
			if a.start%a.mod != 0 || !d.Mem.Contains(a.start, a.size) {
				t.Errorf("size %d: %s at %#x: not aligned to %d or not in RAM", size, a.name, a.start, a.mod)
			}
			for _, b := range areas[i+1:] {
				if a.start < b.start+b.size && b.start < a.start+a.size {
					t.Errorf("size %d: %s overlaps %s", size, a.name, b.name)
				}
			}
		}
		// Fill everything: no canary may change.
		for i := range size {
			q.SetDesc(i, Desc{^uint64(0), ^uint32(0), 0xffff, 0xffff})
			q.SetAvail(i, 0xffff)
		}
		q.SetAvailIdx(0xffff)
		q.SetUsedEvent(0xffff)
		q.CheckCanaries()
		for _, b := range d.Bytes(q.Desc, int(16*n)) {
			if b != 0xff {
				t.Fatalf("size %d: a byte of the descriptor table was not written", size)
			}
		}
		avail := d.Bytes(q.Avail, int(6+2*n))
		for i, b := range avail[2:] {
			if b != 0xff {
				t.Fatalf("size %d: byte %d of the available ring was not written", size, i+2)
			}
		}
	}
}

// A hand-written picture of a two-buffer chain in memory.
func TestPostWritesTheSpecifiedBytes(t *testing.T) {
	d := New(t, null{})
	d.Negotiate(0)
	q := d.SetupQueue(0, 4)
	head := q.Post(Out(0x1122334455667788, 0x0a0b0c0d), In(0x99, 0x10))
	if head != 0 {
		t.Fatalf("Post() = %d, want 0", head)
	}
	want := []byte{
		0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x0d, 0x0c, 0x0b, 0x0a, 1, 0, 1, 0,
		0x99, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0, 0, 0,
	}
	if got := d.Bytes(q.Desc, 32); string(got) != string(want) {
		t.Errorf("descriptors\n%x, want\n%x", got, want)
	}
	if got := d.Bytes(q.Avail, 6); string(got) != "\x00\x00\x01\x00\x00\x00" {
		t.Errorf("available ring %x, want flags 0, idx 1, ring[0] = 0", got)
	}
}

func TestCollectFreesDescriptors(t *testing.T) {
	d := New(t, null{})
	d.Negotiate(0)
	q := d.SetupQueue(0, 4)
	head := q.Post(Out(0x20000, 1), In(0x20000, 8))
	if q.Free() != 2 {
		t.Fatalf("Free() = %d after a chain of 2 in 4, want 2", q.Free())
	}
	if _, ok := q.Collect(); ok {
		t.Fatal("Collect() found a used chain in an empty ring")
	}
	d.Put(q.Used+4, []byte{byte(head), 0, 0, 0, 5, 0, 0, 0})
	d.Put(q.Used+2, []byte{1, 0})
	if u, ok := q.Collect(); !ok || u != (Used{Head: head, Len: 5}) {
		t.Errorf("Collect() = %v, %v, want head %d with 5 bytes", u, ok, head)
	}
	if q.Free() != 4 {
		t.Errorf("Free() = %d after Collect, want 4", q.Free())
	}
}
