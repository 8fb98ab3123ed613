//go:build unix

package vsock_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/devices/vsock/vsocktest"
)

func TestConfigErrorsNameTheField(t *testing.T) {
	for field, cfg := range map[string]vsock.Config{
		"GuestCID":       {},
		"MaxConns":       {GuestCID: 3, MaxConns: -1},
		"BufferSize":     {GuestCID: 3, BufferSize: 4095},
		"SendWindow":     {GuestCID: 3, SendWindow: 1 << 30},
		"MaxBuffer":      {GuestCID: 3, BufferSize: 1 << 20, MaxBuffer: 1<<20 - 1},
		"Backlog":        {GuestCID: 3, Backlog: -5},
		"ConnectTimeout": {GuestCID: 3, ConnectTimeout: -1},
		"CloseTimeout":   {GuestCID: 3, CloseTimeout: -time.Second},
	} {
		_, err := vsock.New(cfg)
		var ce *vsock.ConfigError
		if !errors.As(err, &ce) || ce.Field != field || ce.Fix == "" {
			t.Errorf("%s: error %v", field, err)
		}
	}
}

func TestSpec_A13_ResetEndsEveryConnection(t *testing.T) { // §2.4.1; reliability row 29
	d, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	for range 300 {
		p.Connect(guestPort, hostPort)
		c := accept(t, l)
		p.Connect(guestPort+1, hostPort) // stays in the backlog
		errs := make(chan error, 2)
		go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := c.Write(make([]byte, 1<<20)); errs <- err }()
		p.Send(header(vsock.OpRW), nil)
		p.Restart(vsocktest.Options{RxBuffers: 4})
		for range 2 {
			if err := <-errs; !errors.Is(err, vsock.ErrReset) {
				t.Fatalf("error %v, want ErrReset", err)
			}
		}
		if s := d.State(); len(s.Connections) != 0 || s.Replies != 0 || !s.Active {
			t.Fatalf("state after reset: %+v", s)
		}
		wantWriteError(t, c, vsock.ErrReset)
		if p.Drv.Mark() > 8<<20 {
			break // of guest RAM
		}
	}
	p.Connect(guestPort, hostPort)
	p.Send(header(vsock.OpRW), []byte("works"))
	mustRead(t, accept(t, l), "works")
}

func TestSpec_A11_NothingAfterReset(t *testing.T) { // §2.4.1: no ring access, no interrupt
	_, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	p.Connect(guestPort, hostPort)
	c := accept(t, l)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := c.Write(make([]byte, 100)); err != nil {
					runtime.Gosched()
				}
			}
		}
	})
	for range 50 {
		p.Send(header(vsock.OpRW), []byte("x"))
	}
	rx := p.Drv.Queue(vsocktest.Rx)
	p.Drv.Reset()
	used, irqs := rx.UsedIdx(), p.Drv.Interrupts()
	d := p.Dev
	for range 1000 {
		d.Notify(0)
		runtime.Gosched()
	}
	if got := rx.UsedIdx(); got != used {
		t.Errorf("used index moved from %d to %d after the reset", used, got)
	}
	if got := p.Drv.Interrupts(); got != irqs {
		t.Errorf("%d interrupts after the reset", got-irqs)
	}
	close(stop)
	wg.Wait()
}

func TestNotifyNeverBlocks(t *testing.T) {
	d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	start := time.Now()
	for range 1_000_000 {
		d.Notify(1)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("a million notifications took %v", took)
	}
	p.Quiet()
}

func TestReadDeadlineKeepsData(t *testing.T) {
	_, p, c := connected(t, vsock.Config{})
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	var ne net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("Read: %v, want a timeout", err)
	}
	p.Send(header(vsock.OpRW), []byte("kept"))
	p.Quiet()
	_ = c.SetReadDeadline(time.Time{})
	mustRead(t, c, "kept")
}

func TestWriteDeadlineCountsWhatWasSent(t *testing.T) {
	d, p, c := connectedWith(t, vsock.Config{}, 10000, vsocktest.Options{})
	data := random(4, 50000)
	_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := c.Write(data)
	if n != 10000 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write = %d, %v, want the 10000 bytes of credit and a deadline", n, err)
	}
	if got := d.State().Connections[0].Unsent; got != 0 {
		t.Errorf("%d bytes still count as written", got)
	}
	_ = c.SetWriteDeadline(time.Time{})
	done := writeAsync(c, data[n:])
	var got []byte
	for len(got) < len(data) {
		pk := p.Recv()
		got = append(got, pk.Payload...)
		p.Send(credit(10000, uint32(len(got))), nil)
	}
	if err := <-done; err != nil || !bytes.Equal(got, data) {
		t.Errorf("data differs, %v", err)
	}
}

// shortWriter takes half of what it is given.
type shortWriter struct{ bytes.Buffer }

func (w *shortWriter) Write(p []byte) (int, error) {
	n, _ := w.Buffer.Write(p[:(len(p)+1)/2])
	return n, nil
}

func TestWriteTo(t *testing.T) {
	_, p, c := connected(t, vsock.Config{})
	p.Send(header(vsock.OpRW), []byte("abcd"))
	var w shortWriter
	if n, err := c.WriteTo(&w); n != 2 || err != io.ErrShortWrite || w.String() != "ab" {
		t.Errorf("WriteTo = %d, %v, wrote %q", n, err, w.String())
	}
	p.Send(shutdown(vsock.ShutdownSend), nil)
	var b bytes.Buffer // nothing is lost after an error
	if n, err := c.WriteTo(&b); n != 2 || err != nil || b.String() != "cd" {
		t.Errorf("WriteTo = %d, %v, wrote %q", n, err, b.String())
	}
}

func TestConcurrentWritesStayWhole(t *testing.T) {
	d := newDevice(t, vsock.Config{})
	g := vsocktest.NewGuest(t, d, vsocktest.Options{RxBuffers: 4, RxBufferSize: 100})
	h, gc := pair(t, d, g, listen(t, d, 1024))
	const writers, rounds, size = 8, 50, 1000
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range rounds {
				if _, err := h.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() { wg.Wait(); _ = h.CloseWrite() }()
	got, err := io.ReadAll(gc)
	if err != nil || len(got) != writers*rounds*size {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for i := 0; i < len(got); i += size {
		if !bytes.Equal(got[i:i+size], bytes.Repeat(got[i:i+1], size)) {
			t.Fatalf("writes are mixed at byte %d", i)
		}
	}
}

func TestManyOpenCloseCyclesLeaveNothing(t *testing.T) {
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	d := newDevice(t, vsock.Config{})
	g := vsocktest.NewGuest(t, d, vsocktest.Options{})
	l := listen(t, d, 1024)
	ch := g.Listen(7, 4)
	before := runtime.NumGoroutine()
	for i := range rounds {
		var a, b net.Conn
		if i%2 == 0 {
			a, b = pair(t, d, g, l)
		} else {
			c, err := d.Dial(context.Background(), 7)
			if err != nil {
				t.Fatal(err)
			}
			a, b = c, <-ch
		}
		_ = a.SetDeadline(time.Now().Add(time.Hour))
		roundTrip(t, a, b)
		if i%3 == 0 {
			a, b = b, a
		}
		a.Close()
		b.Close()
	}
	vsocktest.WaitFor(t, "all connections gone", func() bool { return len(d.State().Connections) == 0 && g.Conns() == 0 })
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

func TestDevicesCloseAtAnyMoment(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		d := newDevice(t, vsock.Config{})
		g := vsocktest.NewGuest(t, d, vsocktest.Options{RxBuffers: 8})
		l := listen(t, d, 1024)
		h, gc := pair(t, d, g, l)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(h, h) })
		wg.Go(func() {
			for {
				if _, err := gc.Write(make([]byte, 10000)); err != nil {
					return
				}
			}
		})
		wg.Go(func() { _, _ = io.Copy(io.Discard, gc) })
		wg.Go(func() { _, _ = l.Accept() })
		time.Sleep(time.Duration(r.IntN(500)) * time.Microsecond) // a random moment
		for range 1 + r.IntN(3) {
			wg.Go(func() { d.Close() })
		}
		d.Close()
		g.Close()
		wg.Wait()
	}
}

func ExampleDevice() {
	d, err := vsock.New(vsock.Config{GuestCID: 3})
	if err != nil {
		panic(err)
	}
	defer d.Close()
	l, err := d.Listen(1024) // the guest connects to CID 2, port 1024
	if err != nil {
		panic(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return // the device was closed
		}
		_, _ = io.Copy(os.Stdout, c)
	}()
	// virtio.NewMMIO(mem, d, raise) puts the device before the guest.
}
