//go:build unix

package vsock_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/devices/vsock/vsocktest"
)

func shutdown(flags uint32) vsock.Header {
	h := header(vsock.OpShutdown)
	h.Flags = flags
	return h
}

// dialed is a connection that the host opened to guestPort; the guest's header
// for it is in reply.
func dialed(t *testing.T, d *vsock.Device, p *vsocktest.Peer) (c *vsock.Conn, reply func(op vsock.Op) vsock.Header) {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	ch := make(chan result, 1)
	go func() {
		c, err := d.Dial(context.Background(), guestPort)
		ch <- result{c, err}
	}()
	req := p.Recv()
	if req.Op != vsock.OpRequest || req.DstPort != guestPort || req.SrcPort < 1<<30 {
		t.Fatalf("got %v, want a REQUEST to port %d", &req.Header, guestPort)
	}
	reply = func(op vsock.Op) vsock.Header { return vsocktest.Header(op, guestPort, req.SrcPort) }
	p.Send(reply(vsock.OpResponse), nil)
	r := <-ch
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.c.Close() })
	return r.c.(*vsock.Conn), reply
}

func TestSpec_D21_RequestIsAnsweredOrRefused(t *testing.T) { // §5.10.6.5
	d, l, p := newPeer(t, vsock.Config{MaxConns: 3, Backlog: 2}, vsocktest.Options{})
	p.Send(vsocktest.Header(vsock.OpRequest, 1, hostPort+1), nil) // nobody listens
	p.Expect(vsock.OpRst, 1, hostPort+1)
	p.Connect(1, hostPort)
	p.Connect(2, hostPort)
	p.Send(vsocktest.Header(vsock.OpRequest, 3, hostPort), nil) // backlog full
	p.Expect(vsock.OpRst, 3, hostPort)
	accept(t, l)
	p.Connect(4, hostPort)
	accept(t, l)
	p.Send(vsocktest.Header(vsock.OpRequest, 5, hostPort), nil) // three connections
	p.Expect(vsock.OpRst, 5, hostPort)
	if got := d.Stats().Refused; got != 3 {
		t.Errorf("Refused = %d, want 3", got)
	}
	if _, err := d.Dial(context.Background(), 9); !errors.Is(err, vsock.ErrTooManyConns) {
		t.Errorf("Dial: %v, want ErrTooManyConns", err)
	}
}

func TestSpec_D22_SecondRequestMakesNoSecondConnection(t *testing.T) { // §5.10.6.5
	d, p, c := connected(t, vsock.Config{})
	p.Send(header(vsock.OpRequest), nil)
	p.Expect(vsock.OpRst, guestPort, hostPort)
	wantReadError(t, c, vsock.ErrReset)
	p.Quiet()
	if n := len(d.State().Connections); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

func TestSpec_D23_ResponseWithoutRequestIsReset(t *testing.T) { // §5.10.6.5
	_, p, c := connected(t, vsock.Config{})
	p.Send(vsocktest.Header(vsock.OpResponse, 77, 78), nil)
	p.Expect(vsock.OpRst, 77, 78)
	p.Send(header(vsock.OpResponse), nil) // a connection that the guest itself opened
	p.Expect(vsock.OpRst, guestPort, hostPort)
	wantReadError(t, c, vsock.ErrReset)
}

func TestSpec_D24_UnknownConnections(t *testing.T) { // §5.10.6.5
	d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	for op := vsock.OpResponse; op <= vsock.OpCreditRequest; op++ {
		h := vsocktest.Header(op, 77, hostPort)
		h.Flags = 3
		p.Send(h, nil)
		if op != vsock.OpRst {
			p.Expect(vsock.OpRst, 77, hostPort)
		}
		p.Quiet()
	}
	if n := len(d.State().Connections); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

func TestSpec_D25_ShutdownBitsAreSticky(t *testing.T) { // §5.10.6.5
	for _, order := range [][]uint32{{1, 0, 2}, {2, 0, 1}, {3}, {1, 1, 2}, {0xfffffffc, 3}} {
		_, p, c := connected(t, vsock.Config{})
		for i, flags := range order {
			p.Send(shutdown(flags), nil)
			if i < len(order)-1 {
				p.Quiet()
			}
		}
		p.Expect(vsock.OpRst, guestPort, hostPort)
		wantReadError(t, c, io.EOF)
		wantWriteError(t, c, syscall.EPIPE)
	}
}

func TestSpec_D26_HalfClose(t *testing.T) { // §5.10.6.5
	t.Run("GuestReceivesNoMore", func(t *testing.T) {
		_, p, c := connected(t, vsock.Config{})
		p.Send(shutdown(vsock.ShutdownReceive), nil)
		p.Quiet()
		wantWriteError(t, c, syscall.EPIPE)
		wantWriteError(t, c, vsock.ErrBrokenPipe)
		p.Send(header(vsock.OpRW), []byte("still sending"))
		mustRead(t, c, "still sending")
	})
	t.Run("GuestReceivesNoMoreUnblocksWriter", func(t *testing.T) {
		d, p, c := connectedWith(t, vsock.Config{}, 1000, vsocktest.Options{})
		done := make(chan error, 1)
		go func() {
			n, err := c.Write(make([]byte, 10000))
			if n != 1000 {
				t.Errorf("Write = %d, want the 1000 bytes that were sent", n)
			}
			done <- err
		}()
		vsocktest.WaitFor(t, "the writer stalls", func() bool { return d.State().Connections[0].Unsent > 0 })
		p.Send(shutdown(vsock.ShutdownReceive), nil)
		if err := <-done; !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write: %v, want EPIPE", err)
		}
	})
	t.Run("GuestSendsNoMore", func(t *testing.T) {
		_, p, c := connected(t, vsock.Config{})
		p.Send(header(vsock.OpRW), []byte("last words"))
		p.Send(shutdown(vsock.ShutdownSend), nil)
		got, err := io.ReadAll(c)
		if string(got) != "last words" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		wantReadError(t, c, io.EOF)
		if _, err := c.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		if pk := p.Expect(vsock.OpRW, guestPort, hostPort); string(pk.Payload) != "answer" {
			t.Errorf("payload %q", pk.Payload)
		}
		p.Send(header(vsock.OpRW), []byte("liar")) // after the promise
		p.Expect(vsock.OpRst, guestPort, hostPort)
		wantReadError(t, c, vsock.ErrReset)
	})
	t.Run("HostSendsNoMore", func(t *testing.T) {
		d, p, c := connectedWith(t, vsock.Config{}, 4, vsocktest.Options{})
		if _, err := c.Write([]byte("end")); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Write([]byte("ing")); n != 3 || err != nil { // merged, waits for credit
			t.Fatal(n, err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		wantWriteError(t, c, syscall.EPIPE)
		p.Expect(vsock.OpRW, guestPort, hostPort)
		p.Expect(vsock.OpCreditRequest, guestPort, hostPort) // one packet per KiB of buffer (D38)
		p.Send(credit(100, 3), nil)
		if pk := p.Expect(vsock.OpRW, guestPort, hostPort); string(pk.Payload) != "ing" {
			t.Errorf("payload %q", pk.Payload)
		}
		if pk := p.Expect(vsock.OpShutdown, guestPort, hostPort); pk.Flags != vsock.ShutdownSend {
			t.Errorf("SHUTDOWN flags %d, want %d", pk.Flags, vsock.ShutdownSend)
		}
		h := header(vsock.OpRW)
		h.FwdCnt = 6
		p.Send(h, []byte("reply"))
		mustRead(t, c, "reply")
		if got := d.State().Connections[0].Phase; got != "open" {
			t.Errorf("phase %s, want open", got)
		}
	})
}

func TestSpec_D27_EndOfAConnection(t *testing.T) { // §5.10.6.5
	t.Run("GuestFirst", func(t *testing.T) {
		_, p, c := connected(t, vsock.Config{})
		p.Send(header(vsock.OpRW), []byte("unread"))
		p.Send(shutdown(3), nil)
		p.Quiet() // not before it is read
		mustRead(t, c, "unread")
		p.Expect(vsock.OpRst, guestPort, hostPort)
		wantReadError(t, c, io.EOF)
		c.Close()
		p.Quiet()
	})
	t.Run("GuestFirstHostClosesUnread", func(t *testing.T) {
		_, p, c := connected(t, vsock.Config{})
		p.Send(header(vsock.OpRW), []byte("unread"))
		p.Send(shutdown(3), nil)
		p.Quiet()
		c.Close()
		p.Expect(vsock.OpRst, guestPort, hostPort)
		p.Quiet()
	})
	t.Run("HostFirst", func(t *testing.T) {
		d, p, c := connected(t, vsock.Config{CloseTimeout: time.Hour})
		c.Close()
		if pk := p.Expect(vsock.OpShutdown, guestPort, hostPort); pk.Flags != 3 {
			t.Errorf("SHUTDOWN flags %d, want 3", pk.Flags)
		}
		p.Send(header(vsock.OpRW), []byte("in flight")) // swallowed
		p.Quiet()
		p.Send(header(vsock.OpRst), nil)
		p.Quiet()
		if n := len(d.State().Connections); n != 0 {
			t.Errorf("%d connections, want none", n)
		}
	})
	t.Run("BothAtOnce", func(t *testing.T) {
		_, p, c := connected(t, vsock.Config{CloseTimeout: time.Hour})
		c.Close()
		p.Expect(vsock.OpShutdown, guestPort, hostPort)
		p.Send(shutdown(3), nil)
		p.Expect(vsock.OpRst, guestPort, hostPort)
		p.Send(header(vsock.OpRst), nil)
		p.Quiet()
	})
	t.Run("GuestDoesNotAnswer", func(t *testing.T) {
		d, p, c := connected(t, vsock.Config{CloseTimeout: 30 * time.Millisecond})
		c.Close()
		p.Expect(vsock.OpShutdown, guestPort, hostPort)
		p.Expect(vsock.OpRst, guestPort, hostPort) // by the timer
		p.Quiet()
		if n := len(d.State().Connections); n != 0 {
			t.Errorf("%d connections, want none", n)
		}
	})
	t.Run("WrittenDataIsSentBeforeTheEnd", func(t *testing.T) {
		_, p, c := connectedWith(t, vsock.Config{CloseTimeout: time.Hour}, 0, vsocktest.Options{})
		if _, err := c.Write([]byte("good")); err != nil { // no credit: merged
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("bye")); err != nil {
			t.Fatal(err)
		}
		c.Close()
		p.Expect(vsock.OpCreditRequest, guestPort, hostPort)
		p.Send(credit(100, 0), nil)
		if pk := p.Expect(vsock.OpRW, guestPort, hostPort); string(pk.Payload) != "goodbye" {
			t.Errorf("payload %q, want one packet with both writes", pk.Payload)
		}
		p.Expect(vsock.OpShutdown, guestPort, hostPort)
	})
	t.Run("GuestNeverMakesRoom", func(t *testing.T) {
		_, p, c := connectedWith(t, vsock.Config{CloseTimeout: 30 * time.Millisecond}, 0, vsocktest.Options{})
		if _, err := c.Write([]byte("stuck")); err != nil {
			t.Fatal(err)
		}
		c.Close()
		asked := 0
		for pk := p.Recv(); pk.Op != vsock.OpRst; pk = p.Recv() {
			if asked++; pk.Op != vsock.OpCreditRequest {
				t.Fatalf("unexpected %v", &pk.Header)
			}
		}
		if asked == 0 {
			t.Error("the guest was not asked for room")
		}
	})
	t.Run("GuestMakesRoomLate", func(t *testing.T) {
		_, p, c := connectedWith(t, vsock.Config{CloseTimeout: time.Hour}, 0, vsocktest.Options{})
		if _, err := c.Write([]byte("not lost")); err != nil {
			t.Fatal(err)
		}
		c.Close()
		for range 3 { // asked, answered without room, and asked again
			p.Expect(vsock.OpCreditRequest, guestPort, hostPort)
			p.Send(credit(0, 0), nil)
		}
		p.Expect(vsock.OpCreditRequest, guestPort, hostPort)
		p.Send(credit(100, 0), nil)
		if pk := p.Expect(vsock.OpRW, guestPort, hostPort); string(pk.Payload) != "not lost" {
			t.Errorf("payload %q", pk.Payload)
		}
		p.Expect(vsock.OpShutdown, guestPort, hostPort)
	})
}

func TestSpec_D28_PortPairIsNotReusedTooEarly(t *testing.T) { // §5.10.6.5
	d, l, p := newPeer(t, vsock.Config{CloseTimeout: time.Hour}, vsocktest.Options{})
	p.Connect(guestPort, hostPort)
	accept(t, l).Close()
	p.Expect(vsock.OpShutdown, guestPort, hostPort)
	p.Send(header(vsock.OpRequest), nil) // the old use has not been reset yet
	p.Expect(vsock.OpRst, guestPort, hostPort)
	if n := len(d.State().Connections); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
	p.Connect(guestPort, hostPort) // now it was
	p.Send(header(vsock.OpRW), []byte("new"))
	mustRead(t, accept(t, l), "new")
}

func TestSpec_D29_ResetWakesEverybody(t *testing.T) { // policy
	d, p, c := connectedWith(t, vsock.Config{}, 1000, vsocktest.Options{})
	werr := writeAsync(c, make([]byte, 10000))
	rerr := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); rerr <- err }()
	vsocktest.WaitFor(t, "the writer stalls", func() bool { return d.State().Connections[0].Unsent > 0 })
	p.Send(header(vsock.OpRst), nil)
	for _, ch := range []<-chan error{werr, rerr} {
		if err := <-ch; !errors.Is(err, vsock.ErrReset) || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("error %v, want ErrReset", err)
		}
	}

	_, p, c = connected(t, vsock.Config{})
	p.Send(header(vsock.OpRW), []byte("received"))
	p.Send(header(vsock.OpRst), nil)
	p.Quiet()
	mustRead(t, c, "received") // first what was there
	wantReadError(t, c, vsock.ErrReset)
	wantWriteError(t, c, vsock.ErrReset)
}

func TestSpec_D30_NothingBeforeResponse(t *testing.T) { // libkrun PR 267: the guest's connect fails with EPROTO
	d, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{RxBuffers: -1})
	h := header(vsock.OpRequest)
	h.BufAlloc = 4
	p.Send(h, nil)
	c := accept(t, l)
	if _, err := c.Write([]byte("early data")); err != nil { // no rx buffer yet, and later no credit
		t.Fatal(err)
	}
	p.Send(header(vsock.OpCreditRequest), nil)
	vsocktest.WaitFor(t, "both packets taken", func() bool { return d.Stats().TxPackets == 2 })
	for range 8 {
		p.PostRx(4096)
	}
	p.Drv.Queue(vsocktest.Rx).Kick()
	p.Expect(vsock.OpResponse, guestPort, hostPort)
	p.Expect(vsock.OpCreditUpdate, guestPort, hostPort)
	p.Expect(vsock.OpRW, guestPort, hostPort)

	// The host's own connections: REQUEST and nothing else until RESPONSE.
	d2, _, p2 := newPeer(t, vsock.Config{}, vsocktest.Options{})
	go func() {
		if c, err := d2.Dial(context.Background(), guestPort); err == nil {
			_, _ = c.Write([]byte("data"))
			c.Close()
		}
	}()
	req := p2.Recv()
	if said := p2.Sync(); req.Op != vsock.OpRequest || len(said) != 0 {
		t.Fatalf("got %v and %d more packets before RESPONSE", &req.Header, len(said))
	}
	p2.Send(vsocktest.Header(vsock.OpResponse, guestPort, req.SrcPort), nil)
	p2.Expect(vsock.OpRW, guestPort, req.SrcPort)
	p2.Expect(vsock.OpShutdown, guestPort, req.SrcPort)
}
