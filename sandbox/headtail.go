package sandbox

import (
	"bytes"
	"sync"
)

// headTail keeps the first and the last bytes written to it, each up to half of its size.
type headTail struct {
	mu      sync.Mutex // a copy may still be inside Write when a command was given up
	half    int
	head    []byte
	tail    []byte // a ring of half bytes once full
	off     int    // where the ring's oldest byte stands
	dropped int64
}

func newHeadTail(size int) *headTail { return &headTail{half: size / 2} }

func (h *headTail) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(p)
	if room := h.half - len(h.head); room > 0 {
		k := min(room, len(p))
		h.head = append(h.head, p[:k]...)
		p = p[k:]
	}
	if over := len(p) - h.half; over > 0 {
		h.dropped += int64(over) // these would be overwritten below
		p = p[over:]
	}
	if room := h.half - len(h.tail); room > 0 {
		k := min(room, len(p))
		h.tail = append(h.tail, p[:k]...)
		p = p[k:]
	}
	h.dropped += int64(len(p))
	for len(p) > 0 {
		k := copy(h.tail[h.off:], p)
		p = p[k:]
		h.off = (h.off + k) % h.half
	}
	return n, nil
}

// Bytes returns what was kept, with a line between the halves that says how many bytes are missing there.
func (h *headTail) Bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b bytes.Buffer
	b.Write(h.head)
	if h.dropped > 0 {
		b.WriteString("\n... omitting " + itoa(h.dropped) + " bytes ...\n")
	}
	b.Write(h.tail[h.off:])
	b.Write(h.tail[:h.off])
	return b.Bytes()
}
