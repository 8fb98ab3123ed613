//go:build unix

package vsock_test

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/devices/vsock/vsocktest"
)

func TestDialOutcomes(t *testing.T) {
	d := newDevice(t, vsock.Config{ConnectTimeout: 30 * time.Millisecond})
	wantDial := func(ctx context.Context, want error) {
		t.Helper()
		c, err := d.Dial(ctx, guestPort)
		var oe *net.OpError
		if c != nil || !errors.Is(err, want) || !errors.As(err, &oe) || oe.Op != "dial" || oe.Addr.String() != "3:5000" {
			t.Errorf("Dial: %v, want an OpError with %v", err, want)
		}
	}
	wantDial(context.Background(), vsock.ErrNotReady)
	p := vsocktest.NewPeer(t, d, vsocktest.Options{})

	wantDial(context.Background(), vsock.ErrConnectTimeout) // by the timer
	req := p.Recv()
	if pk := p.Recv(); req.Op != vsock.OpRequest || pk.Op != vsock.OpRst || pk.SrcPort != req.SrcPort {
		t.Errorf("got %v, %v, want REQUEST, RST", &req.Header, &pk.Header)
	}

	d = newDevice(t, vsock.Config{})
	p = vsocktest.NewPeer(t, d, vsocktest.Options{})
	done := make(chan struct{})
	go func() { defer close(done); wantDial(context.Background(), vsock.ErrRefused) }()
	req = p.Recv()
	p.Send(vsocktest.Header(vsock.OpRst, guestPort, req.SrcPort), nil)
	<-done

	for _, lie := range []vsock.Op{vsock.OpRW, vsock.OpShutdown, vsock.OpCreditUpdate, vsock.OpRequest} {
		done := make(chan struct{})
		go func() { defer close(done); wantDial(context.Background(), vsock.ErrReset) }()
		req = p.Recv()
		p.Send(vsocktest.Header(lie, guestPort, req.SrcPort), nil)
		p.Expect(vsock.OpRst, guestPort, req.SrcPort)
		<-done
	}

	ctx, cancel := context.WithCancel(context.Background())
	done = make(chan struct{})
	go func() { defer close(done); wantDial(ctx, context.Canceled) }()
	req = p.Recv()
	cancel()
	<-done
	p.Expect(vsock.OpRst, guestPort, req.SrcPort)
	wantDial(ctx, context.Canceled) // before it begins
	p.Quiet()

	c, reply := dialed(t, d, p)
	p.Send(reply(vsock.OpRW), []byte("hello"))
	mustRead(t, c, "hello")
	if a, b := c.LocalAddr().String(), c.RemoteAddr().String(); a[:2] != "2:" || b != "3:5000" || c.LocalAddr().Network() != "vsock" {
		t.Errorf("addresses %s and %s", a, b)
	}
	if n := len(d.State().Connections); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestListener(t *testing.T) {
	d, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	if _, err := d.Listen(hostPort); !errors.Is(err, vsock.ErrPortInUse) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second Listen: %v, want ErrPortInUse", err)
	}
	if _, err := d.Listen(1<<32 - 1); err == nil {
		t.Error("Listen on the reserved port succeeded")
	}
	dl := l.(*vsock.Listener)
	for range 2 {
		if err := dl.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Accept: %v, want a deadline", err)
		}
	}
	_ = dl.SetDeadline(time.Time{})
	const n = 8
	got := make(chan error, n)
	for range n { // one token must reach every accepter
		go func() {
			c, err := l.Accept()
			if err == nil {
				c.Close()
			}
			got <- err
		}()
	}
	for i := range uint32(n) {
		p.Send(vsocktest.Header(vsock.OpRequest, i+1, hostPort), nil)
	}
	for range n {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	p.Sync()
	p.Connect(100, hostPort)
	for range n {
		go func() { c, err := l.Accept(); _ = c; got <- err }()
	}
	vsocktest.WaitFor(t, "one accepted", func() bool { return len(got) == 1 })
	p.Connect(101, hostPort)
	vsocktest.WaitFor(t, "two accepted", func() bool { return len(got) == 2 })
	l.Close()
	l.Close()
	nilErrors := 0
	for range n {
		if err := <-got; err == nil {
			nilErrors++
		} else if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v, want net.ErrClosed", err)
		}
	}
	if nilErrors != 2 {
		t.Errorf("%d accepted, want 2", nilErrors)
	}
	p.Send(vsocktest.Header(vsock.OpRequest, 200, hostPort), nil)
	p.Expect(vsock.OpRst, 200, hostPort)

	l = listen(t, d, hostPort) // the port is free again
	p.Connect(300, hostPort)
	l.Close() // nobody accepted it
	p.Expect(vsock.OpRst, 300, hostPort)
}

func TestBacklogPlacesAreGivenBack(t *testing.T) { // reliability row 24; CVE-2026-46214
	_, l, p := newPeer(t, vsock.Config{Backlog: 2}, vsocktest.Options{})
	for i := range uint32(1000) {
		p.Connect(i+1, hostPort)
		p.Send(vsocktest.Header(vsock.OpRst, i+1, hostPort), nil)
	}
	p.Connect(5000, hostPort)
	p.Send(vsocktest.Header(vsock.OpRW, 5000, hostPort), []byte("good"))
	mustRead(t, accept(t, l), "good")
}

func TestRequestFloodIsBounded(t *testing.T) { // reliability row 23
	d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	const n = 5000
	answers := map[vsock.Op]int{}
	for i := range uint32(n) {
		p.Send(vsocktest.Header(vsock.OpRequest, i, hostPort), nil)
		for {
			pk, ok := p.TryRecv()
			if !ok {
				break
			}
			answers[pk.Op]++
		}
	}
	for _, pk := range p.Sync() {
		answers[pk.Op]++
	}
	if answers[vsock.OpResponse] != vsock.DefaultMaxConns || answers[vsock.OpRst] != n-vsock.DefaultMaxConns {
		t.Errorf("answers %v, want %d RESPONSE and the rest RST", answers, vsock.DefaultMaxConns)
	}
	if got := len(d.State().Connections); got != vsock.DefaultMaxConns {
		t.Errorf("%d connections, want %d", got, vsock.DefaultMaxConns)
	}
}

func TestMaxBufferBoundsConnections(t *testing.T) {
	d, _, p := newPeer(t, vsock.Config{BufferSize: 1 << 20, MaxBuffer: 3<<20 + 5}, vsocktest.Options{})
	for i := range uint32(3) {
		p.Connect(i, hostPort)
	}
	p.Send(vsocktest.Header(vsock.OpRequest, 9, hostPort), nil)
	p.Expect(vsock.OpRst, 9, hostPort)
	if n := len(d.State().Connections); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}
