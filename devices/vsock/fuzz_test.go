//go:build unix

package vsock

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// FuzzVsockPacket: the header codec is a bijection, and no single packet upsets
// a mux that has connections in every phase.
func FuzzVsockPacket(f *testing.F) {
	h := guestPacket(OpRW, 5, 1)
	h.Len = 3
	for op := range Op(10) {
		h.Op = op
		raw := make([]byte, HeaderSize)
		h.Encode(raw)
		f.Add(raw, 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, payload int) {
		if len(raw) < HeaderSize || payload < 0 {
			return
		}
		h := DecodeHeader(raw)
		again := make([]byte, HeaderSize)
		h.Encode(again)
		if !bytes.Equal(again, raw[:HeaderSize]) {
			t.Fatalf("%x decodes and encodes to %x", raw[:HeaderSize], again)
		}
		m, _ := testMux(t, Config{BufferSize: 8192})
		for port := uint32(1); port <= 5; port++ {
			m.packet(guestPacket(OpRequest, port, 1), 0)
		}
		drain(m)
		m.step(m.conns[key{1, 2}], event{kind: evClose})
		m.step(m.conns[key{1, 3}], event{kind: evCloseWrite})
		m.step(m.conns[key{1, 4}], event{kind: evAbort, reason: reasonClosed})
		if _, err := m.dial(6); err != nil {
			t.Fatal(err)
		}
		m.stats = Stats{}
		ep, n := m.packet(&h, payload)
		if n > 0 && (ep == nil || int(n) > payload || n > 8192 || h.Op != OpRW || n != h.Len) {
			t.Fatalf("%v with %d bytes: %d delivered", &h, payload, n)
		}
		if h.SrcCID != testCID && (n > 0 || m.replies.n > 0) {
			t.Fatalf("%v: a forged packet had an effect", &h)
		}
		if h.Op == OpRst && m.replies.n > 0 {
			t.Fatalf("%v: a RST was answered", &h)
		}
		for _, ep := range m.conns {
			if err := checkInvariants(&ep.st); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzVsockSequence runs a script of guest packets, ring operations and host
// calls against a device with its worker.
//
// Script: one byte of command, then its operands (missing ones are 0). Whatever
// it is: no panic, credit never exceeded, connections and replies bounded, and
// after a reset the device works.
func FuzzVsockSequence(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 5, 0, 0, 0, 5, 5, 100, 0, 3, 4, 2, 0, 4, 5, 0, 0, 5, 0, 6, 5, 0, 0})
	f.Add([]byte{0, 1, 5, 0, 0, 0, 1, 6, 0, 0, 0, 5, 5, 255, 0, 7, 3, 3, 1, 8, 2, 9})
	f.Add(bytes.Repeat([]byte{0, 5, 9, 1, 0}, 100))
	f.Add(bytes.Repeat([]byte{0, 1, 7, 0, 0, 0, 5, 7, 40, 0, 0, 3, 7, 0, 0}, 30))
	ram := virtiotest.RAM(f, 1<<20) // mapped: the race detector must not watch a guest's RAM
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 4096 {
			return
		}
		clear(ram)
		s := newFuzzGuest(t, ram)
		defer s.dev.Close()
		s.run(script)
		s.check()
		s.finish()
	})
}

const fuzzBuffer = 8192

type fuzzGuest struct {
	t      *testing.T
	dev    *Device
	drv    *virtiotest.Driver
	l      *Listener
	conns  []*Conn
	script []byte
	buf    uint64 // scratch for tx packets
	rx     uint64
}

func newFuzzGuest(t *testing.T, ram []byte) *fuzzGuest {
	dev, err := New(Config{GuestCID: testCID, BufferSize: fuzzBuffer, MaxConns: 4, ConnectTimeout: time.Millisecond, CloseTimeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := virtio.NewMemory(virtio.Region{GPA: 0x10000, Bytes: ram})
	if err != nil {
		t.Fatal(err)
	}
	l, err := dev.Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	s := &fuzzGuest{t: t, dev: dev, l: l.(*Listener), drv: virtiotest.NewWithMemory(t, dev, mem, 0x10000)}
	s.drv.Start(virtio.FeatureRingEventIdx | virtio.FeatureRingIndirectDesc)
	s.buf, s.rx = s.drv.Alloc(HeaderSize+70000, 8), s.drv.Alloc(4096, 8)
	return s
}

func (s *fuzzGuest) byte() byte {
	if len(s.script) == 0 {
		return 0
	}
	b := s.script[0]
	s.script = s.script[1:]
	return b
}

func (s *fuzzGuest) run(script []byte) {
	s.script = script
	rx, tx, ev := s.drv.Queue(queueRx), s.drv.Queue(queueTx), s.drv.Queue(queueEvent)
	for len(s.script) > 0 {
		for _, q := range []*virtiotest.Queue{rx, tx, ev} {
			for {
				if _, ok := q.Collect(); !ok {
					break
				}
			}
		}
		switch s.byte() % 12 {
		case 0: // a packet: op, guest port, length in units of 37, fwd_cnt
			h := guestPacket(Op(s.byte()%10), uint32(s.byte()%8), 1)
			h.Len = uint32(s.byte()) * 37
			h.FwdCnt = uint32(int8(s.byte()))
			h.Flags = uint32(h.FwdCnt & 3)
			s.packet(h, int(h.Len))
		case 1: // a wild header, and a chain that may be shorter
			h := guestPacket(Op(s.byte()), uint32(s.byte()%8), uint32(s.byte()%3))
			h.Type, h.Len = uint16(s.byte()%3), uint32(s.byte())<<(s.byte()%20)
			h.BufAlloc, h.DstCID = uint32(s.byte())<<(s.byte()%32), uint64(s.byte()%4)
			s.packet(h, int(s.byte())*64)
		case 2, 3: // an rx buffer
			if rx.Free() > 0 {
				rx.Post(virtiotest.In(s.rx, 44+int(s.byte())*15))
				rx.Kick()
			}
		case 4:
			if ev.Free() > 0 {
				ev.Post(virtiotest.In(s.rx, 4+int(s.byte()%4)))
				ev.Kick()
			}
		case 5:
			_ = s.l.SetDeadline(time.Now().Add(-1))
			if c, err := s.l.Accept(); err == nil {
				s.conns = append(s.conns, c.(*Conn))
			}
		case 6:
			s.host(func(c *Conn) { _, _ = c.Write(make([]byte, int(s.byte())*100)) })
		case 7:
			s.host(func(c *Conn) { _, _ = c.Read(make([]byte, int(s.byte())*100)) })
		case 8:
			s.host(func(c *Conn) { _ = c.CloseWrite() })
		case 9:
			s.host(func(c *Conn) { _ = c.Close() })
		case 10:
			s.wild(s.byte())
		case 11:
			ctx, cancel := context.WithTimeout(context.Background(), time.Microsecond)
			if c, err := s.dev.Dial(ctx, uint32(s.byte()%8)); err == nil {
				s.conns = append(s.conns, c.(*Conn))
			}
			cancel()
		}
	}
}

// packet posts a tx chain. All packets share one buffer: the guest rewrites
// packets that the device may be reading.
func (s *fuzzGuest) packet(h *Header, payload int) {
	tx := s.drv.Queue(queueTx)
	if tx.Free() < 2 {
		return
	}
	payload = min(payload, 70000)
	raw := make([]byte, HeaderSize)
	h.Encode(raw)
	s.drv.Put(s.buf, raw)
	cut := int(s.byte()) % (HeaderSize + 1)
	bufs := []virtiotest.Buf{virtiotest.Out(s.buf, cut), virtiotest.Out(s.buf+uint64(cut), HeaderSize-cut+payload)}
	if cut == 0 {
		bufs = bufs[1:]
	}
	tx.Post(bufs...)
	tx.Kick()
}

// host calls f on a connection, with deadlines that have passed already.
func (s *fuzzGuest) host(f func(*Conn)) {
	if len(s.conns) == 0 {
		return
	}
	c := s.conns[int(s.byte())%len(s.conns)]
	_ = c.SetDeadline(time.Now().Add(time.Duration(s.byte()) * time.Microsecond))
	f(c)
}

// wild does what no driver may.
func (s *fuzzGuest) wild(what byte) {
	q := s.drv.Queue(int(what) % queueCount)
	switch what / queueCount % 6 {
	case 0:
		s.drv.Write32(virtiotest.QueueNotify, uint32(s.byte()))
	case 1:
		q.SetDesc(uint16(s.byte())%q.Size, virtiotest.Desc{Addr: uint64(s.byte()) << (s.byte() % 64), Len: uint32(s.byte()) << (s.byte() % 32), Flags: uint16(s.byte() % 8), Next: uint16(s.byte())})
	case 2:
		s.dev.TransportReset()
	case 3:
		s.restart()
	default:
		q.Notify()
	}
}

func (s *fuzzGuest) restart() {
	mark := s.drv.Mark()
	if mark > 0x10000+900<<10 {
		return // out of guest RAM
	}
	s.drv.Reset()
	s.drv.Start(virtio.FeatureRingEventIdx)
}

func (s *fuzzGuest) check() {
	d := s.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mux.stats.Faults != 0 {
		s.t.Fatalf("the device panicked: %v", d.broken)
	}
	if len(d.mux.conns) > 4 || d.mux.replies.n > replyStoreSize {
		s.t.Fatalf("%d connections, %d replies", len(d.mux.conns), d.mux.replies.n)
	}
	for _, ep := range d.mux.conns {
		if err := checkInvariants(&ep.st); err != nil {
			s.t.Fatal(err)
		}
		if n := ep.rx.len(); n > fuzzBuffer {
			s.t.Fatalf("%d bytes in a buffer of %d", n, fuzzBuffer)
		}
	}
}

// finish proves that a reset makes the device good again.
func (s *fuzzGuest) finish() {
	s.drv.Reset()
	for _, c := range s.conns {
		_ = c.SetDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, c) // ends: the reset ended the connection
		c.Close()
	}
	s.drv.Release(0x10000)
	s.drv.Start(0)
	s.buf, s.rx = s.drv.Alloc(HeaderSize+70000, 8), s.drv.Alloc(4096, 8)
	s.script = nil
	rx := s.drv.Queue(queueRx)
	rx.Post(virtiotest.In(s.rx, 4096))
	rx.Kick()
	s.packet(guestPacket(OpRequest, 99, 1), 0)
	if u := rx.WaitUsed(); u.Len != HeaderSize {
		s.t.Fatalf("after a reset: used length %d", u.Len)
	}
	if h := DecodeHeader(s.drv.Bytes(s.rx, HeaderSize)); h.Op != OpResponse || binary.LittleEndian.Uint32(s.drv.Bytes(s.rx, 4)) != HostCID {
		s.t.Fatalf("after a reset: %v, want RESPONSE", &h)
	}
}
