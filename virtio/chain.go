package virtio

import (
	"encoding/binary"
	"errors"
	"io"
)

// Chain is one descriptor chain taken from a Queue: a readable part (driver to
// device) followed by a writable part (device to driver), each a run of bytes
// whatever the descriptors look like. §2.7.4.1: "The device MUST NOT make
// assumptions about the particular arrangement of descriptors."
//
// The guest can change the bytes at any time: copy a header out once with
// ReadAt and use only the copy.
//
// Concurrency: safe for any number of goroutines. Valid from Pop until its head
// is returned.
type Chain struct {
	q        *Queue
	head     uint16
	inFlight bool
	segs     [][]byte // readable, then writable; none is empty
	nRead    int      // segs[:nRead] are readable
	readable uint64   // summed lengths
	writable uint64

	// written is how many bytes from the start of the writable part the device
	// wrote without a gap; pendLo..pendHi is one written stretch beyond it
	// (payload written before its header).
	written, pendLo, pendHi uint64
}

var errNegativeOffset = errors.New("virtio: negative offset into a chain")

// Head is the index of the first descriptor, which names the chain to AddUsed.
func (c *Chain) Head() uint16 { return c.head }

// ReadableLen is the number of bytes the device may read.
func (c *Chain) ReadableLen() int { return int(c.readable) }

// WritableLen is the number of bytes the device may write.
func (c *Chain) WritableLen() int { return int(c.writable) }

// ReadAt copies from the readable part at off into p.
// Errors: io.EOF if the part ends before p is full (n bytes were copied then);
// ErrNotInFlight; ErrStopped; *QueueError.
func (c *Chain) ReadAt(p []byte, off int) (n int, err error) {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if err := c.usableLocked(off); err != nil {
		return 0, err
	}
	for _, s := range c.segs[:c.nRead] {
		if off >= len(s) {
			off -= len(s)
			continue
		}
		n += copy(p[n:], s[off:])
		off = 0
		if n == len(p) {
			return n, nil
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt copies p into the writable part at off.
// Errors: io.ErrShortWrite if the part ends before p does (n bytes were copied
// then); ErrNotInFlight; ErrStopped; *QueueError.
func (c *Chain) WriteAt(p []byte, off int) (n int, err error) {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if err := c.usableLocked(off); err != nil {
		return 0, err
	}
	at := off
	for _, s := range c.segs[c.nRead:] {
		if at >= len(s) {
			at -= len(s)
			continue
		}
		n += copy(s[at:], p[n:])
		at = 0
		if n == len(p) {
			break
		}
	}
	c.markLocked(uint64(off), uint64(off)+uint64(n))
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// AppendReadable appends the guest memory behind n bytes of the readable part at
// off to dst, without copying: an iovec for payload. The slices are guest
// memory, which changes under the reader: never parse or check anything in them.
// They must not be used after Reset returned, nor once the head was returned.
// Fewer than n bytes come back if the part is shorter, none if the queue stopped.
func (c *Chain) AppendReadable(dst [][]byte, off, n int) [][]byte {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if c.usableLocked(off) != nil {
		return dst
	}
	return appendSegments(dst, c.segs[:c.nRead], off, n)
}

// AppendWritable is AppendReadable for the writable part. Tell MarkWritten how
// much of it was filled.
func (c *Chain) AppendWritable(dst [][]byte, off, n int) [][]byte {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if c.usableLocked(off) != nil {
		return dst
	}
	return appendSegments(dst, c.segs[c.nRead:], off, n)
}

// MarkWritten says that the device filled n bytes at off of the writable part
// through slices of AppendWritable. Bytes beyond the part are ignored.
func (c *Chain) MarkWritten(off, n int) {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if n <= 0 || c.usableLocked(off) != nil || uint64(off) >= c.writable {
		return
	}
	c.markLocked(uint64(off), min(uint64(off)+uint64(n), c.writable))
}

func (c *Chain) usableLocked(off int) error {
	switch {
	case c.q.state != nil:
		return c.q.state
	case !c.inFlight:
		return ErrNotInFlight
	case off < 0:
		return errNegativeOffset
	}
	return nil
}

// markLocked records that bytes lo..hi of the writable part were written. It
// keeps one stretch beyond the written prefix; a second one is forgotten, which
// makes used.len too small, never too large.
func (c *Chain) markLocked(lo, hi uint64) {
	switch {
	case lo >= hi:
		return
	case lo <= c.written:
		c.written = max(c.written, hi)
	case c.pendLo == c.pendHi:
		c.pendLo, c.pendHi = lo, hi
	case lo <= c.pendHi && hi >= c.pendLo:
		c.pendLo, c.pendHi = min(c.pendLo, lo), max(c.pendHi, hi)
	}
	if c.pendLo <= c.written {
		c.written = max(c.written, c.pendHi)
		c.pendLo, c.pendHi = 0, 0
	}
}

func appendSegments(dst, segs [][]byte, off, n int) [][]byte {
	for _, s := range segs {
		if n <= 0 {
			break
		}
		if off >= len(s) {
			off -= len(s)
			continue
		}
		s = s[off:min(len(s), off+min(n, len(s)-off))]
		off = 0
		n -= len(s)
		dst = append(dst, s[:len(s):len(s)])
	}
	return dst
}

// descriptor is a private copy of one descriptor, fetched once.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// loadDescriptor fetches an entry of the (16-byte aligned) descriptor table with
// two atomic loads.
func loadDescriptor(table []byte, i int) descriptor {
	w := load64(table, i*descSize+8)
	return descriptor{
		addr: load64(table, i*descSize),
		len:  uint32(w), flags: uint16(w >> 32), next: uint16(w >> 48),
	}
}

// copyDescriptor fetches an entry of an indirect table, which may lie at any
// address (§2.7.5.3 asks for no alignment).
func copyDescriptor(table []byte, i int) descriptor {
	var b [descSize]byte
	copy(b[:], table[i*descSize:])
	return descriptor{
		addr:  binary.LittleEndian.Uint64(b[0:8]),
		len:   binary.LittleEndian.Uint32(b[8:12]),
		flags: binary.LittleEndian.Uint16(b[12:14]),
		next:  binary.LittleEndian.Uint16(b[14:16]),
	}
}

// walk follows the chain from its head and fills in the buffers. It takes at
// most q.size+1 steps. A violation breaks the queue. Preconditions: q.mu held.
func (c *Chain) walk() error {
	q := c.q
	c.segs, c.nRead, c.readable, c.writable = c.segs[:0], 0, 0, 0
	var table []byte // the indirect table once it was entered
	entries := int(q.size)
	i := int(c.head)
	writable := false
	for steps := 0; ; steps++ {
		if steps == int(q.size) {
			return q.breakLocked("chain is longer than the queue size or loops, §2.7.5.2", uint64(c.head), nil)
		}
		var d descriptor
		if table != nil {
			d = copyDescriptor(table, i)
		} else {
			d = loadDescriptor(q.desc, i)
		}
		if d.flags&descIndirect != 0 {
			if table != nil {
				return q.breakLocked("indirect descriptor inside an indirect table, §2.7.5.3.1", uint64(i), nil)
			}
			t, err := q.enterIndirect(d)
			if err != nil {
				return err
			}
			table, entries, i = t, len(t)/descSize, 0
			steps-- // the referring descriptor is no buffer
			continue
		}
		isWrite := d.flags&descWrite != 0
		if writable && !isWrite {
			return q.breakLocked("readable buffer after a writable one, §2.7.4.2", uint64(i), nil)
		}
		writable = isWrite
		if err := c.addBuffer(d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		if i = int(d.next); i >= entries {
			return q.breakLocked("next index is beyond the descriptor table, §2.7.5", uint64(i), nil)
		}
	}
}

// enterIndirect checks the descriptor that refers to an indirect table
// (§2.7.5.3). Its WRITE flag is ignored, as §2.7.5.3.2 asks.
func (q *Queue) enterIndirect(d descriptor) ([]byte, error) {
	switch {
	case !q.indirect:
		return nil, q.breakLocked("indirect descriptor without negotiation, §2.7.5.3.1", uint64(d.flags), nil)
	case d.flags&descNext != 0:
		return nil, q.breakLocked("descriptor with both INDIRECT and NEXT, §2.7.5.3.1", uint64(d.flags), nil)
	case d.len == 0 || d.len%descSize != 0:
		return nil, q.breakLocked("indirect table length is no positive multiple of 16, §2.7.5.3", uint64(d.len), nil)
	case d.len/descSize > uint32(q.size):
		return nil, q.breakLocked("indirect table is longer than the queue size, §2.7.5.3.1", uint64(d.len), nil)
	}
	t, ok := q.mem.slice(d.addr, uint64(d.len))
	if !ok {
		err := &MemoryError{Op: "read", GPA: d.addr, Len: uint64(d.len), Err: ErrOutOfRange}
		return nil, q.breakLocked("indirect table outside guest RAM, §2.7.5.3", d.addr, err)
	}
	return t, nil
}

// addBuffer appends one checked buffer. Empty buffers count as nothing.
func (c *Chain) addBuffer(d descriptor) error {
	if d.len == 0 {
		return nil
	}
	n := uint64(d.len)
	if total := c.readable + c.writable + n; total > c.q.maxBytes {
		return c.q.breakLocked("chain has more bytes than the device accepts, §2.7.5.2", total, nil)
	}
	s, ok := c.q.mem.slice(d.addr, n)
	if !ok {
		err := &MemoryError{Op: "access", GPA: d.addr, Len: n, Err: ErrOutOfRange}
		return c.q.breakLocked("buffer outside guest RAM, §2.7.5", d.addr, err)
	}
	c.segs = append(c.segs, s)
	if d.flags&descWrite != 0 {
		c.writable += n
	} else {
		c.readable += n
		c.nRead = len(c.segs)
	}
	return nil
}
