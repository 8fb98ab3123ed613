package virtio_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// C11, §2.7.4.1: the same bytes arrive, however the driver cut them up.
func TestChainReadsTheSameBytesInEveryFraming(t *testing.T) {
	d, _, dq, q := start(t, 0, 256)
	msg := pattern(144) // a 44-byte header and 100 bytes
	src := d.Alloc(len(msg), 8)
	d.Put(src, msg)
	cut := func(pieces int, n int) (bufs []virtiotest.Buf) {
		at := 0
		for i := range pieces {
			end := n * (i + 1) / pieces
			bufs = append(bufs, virtiotest.Out(src+uint64(at), end-at))
			at = end
		}
		return bufs
	}
	check := func(name string, bufs []virtiotest.Buf) {
		t.Helper()
		dq.Post(bufs...)
		c := pop(t, q)
		if c.ReadableLen() != len(msg) || c.WritableLen() != 0 {
			t.Fatalf("%s: %d readable, %d writable, want %d and 0", name, c.ReadableLen(), c.WritableLen(), len(msg))
		}
		hdr, body := make([]byte, 44), make([]byte, 100)
		if n, err := c.ReadAt(hdr, 0); n != 44 || err != nil {
			t.Fatalf("%s: header: %d, %v", name, n, err)
		}
		if n, err := c.ReadAt(body, 44); n != 100 || err != nil {
			t.Fatalf("%s: body: %d, %v", name, n, err)
		}
		if got := append(hdr, body...); !bytes.Equal(got, msg) {
			t.Fatalf("%s: got %x, want %x", name, got, msg)
		}
		if n, err := c.ReadAt(make([]byte, 101), 44); n != 100 || err != io.EOF {
			t.Fatalf("%s: read over the end: %d, %v, want 100, EOF", name, n, err)
		}
		var seg []byte
		for _, s := range c.AppendReadable(nil, 40, 1000) {
			seg = append(seg, s...)
		}
		if !bytes.Equal(seg, msg[40:]) {
			t.Fatalf("%s: AppendReadable(40) gives %x", name, seg)
		}
		if err := q.AddUsed(c.Head(), 0); err != nil {
			t.Fatal(err)
		}
		dq.Collect()
	}
	for k := 1; k <= 144; k++ {
		check("whole message in pieces", cut(k, 144))
	}
	for k := 1; k <= 44; k++ {
		bufs := cut(k, 44)
		bufs = append(bufs, virtiotest.Out(src+44, 0)) // an empty buffer between
		bufs = append(bufs, virtiotest.Out(src+44, 100))
		check("header in pieces", bufs)
	}
}

func TestChainWritesTheSameBytesInEveryFraming(t *testing.T) {
	d, _, dq, q := start(t, 0, 256)
	msg := pattern(144)
	for k := 1; k <= 144; k++ {
		mark := d.Mark()
		dst := d.Alloc(len(msg), 8)
		var bufs []virtiotest.Buf
		at := 0
		for i := range k {
			end := len(msg) * (i + 1) / k
			bufs = append(bufs, virtiotest.In(dst+uint64(at), end-at))
			at = end
		}
		dq.Post(bufs...)
		c := pop(t, q)
		if n, err := c.WriteAt(msg[44:], 44); n != 100 || err != nil { // payload before header
			t.Fatalf("%d pieces: %d, %v", k, n, err)
		}
		if n, err := c.WriteAt(msg[:44], 0); n != 44 || err != nil {
			t.Fatalf("%d pieces: %d, %v", k, n, err)
		}
		if n, err := c.WriteAt(make([]byte, 5), 143); n != 1 || err != io.ErrShortWrite {
			t.Fatalf("%d pieces: write over the end: %d, %v, want 1, ErrShortWrite", k, n, err)
		}
		if _, err := c.WriteAt(msg[143:], 143); err != nil {
			t.Fatal(err)
		}
		if err := q.AddUsed(c.Head(), 144); err != nil {
			t.Fatal(err)
		}
		if u, ok := dq.Collect(); !ok || u.Len != 144 {
			t.Fatalf("%d pieces: used %v, %v, want 144 bytes", k, u, ok)
		}
		if got := d.Bytes(dst, 144); !bytes.Equal(got, msg) {
			t.Fatalf("%d pieces: guest has %x, want %x", k, got, msg)
		}
		d.Release(mark)
	}
}

// C3, §2.7.5.1: the readable and the writable part are never confused.
func TestChainPartsAreSeparate(t *testing.T) {
	d, _, dq, q := start(t, 0, 8)
	out, in := d.AllocPut(pattern(16)), d.Alloc(16, 8)
	dq.Post(out, virtiotest.In(in, 16))
	c := pop(t, q)
	if _, err := c.WriteAt(bytes.Repeat([]byte{0xee}, 16), 0); err != nil {
		t.Fatal(err)
	}
	if got := d.Bytes(out.GPA, 16); !bytes.Equal(got, pattern(16)) {
		t.Errorf("the readable buffer became %x", got)
	}
	if n, err := c.ReadAt(make([]byte, 32), 0); n != 16 || err != io.EOF {
		t.Errorf("ReadAt of 32 bytes = %d, %v, want the 16 readable ones and EOF", n, err)
	}
	if _, err := c.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("ReadAt(-1) succeeded")
	}
	if _, err := c.WriteAt(make([]byte, 1), -1); err == nil {
		t.Error("WriteAt(-1) succeeded")
	}
}

// C25: empty buffers and the very edges of RAM are fine.
func TestChainAcceptsEmptyBuffersAtTheEdges(t *testing.T) {
	_, _, dq, q := start(t, 0, 256)
	dq.Post(virtiotest.Out(0x10000, 1), virtiotest.Out(0, 0), virtiotest.In(ramEnd-1, 1), virtiotest.In(^uint64(0), 0))
	if c := pop(t, q); c.ReadableLen() != 1 || c.WritableLen() != 1 {
		t.Errorf("%d readable, %d writable, want 1 and 1", c.ReadableLen(), c.WritableLen())
	}
	var empty []virtiotest.Buf
	for range dq.Free() {
		empty = append(empty, virtiotest.Out(0, 0))
	}
	dq.Post(empty...)
	if c := pop(t, q); c.ReadableLen() != 0 {
		t.Errorf("a chain of %d empty buffers has %d readable bytes", len(empty), c.ReadableLen())
	}
}

// C8, §2.7.5.3.2: direct descriptors, then one indirect; WRITE on the referring
// descriptor is ignored. The table may lie at any address.
func TestIndirectTableAfterDirectDescriptors(t *testing.T) {
	d, _, dq, q := start(t, indFeat, 8)
	msg := d.AllocPut(pattern(12))
	in := d.Alloc(8, 8)
	tab := append(virtiotest.EncodeDesc(virtiotest.Desc{Addr: msg.GPA + 4, Len: 8, Flags: next, Next: 1}),
		virtiotest.EncodeDesc(virtiotest.Desc{Addr: in, Len: 8, Flags: write})...)
	at := d.Alloc(64, 8) + 3
	d.Put(at, tab)
	dq.SetDesc(5, virtiotest.Desc{Addr: msg.GPA, Len: 4, Flags: next, Next: 2})
	dq.SetDesc(2, virtiotest.Desc{Addr: at, Len: 32, Flags: indir | write})
	dq.SetAvail(0, 5)
	dq.SetAvailIdx(1)
	c := pop(t, q)
	got := make([]byte, 12)
	if n, err := c.ReadAt(got, 0); n != 12 || err != nil || !bytes.Equal(got, pattern(12)) {
		t.Errorf("ReadAt = %x, %d, %v", got, n, err)
	}
	if c.Head() != 5 || c.WritableLen() != 8 {
		t.Errorf("head %d, %d writable, want 5 and 8", c.Head(), c.WritableLen())
	}
}

// C13: the 16-bit indices wrap.
func TestIndicesWrap(t *testing.T) {
	for _, size := range []uint16{1, 2, 256} {
		for _, feat := range []uint64{0, virtio.FeatureRingEventIdx} {
			d, _, dq, q := start(t, feat, size)
			buf := d.Alloc(4, 8)
			const total = 200_000
			for done := 0; done < total; {
				posted := 0
				for dq.Free() > 0 {
					dq.Post(virtiotest.In(buf, 4))
					posted++
				}
				for range posted {
					c := pop(t, q)
					if _, err := c.WriteAt([]byte{1, 2, 3, 4}, 0); err != nil {
						t.Fatal(err)
					}
					if err := q.AddUsed(c.Head(), 4); err != nil {
						t.Fatal(err)
					}
				}
				if _, ok, err := q.Pop(); ok || err != nil {
					t.Fatalf("Pop on an empty ring = %v, %v", ok, err)
				}
				for range posted {
					if u, ok := dq.Collect(); !ok || u.Len != 4 {
						t.Fatalf("after %d: Collect() = %v, %v", done, u, ok)
					}
				}
				done += posted
			}
			dq.CheckCanaries()
		}
	}
}

// C16, §2.7.8.2: the driver is never told of bytes that were not written.
func TestUsedLengthCoversOnlyWrittenBytes(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes [][2]int // offset, length
		claim  uint32
		want   uint32
	}{
		{"nothing written", nil, 100, 0},
		{"claims more", [][2]int{{0, 10}}, 100, 10},
		{"claims less", [][2]int{{0, 10}}, 4, 4},
		{"a gap at the start", [][2]int{{1, 99}}, 100, 0},
		{"a gap in the middle", [][2]int{{0, 10}, {11, 89}}, 100, 10},
		{"payload, then header", [][2]int{{44, 56}, {0, 44}}, 100, 100},
		{"overlapping", [][2]int{{0, 10}, {5, 20}, {3, 4}}, 100, 25},
		{"payload in pieces, then header", [][2]int{{44, 10}, {54, 46}, {0, 44}}, 100, 100},
		{"claims 4 GiB", [][2]int{{0, 100}}, 0xffffffff, 100},
	} {
		d, _, dq, q := start(t, 0, 8)
		dq.Post(virtiotest.In(d.Alloc(100, 8), 100))
		ch := pop(t, q)
		for _, w := range c.writes {
			if _, err := ch.WriteAt(make([]byte, w[1]), w[0]); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.AddUsed(ch.Head(), c.claim); err != nil {
			t.Fatal(err)
		}
		if u, _ := dq.Collect(); u.Len != c.want {
			t.Errorf("%s: used.len = %d, want %d", c.name, u.Len, c.want)
		}
	}
}

func TestMarkWrittenCountsZeroCopyWrites(t *testing.T) {
	d, _, dq, q := start(t, 0, 8)
	a, b := d.Alloc(10, 8), d.Alloc(10, 8)
	dq.Post(virtiotest.In(a, 10), virtiotest.In(b, 10))
	c := pop(t, q)
	segs := c.AppendWritable(nil, 4, 12)
	if len(segs) != 2 || len(segs[0]) != 6 || len(segs[1]) != 6 || cap(segs[0]) != 6 {
		t.Fatalf("AppendWritable(4, 12) = %d segments %v", len(segs), segs)
	}
	copy(segs[0], "abcdef")
	copy(segs[1], "ghijkl")
	c.MarkWritten(4, 12)
	if _, err := c.WriteAt([]byte("HEAD"), 0); err != nil {
		t.Fatal(err)
	}
	c.MarkWritten(16, 1000) // more than there is
	if err := q.AddUsed(c.Head(), 1000); err != nil {
		t.Fatal(err)
	}
	if u, _ := dq.Collect(); u.Len != 20 {
		t.Errorf("used.len = %d, want 20", u.Len)
	}
	if got := string(d.Bytes(a, 10)) + string(d.Bytes(b, 6)); got != "HEADabcdefghijkl" {
		t.Errorf("guest has %q", got)
	}
}

// C17, §2.7.8: a head comes back at most once, also when the device errs.
func TestHeadIsReturnedAtMostOnce(t *testing.T) {
	d, _, dq, q := start(t, 0, 8)
	buf := d.Alloc(4, 8)
	dq.Post(virtiotest.In(buf, 4))
	c := pop(t, q)
	if err := q.AddUsed(c.Head(), 0); err != nil {
		t.Fatal(err)
	}
	for _, head := range []uint16{c.Head(), 7, 8, 0xffff} {
		if err := q.AddUsed(head, 0); !errors.Is(err, virtio.ErrNotInFlight) {
			t.Errorf("AddUsed(%d) again = %v, want ErrNotInFlight", head, err)
		}
	}
	if dq.UsedIdx() != 1 {
		t.Errorf("used.idx = %d, want 1", dq.UsedIdx())
	}
	if _, err := c.WriteAt([]byte{1}, 0); !errors.Is(err, virtio.ErrNotInFlight) {
		t.Errorf("WriteAt after return: %v, want ErrNotInFlight", err)
	}
	if n, err := c.ReadAt([]byte{1}, 0); n != 0 || !errors.Is(err, virtio.ErrNotInFlight) {
		t.Errorf("ReadAt after return: %d, %v, want ErrNotInFlight", n, err)
	}
	if s := c.AppendWritable(nil, 0, 4); s != nil {
		t.Error("AppendWritable after return gave guest memory")
	}
}

func TestHeadOfferedTwiceBreaksTheQueue(t *testing.T) {
	_, _, dq, q := start(t, 0, 8)
	dq.SetDesc(3, virtiotest.Desc{Addr: ok, Len: 4})
	dq.SetAvail(0, 3)
	dq.SetAvail(1, 3)
	dq.SetAvailIdx(2)
	pop(t, q)
	if _, _, err := q.Pop(); !errors.Is(err, virtio.ErrBroken) {
		t.Errorf("Pop of a head in flight = %v, want ErrBroken", err)
	}
}

func TestUnpopGivesTheSameChainAgain(t *testing.T) {
	d, _, dq, q := start(t, 0, 8)
	buf := d.Alloc(4, 8)
	h1 := dq.Post(virtiotest.In(buf, 4))
	h2 := dq.Post(virtiotest.In(buf, 4))
	c1 := pop(t, q)
	if err := q.Unpop(c1); err != nil || !q.Available() {
		t.Fatalf("Unpop = %v, available %v", err, q.Available())
	}
	if err := q.Unpop(c1); !errors.Is(err, virtio.ErrNotInFlight) {
		t.Errorf("Unpop twice = %v, want ErrNotInFlight", err)
	}
	c1 = pop(t, q)
	c2 := pop(t, q)
	if c1.Head() != h1 || c2.Head() != h2 {
		t.Fatalf("heads %d, %d, want %d, %d", c1.Head(), c2.Head(), h1, h2)
	}
	if err := q.Unpop(c1); !errors.Is(err, virtio.ErrNotInFlight) {
		t.Errorf("Unpop of an older chain = %v, want ErrNotInFlight", err)
	}
}

func TestStagedChainsAppearTogether(t *testing.T) {
	d, _, dq, q := start(t, 0, 8)
	buf := d.Alloc(4, 8)
	for range 3 {
		dq.Post(virtiotest.In(buf, 4))
	}
	for range 3 {
		if err := q.StageUsed(pop(t, q).Head(), 0); err != nil {
			t.Fatal(err)
		}
		if dq.UsedIdx() != 0 {
			t.Fatal("a staged chain is visible")
		}
	}
	if q.NeedInterrupt() {
		t.Error("an interrupt is wanted before anything was published")
	}
	q.PublishUsed()
	if dq.UsedIdx() != 3 || !q.NeedInterrupt() || q.NeedInterrupt() {
		t.Errorf("used.idx = %d; want 3 and one interrupt", dq.UsedIdx())
	}
}

// C26: buffers that alias the rings, each other or the descriptor are safe.
func TestBuffersMayAliasTheRings(t *testing.T) {
	d, _, dq, q := start(t, 0, 8)
	n := int(dq.Used + 70 - dq.Desc)
	dq.Post(virtiotest.Out(dq.Desc, n), virtiotest.In(dq.Desc, n), virtiotest.In(dq.Desc, n))
	c := pop(t, q)
	head := c.Head()
	junk := bytes.Repeat([]byte{0xff}, 2*n)
	if w, err := c.WriteAt(junk, 0); w != 2*n || err != nil {
		t.Fatalf("WriteAt = %d, %v", w, err)
	}
	if err := q.AddUsed(head, uint32(2*n)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := q.Pop(); !errors.Is(err, virtio.ErrBroken) { // avail.idx is 0xffff now
		t.Errorf("Pop after the rings were overwritten = %v, want ErrBroken", err)
	}
	if s := d.Status(); s&virtio.StatusNeedsReset == 0 {
		t.Errorf("Status = %#x", s)
	}
}
