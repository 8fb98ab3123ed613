//go:build unix

package vsock_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/devices/vsock/vsocktest"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

func TestSpec_D33_TransportReset(t *testing.T) { // §5.10.6.7
	d, p, c := connected(t, vsock.Config{})
	d.TransportReset()
	wantReadError(t, c, vsock.ErrReset)
	if !d.State().EventOwed {
		t.Error("the event is not waiting for a buffer")
	}
	p.Connect(guestPort+1, hostPort) // rx is not gated by the event
	ev := p.Drv.Queue(vsocktest.Event)
	var bufs []uint64
	for range 3 {
		gpa := p.Drv.Alloc(8, 8)
		p.Drv.Put(gpa, []byte{1, 2, 3, 4, 5, 6, 7, 8})
		ev.Post(virtiotest.In(gpa, 8))
		bufs = append(bufs, gpa)
	}
	ev.Kick()
	if u := ev.WaitUsed(); u.Len != 4 {
		t.Errorf("event buffer used with %d bytes, want 4", u.Len)
	}
	if got := p.Drv.Bytes(bufs[0], 8); !bytes.Equal(got, []byte{0, 0, 0, 0, 5, 6, 7, 8}) {
		t.Errorf("event %x, want id 0 and the rest untouched", got)
	}
	p.Quiet()
	ev.Notify()
	p.Quiet()
	if u, ok := ev.Collect(); ok {
		t.Errorf("event delivered twice: %+v", u)
	}
	d.TransportReset() // a buffer is there: at once
	ev.WaitUsed()
	// A reset by the driver needs no event.
	d.TransportReset()
	ev.WaitUsed()
	d.TransportReset()
	p.Restart(vsocktest.Options{})
	if d.State().EventOwed {
		t.Error("an event outlived the reset")
	}
}

func TestSpec_D34_ShortRxBuffersBreakTheDevice(t *testing.T) { // §5.10.6.4; CVE-2019-3900
	for _, size := range []int{1, 43} {
		d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{RxBuffers: -1})
		p.PostRx(size)
		p.PostRx(4096)
		p.Send(vsocktest.Header(vsock.OpRW, 1, 1), nil)
		wantBroken(t, d, p)
		kicks := d.Stats().Kicks
		for range 1000 {
			p.Drv.Queue(vsocktest.Rx).Notify()
		}
		if got := d.Stats().Kicks; got > kicks+1 {
			t.Errorf("a broken device ran %d passes", got-kicks)
		}
		p.Restart(vsocktest.Options{})
		p.Connect(guestPort, hostPort)
	}
	// Exactly a header: good for control packets; data waits for a larger one.
	d, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{RxBuffers: -1})
	p.PostRx(44)
	p.PostRx(44)
	p.PostRx(45)
	p.Send(header(vsock.OpRequest), nil)
	p.Expect(vsock.OpResponse, guestPort, hostPort)
	c := accept(t, l)
	if _, err := c.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	for {
		pk := p.Recv() // reposts 4096 bytes each
		if pk.Op == vsock.OpRW {
			if string(pk.Payload) != "a" && string(pk.Payload) != "ab" {
				t.Errorf("payload %q", pk.Payload)
			}
			break
		}
		if pk.Op != vsock.OpCreditUpdate {
			t.Errorf("unexpected %v", &pk.Header)
		}
	}
	if d.Err() != nil {
		t.Error(d.Err())
	}
}

func TestSpec_D35_UsedLengthIsHeaderPlusPayload(t *testing.T) { // §5.10.6.4
	_, p, c := connected(t, vsock.Config{})
	data := random(1, 4096-vsock.HeaderSize)
	sent := uint32(0)
	for n := 1; n <= len(data); n++ {
		if _, err := c.Write(data[:n]); err != nil {
			t.Fatal(err)
		}
		pk := p.Expect(vsock.OpRW, guestPort, hostPort)
		if pk.UsedLen != uint32(44+n) || !bytes.Equal(pk.Payload, data[:n]) {
			t.Fatalf("size %d: used length %d, payload of %d bytes", n, pk.UsedLen, len(pk.Payload))
		}
		sent += uint32(n)
		if n%20 == 0 {
			h := header(vsock.OpCreditUpdate)
			h.FwdCnt = sent
			p.Send(h, nil)
			p.Quiet()
		}
	}
}

func TestSpec_D36_PacketsOverManyDescriptors(t *testing.T) { // §2.7.4.1; libkrun issue 535
	_, p, c := connected(t, vsock.Config{})
	want := random(2, 300)
	for cut := 1; cut <= vsock.HeaderSize+4; cut++ { // the header ends at any byte
		p.Send(header(vsock.OpRW), want, cut)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("cut after %d bytes: payload differs, %v", cut, err)
		}
	}
	pieces := make([]int, vsock.HeaderSize) // the header byte by byte
	for i := range pieces {
		pieces[i] = 1
	}
	p.Send(header(vsock.OpRW), want, pieces...)
	mustRead(t, c, string(want))
	big := random(3, vsock.MaxPayload) // one packet in 200 descriptors
	pieces = pieces[:0]
	for i := range 200 {
		pieces = append(pieces, 100+i)
	}
	p.Send(header(vsock.OpRW), big, pieces...)
	got := make([]byte, len(big))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("200 descriptors: payload differs, %v", err)
	}
}

func TestTxChainShorterThanAHeaderIsReturned(t *testing.T) { // reliability row 14: nothing leaks
	d, p, c := connected(t, vsock.Config{})
	for n := range vsock.HeaderSize {
		p.Post(make([]byte, max(n, 1)))
		if n%8 == 0 {
			p.Send(header(vsock.OpRW), []byte("ok"))
			mustRead(t, c, "ok")
		}
	}
	p.Quiet()
	tx := p.Drv.Queue(vsocktest.Tx)
	for tx.Free() < int(tx.Size) {
		tx.WaitUsed()
	}
	if got := d.Stats().Malformed; got != vsock.HeaderSize {
		t.Errorf("Malformed = %d, want %d", got, vsock.HeaderSize)
	}
}

func TestHeaderIsFetchedOnce(t *testing.T) { // reliability row 2: length flipped while in use
	_, p, c := connected(t, vsock.Config{})
	stop, done := make(chan struct{}), make(chan struct{})
	raw := make([]byte, vsock.HeaderSize)
	h := header(vsock.OpRW)
	h.Len = 8
	h.Encode(raw)
	buf := p.Drv.AllocPut(append(raw, "payload!"...))
	go func() {
		defer close(done)
		for v := uint32(0); ; v += 0x10007 {
			select {
			case <-stop:
				return
			default:
				_ = p.Drv.Mem.StoreUint32(buf.GPA+24, v) // len
			}
		}
	}()
	tx := p.Drv.Queue(vsocktest.Tx)
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		tx.Post(buf)
		tx.Kick()
		tx.WaitUsed()
		for {
			if _, ok := p.TryRecv(); !ok {
				break
			}
		}
		_ = c.SetReadDeadline(time.Now())
		_, _ = io.Copy(io.Discard, c)
	}
	close(stop)
	<-done
	if s := p.Dev.Stats(); s.Faults != 0 || p.Dev.Err() != nil {
		t.Errorf("stats %+v, error %v", s, p.Dev.Err())
	}
}
