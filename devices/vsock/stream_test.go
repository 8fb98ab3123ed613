//go:build unix

package vsock_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/devices/vsock/vsocktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newDevice makes a device that is closed when the test is over.
func newDevice(tb testing.TB, cfg vsock.Config) *vsock.Device {
	tb.Helper()
	if cfg.GuestCID == 0 {
		cfg.GuestCID = vsocktest.GuestCID
	}
	d, err := vsock.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	return d
}

func listen(tb testing.TB, d *vsock.Device, port uint32) net.Listener {
	tb.Helper()
	l, err := d.Listen(port)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// pair is a connection that the guest opened.
func pair(tb testing.TB, d *vsock.Device, g *vsocktest.Guest, l net.Listener) (host *vsock.Conn, guest *vsocktest.Conn) {
	tb.Helper()
	guest, err := g.Dial(l.Addr().(vsock.Addr).Port)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return c.(*vsock.Conn), guest
}

func TestConnPassesNettest(t *testing.T) {
	for _, mode := range []struct {
		name      string
		guestDial bool
		o         vsocktest.Options
	}{
		{"GuestDials", true, vsocktest.Options{}},
		{"HostDials", false, vsocktest.Options{}},
		{"NoEventIdx", true, vsocktest.Options{NoEventIdx: true}},
		{"TwoSmallRxBuffers", true, vsocktest.Options{RxBuffers: 2, RxBufferSize: 64}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				d := newDevice(t, vsock.Config{})
				g := vsocktest.NewGuest(t, d, mode.o)
				stop = func() { g.Close(); d.Close() }
				if mode.guestDial {
					h, gc := pair(t, d, g, listen(t, d, 1024))
					return h, gc, stop, nil
				}
				ch := g.Listen(7, 1)
				h, err := d.Dial(context.Background(), 7)
				if err != nil {
					return nil, nil, nil, err
				}
				return h, <-ch, stop, nil
			})
		})
	}
}

// random is n reproducible bytes.
func random(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	p := make([]byte, n)
	_, _ = r.Read(p)
	return p
}

// sendChunks writes p in pieces of random sizes.
func sendChunks(w io.Writer, p []byte, r *rand.Rand) error {
	for len(p) > 0 {
		n := min(len(p), 1+r.IntN(1<<r.IntN(18)))
		if _, err := w.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func TestSpec_D39_StreamsStayOrderedAndIsolated(t *testing.T) {
	conns, size := 64, 2<<20
	if testing.Short() {
		conns, size = 16, 256<<10
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d := newDevice(t, vsock.Config{})
	g := vsocktest.NewGuest(t, d, vsocktest.Options{})
	l := listen(t, d, 1024)
	var wg sync.WaitGroup
	for i := range conns {
		h, gc := pair(t, d, g, l)
		// Alternate the directions, every fourth connection runs both.
		up, down := i%2 == 0 || i%4 == 3, i%2 == 1
		stream := func(w, rd net.Conn, s uint64) {
			data := random(s, size)
			wg.Go(func() {
				if err := sendChunks(w, data, rand.New(rand.NewPCG(s, 1))); err != nil {
					t.Errorf("conn %d: write: %v", i, err)
				}
				if err := w.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Errorf("conn %d: CloseWrite: %v", i, err)
				}
			})
			wg.Go(func() {
				sum := sha256.New()
				n, err := io.Copy(sum, rd)
				if want := sha256.Sum256(data); err != nil || n != int64(size) || !bytes.Equal(sum.Sum(nil), want[:]) {
					t.Errorf("conn %d: got %d of %d bytes, hash equal %v, error %v", i, n, size, bytes.Equal(sum.Sum(nil), want[:]), err)
				}
			})
		}
		if up {
			stream(gc, h, seed+uint64(i)*2)
		}
		if down {
			stream(h, gc, seed+uint64(i)*2+1)
		}
		t.Cleanup(func() { h.Close(); gc.Close() })
	}
	wg.Wait()
	if s := d.Stats(); s.Violations != 0 || s.Malformed != 0 || s.Faults != 0 {
		t.Errorf("stats %+v: want no violations", s)
	}
}

func TestConnectionsKilledInFlightLeaveNothing(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 30
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	d := newDevice(t, vsock.Config{})
	g := vsocktest.NewGuest(t, d, vsocktest.Options{})
	l := listen(t, d, 1024)
	for range rounds {
		h, gc := pair(t, d, g, l)
		var wg sync.WaitGroup
		data := make([]byte, 64<<10)
		for _, c := range []net.Conn{h, gc} {
			wg.Go(func() {
				for {
					if _, err := c.Write(data); err != nil {
						return
					}
				}
			})
			wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
		}
		time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond) // a random moment, not a synchronisation
		switch r.IntN(3) {
		case 0:
			h.Close()
		case 1:
			gc.Close()
		case 2:
			gc.Kill()
		}
		wg.Wait()
		h.Close()
		gc.Close()
	}
	vsocktest.WaitFor(t, "all connections gone", func() bool {
		return len(d.State().Connections) == 0 && g.Conns() == 0
	})
	h, gc := pair(t, d, g, l)
	roundTrip(t, h, gc)
}

// roundTrip proves that a connection works both ways.
func roundTrip(tb testing.TB, a, b net.Conn) {
	tb.Helper()
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := c[0].Write([]byte("ping")); err != nil {
			tb.Fatal(err)
		}
		p := make([]byte, 4)
		if _, err := io.ReadFull(c[1], p); err != nil || string(p) != "ping" {
			tb.Fatalf("read %q, %v", p, err)
		}
	}
}

func TestDeviceCloseUnblocksEverything(t *testing.T) {
	d := newDevice(t, vsock.Config{})
	g := vsocktest.NewGuest(t, d, vsocktest.Options{})
	l := listen(t, d, 1024)
	h, _ := pair(t, d, g, l)
	g.Listen(9, 0) // never answers: a full backlog is refused, so use a stalled guest below
	errs := make(chan error, 3)
	go func() { _, err := h.Read(make([]byte, 1)); errs <- err }()
	go func() {
		_, err := h.Write(make([]byte, 4<<20)) // more than the guest takes
		errs <- err
	}()
	go func() { _, err := l.Accept(); errs <- err }()
	vsocktest.WaitFor(t, "the writer stalls", func() bool { return d.State().Connections[0].Unsent > 0 })
	d.Close()
	for range 3 {
		select {
		case err := <-errs:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("error %v, want net.ErrClosed", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a call is still blocked")
		}
	}
	if _, err := d.Dial(context.Background(), 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
	if _, err := d.Listen(5); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func BenchmarkGuestToHost(b *testing.B) {
	for _, buf := range []int{256 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("buffer=%dK", buf>>10), func(b *testing.B) {
			d := newDevice(b, vsock.Config{BufferSize: buf})
			g := vsocktest.NewGuest(b, d, vsocktest.Options{})
			h, gc := pair(b, d, g, listen(b, d, 1024))
			p := make([]byte, 64<<10)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			go func() {
				for range b.N {
					_, _ = gc.Write(p)
				}
				_ = gc.CloseWrite()
			}()
			b.ResetTimer()
			if n, err := io.Copy(io.Discard, h); err != nil || n != int64(b.N*len(p)) {
				b.Fatal(n, err)
			}
		})
	}
}

func BenchmarkHostToGuest(b *testing.B) {
	for _, size := range []int{4096, 64 << 10} {
		b.Run(fmt.Sprintf("rxbuf=%dK", size>>10), func(b *testing.B) {
			d := newDevice(b, vsock.Config{})
			g := vsocktest.NewGuest(b, d, vsocktest.Options{RxBufferSize: size + vsock.HeaderSize})
			h, gc := pair(b, d, g, listen(b, d, 1024))
			p := make([]byte, 64<<10)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			go func() {
				for range b.N {
					_, _ = h.Write(p)
				}
				_ = h.CloseWrite()
			}()
			b.ResetTimer()
			if n, err := io.Copy(io.Discard, gc); err != nil || n != int64(b.N*len(p)) {
				b.Fatal(n, err)
			}
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	d := newDevice(b, vsock.Config{})
	g := vsocktest.NewGuest(b, d, vsocktest.Options{})
	h, gc := pair(b, d, g, listen(b, d, 1024))
	go func() { _, _ = io.Copy(gc, gc) }()
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(h, p); err != nil {
			b.Fatal(err)
		}
	}
}
