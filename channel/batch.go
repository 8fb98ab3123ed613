package channel

import (
	"encoding/binary"
	"io"
	"sync"
	"time"
)

// batchMax is how many bytes may wait for the flusher before Write blocks.
const batchMax = 256 << 10

// batchWriter coalesces yamux's writes. yamux writes each header and each body
// on its own; on a virtio transport every write is a packet and a wake-up of
// the other side. The flusher takes all that has gathered while the last write
// was under way, so an idle connection sees no delay and a busy one few writes.
//
// It knows where frames end, so that other frames can be put between them.
type batchWriter struct {
	w        io.Writer
	onHeader func(h frameHeader) // called under mu for each frame, may be nil

	mu      sync.Mutex
	cond    sync.Cond
	buf     []byte // gathered
	spare   []byte // the flusher's other buffer
	pending []byte // injected frames that wait for the end of a body
	body    int    // bytes of the current frame's body still to come
	writing bool
	err     error
	done    chan struct{} // closed when the flusher has ended
}

func newBatchWriter(w io.Writer, onHeader func(frameHeader)) *batchWriter {
	b := &batchWriter{w: w, onHeader: onHeader, done: make(chan struct{})}
	b.cond.L = &b.mu
	go b.flusher()
	return b
}

// Write takes a whole frame header, or (a part of) a frame's body.
func (b *batchWriter) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.buf) >= batchMax && b.err == nil {
		b.cond.Wait()
	}
	if b.err != nil {
		return 0, b.err
	}
	b.track(p)
	b.buf = append(b.buf, p...)
	if b.body == 0 && len(b.pending) > 0 {
		b.buf = append(b.buf, b.pending...)
		b.pending = nil
	}
	b.cond.Broadcast()
	return len(p), nil
}

// track keeps b.body right for a write of p.
func (b *batchWriter) track(p []byte) {
	if b.body > 0 {
		b.body -= min(b.body, len(p))
		return
	}
	if len(p) < frameHeaderSize {
		return // not from yamux; nothing to keep
	}
	h := parseHeader(p)
	if b.onHeader != nil {
		b.onHeader(h)
	}
	if h.Type == frameData {
		b.body = max(0, int(h.Length)-(len(p)-frameHeaderSize))
	}
}

// inject adds a frame without a body at the next frame boundary. It never
// blocks: there is at most one per stream.
func (b *batchWriter) inject(h frameHeader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return
	}
	if b.body > 0 {
		b.pending = h.append(b.pending)
		return
	}
	b.buf = h.append(b.buf)
	b.cond.Broadcast()
}

func (b *batchWriter) flusher() {
	defer close(b.done)
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for len(b.buf) == 0 && b.err == nil {
			b.cond.Wait()
		}
		if b.err != nil {
			return
		}
		out := b.buf
		b.buf, b.writing = b.spare[:0], true
		b.mu.Unlock()
		_, err := b.w.Write(out)
		b.mu.Lock()
		b.spare, b.writing = out, false
		if err != nil && b.err == nil {
			b.err = err
		}
		b.cond.Broadcast()
	}
}

// fail makes this and every later Write return err and ends the flusher.
func (b *batchWriter) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.cond.Broadcast()
}

// flush waits until all that was gathered is written, at most d.
func (b *batchWriter) flush(d time.Duration) {
	t := time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		d = 0
		b.cond.Broadcast()
	})
	defer t.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for d > 0 && b.err == nil && (len(b.buf) > 0 || b.writing) {
		b.cond.Wait()
	}
}

// frameHeader is a yamux frame header. Source: yamux spec.md, "Framing".
type frameHeader struct {
	Version uint8
	Type    uint8
	Flags   uint16
	Stream  uint32
	Length  uint32
}

// yamux constants. Source: yamux spec.md, "Type Field" and "Flag Field".
const (
	frameHeaderSize = 12

	frameData   = 0
	frameWindow = 1
	framePing   = 2
	frameGoAway = 3

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8

	// initialWindow is what each side may send on a new stream.
	initialWindow = 256 << 10
)

// parseHeader reads a header from at least frameHeaderSize bytes.
func parseHeader(p []byte) frameHeader {
	return frameHeader{
		Version: p[0],
		Type:    p[1],
		Flags:   binary.BigEndian.Uint16(p[2:]),
		Stream:  binary.BigEndian.Uint32(p[4:]),
		Length:  binary.BigEndian.Uint32(p[8:]),
	}
}

func (h frameHeader) append(b []byte) []byte {
	b = append(b, h.Version, h.Type)
	b = binary.BigEndian.AppendUint16(b, h.Flags)
	b = binary.BigEndian.AppendUint32(b, h.Stream)
	return binary.BigEndian.AppendUint32(b, h.Length)
}

// bodyLen is how many bytes follow the header.
func (h frameHeader) bodyLen() int {
	if h.Type == frameData {
		return int(h.Length)
	}
	return 0
}
