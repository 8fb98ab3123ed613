package virtio_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// modelChain is what §2.7.5 makes of a chain, written from the text and without
// regard to the code: the readable and writable bytes, or not well-formed.
func modelChain(mem *virtio.Memory, direct, indirect []virtiotest.Desc, head int, negotiated bool) (r, w uint64, good bool) {
	if head >= len(direct) {
		return 0, 0, false
	}
	table, i := direct, head
	entered := false
	for seen := 0; ; {
		d := table[i]
		if d.Flags&indir != 0 {
			n := int(d.Len) / 16
			if entered || !negotiated || d.Flags&next != 0 || d.Len == 0 || d.Len%16 != 0 || n > len(direct) || !mem.Contains(d.Addr, uint64(d.Len)) {
				return 0, 0, false
			}
			entered, table, i = true, indirect[:n], 0
			continue
		}
		if seen++; seen > len(direct) {
			return 0, 0, false
		}
		if d.Len > 0 && !mem.Contains(d.Addr, uint64(d.Len)) {
			return 0, 0, false
		}
		if d.Flags&write != 0 {
			w += uint64(d.Len)
			// Anything readable that follows is an error, also an empty buffer.
			if d.Flags&next != 0 && int(d.Next) < len(table) && table[d.Next].Flags&(write|indir) == 0 {
				return 0, 0, false
			}
			if d.Flags&next != 0 && int(d.Next) < len(table) && table[d.Next].Flags&indir != 0 &&
				!entered && len(indirect) > 0 && indirect[0].Flags&(write|indir) == 0 {
				return 0, 0, false
			}
		} else {
			r += uint64(d.Len)
		}
		if d.Flags&next == 0 {
			return r, w, true
		}
		if i = int(d.Next); i >= len(table) {
			return 0, 0, false
		}
	}
}

// C4, C6, C7, C9, C10, C14, C25: every pair of descriptors from a small set of
// fields, every head, with and without INDIRECT, against the model.
func TestEverySmallChain(t *testing.T) {
	const desc, avail, used, tab = 0x10000, 0x10100, 0x10200, 0x10300
	mem := virtiotest.Memory(t, 0x10000, 0x2000)
	indirect := []virtiotest.Desc{dsc(0x11000, 5, next, 1), dsc(0x11000, 7, write, 0)}
	var set []virtiotest.Desc
	for flags := range uint16(8) {
		for nxt := range uint16(3) {
			for _, b := range []struct {
				addr uint64
				n    uint32
			}{{tab, 32}, {tab, 17}, {tab, 0}, {0x12000 - 16, 16}, {0x12000 - 16, 17}, {^uint64(0) - 15, 48}} {
				set = append(set, dsc(b.addr, b.n, flags, nxt))
			}
		}
	}
	p := newProbe(2)
	d := virtiotest.NewWithMemory(t, p, mem, 0x11000)
	d.Put(tab, append(virtiotest.EncodeDesc(indirect[0]), virtiotest.EncodeDesc(indirect[1])...))
	// The table at the end of RAM, where the 16-byte one lies.
	last := []virtiotest.Desc{dsc(0x11000, 3, 0, 0)}
	d.Put(0x12000-16, virtiotest.EncodeDesc(last[0]))
	good, bad := 0, 0
	for _, feat := range []uint64{0, indFeat} {
		for _, a := range set {
			for _, b := range set {
				direct := []virtiotest.Desc{a, b}
				d.Put(desc, append(virtiotest.EncodeDesc(a), virtiotest.EncodeDesc(b)...))
				for head := range 3 {
					d.Put(avail, []byte{0, 0, 1, 0, byte(head), 0})
					d.Negotiate(feat)
					d.ProgramQueue(0, 2, desc, avail, used)
					d.DriverOK()
					// Which table the chain refers to is part of the model's input.
					ind := indirect
					if refersTo(direct, head, 0x12000-16) {
						ind = last
					}
					r, w, want := modelChain(mem, direct, ind, head, feat != 0)
					c, got, err := p.queues[0].Pop()
					if got != want || (err == nil) != want || err != nil && !errors.Is(err, virtio.ErrBroken) {
						t.Fatalf("%+v head %d features %#x: Pop = %v, %v, want %v", direct, head, feat, got, err, want)
					}
					if !want {
						bad++
						continue
					}
					good++
					if uint64(c.ReadableLen()) != r || uint64(c.WritableLen()) != w {
						t.Fatalf("%+v head %d: %d and %d bytes, want %d and %d", direct, head, c.ReadableLen(), c.WritableLen(), r, w)
					}
				}
			}
		}
	}
	t.Logf("%d good and %d bad chains", good, bad)
	if good == 0 || bad == 0 {
		t.Error("one outcome never happened")
	}
}

// refersTo says whether the first indirect descriptor of the chain has addr.
func refersTo(direct []virtiotest.Desc, head int, addr uint64) bool {
	for i, n := head, 0; i < len(direct) && n < 3; n++ {
		d := direct[i]
		if d.Flags&indir != 0 {
			return d.Addr == addr
		}
		if d.Flags&next == 0 {
			return false
		}
		i = int(d.Next)
	}
	return false
}

// C2, §2.7.5.1: in good traffic, too, the driver's areas are never written.
func TestDriverAreasAreNeverWritten(t *testing.T) {
	for _, feat := range []uint64{0, virtio.FeatureRingEventIdx} {
		d, p, dq, q := start(t, feat, 8)
		buf := d.Alloc(64, 8)
		for i := range 100 {
			n := 1 + i%8
			for range n {
				dq.Post(virtiotest.In(buf, 64))
			}
			desc, avail := d.Bytes(dq.Desc, 128), d.Bytes(dq.Avail, 22)
			q.DisableNotifications()
			for range n {
				c := pop(t, q)
				_, _ = c.WriteAt(pattern(64), 0)
				if err := q.AddUsed(c.Head(), 64); err != nil {
					t.Fatal(err)
				}
			}
			p.irq.Used(q)
			q.EnableNotifications()
			if !bytes.Equal(desc, d.Bytes(dq.Desc, 128)) || !bytes.Equal(avail, d.Bytes(dq.Avail, 22)) {
				t.Fatalf("turn %d: the device wrote the descriptor table or the available ring", i)
			}
			for range n {
				dq.Collect()
			}
		}
	}
}
