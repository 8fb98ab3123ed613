//go:build unix

package vsock_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/devices/vsock/vsocktest"
)

// credit is a CREDIT_UPDATE of connected's connection.
func credit(bufAlloc, fwdCnt uint32) vsock.Header {
	h := header(vsock.OpCreditUpdate)
	h.BufAlloc, h.FwdCnt = bufAlloc, fwdCnt
	return h
}

// connectedWith is connected for a guest with this much buffer.
func connectedWith(t *testing.T, cfg vsock.Config, bufAlloc uint32, o vsocktest.Options) (*vsock.Device, *vsocktest.Peer, *vsock.Conn) {
	t.Helper()
	d, l, p := newPeer(t, cfg, o)
	h := header(vsock.OpRequest)
	h.BufAlloc = bufAlloc
	p.Send(h, nil)
	p.Expect(vsock.OpResponse, guestPort, hostPort)
	return d, p, accept(t, l)
}

// writeAsync writes in the background and reports the result.
func writeAsync(c io.Writer, p []byte) <-chan error {
	done := make(chan error, 1)
	go func() {
		n, err := c.Write(p)
		if err == nil && n != len(p) {
			err = io.ErrShortWrite
		}
		done <- err
	}()
	return done
}

// payload sums up the RW packets and returns the others.
func payload(said []vsocktest.Packet) (data []byte, rw int, others []vsock.Op) {
	for _, pk := range said {
		if pk.Op == vsock.OpRW {
			data = append(data, pk.Payload...)
			rw++
		} else {
			others = append(others, pk.Op)
		}
	}
	return data, rw, others
}

func TestSpec_D8_TxGoesOnWhileRxIsFull(t *testing.T) { // §5.10.6.1.2
	const store, extra = 256, 100
	d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{RxBuffers: -1})
	tx := p.Drv.Queue(vsocktest.Tx)
	for i := range uint32(store) {
		p.Send(vsocktest.Header(vsock.OpRW, i, 1), nil)
	}
	vsocktest.WaitFor(t, "256 packets taken", func() bool { return tx.UsedIdx() == store })
	for i := range uint32(extra) {
		p.Send(vsocktest.Header(vsock.OpRW, store+i, 1), nil)
	}
	for range 5 { // wake it as often as one likes: the store is full
		kicks := d.Stats().Kicks
		tx.Notify()
		vsocktest.WaitFor(t, "a pass of the worker", func() bool { return d.Stats().Kicks > kicks })
	}
	if got := tx.UsedIdx(); got != store {
		t.Errorf("%d packets taken with a full reply store, want %d", got, store)
	}
	if got := d.State().Replies; got != store {
		t.Errorf("%d replies stored, want %d", got, store)
	}
	p.PostRx(64) // one rx buffer lets one packet in
	p.Drv.Queue(vsocktest.Rx).Kick()
	p.Expect(vsock.OpRst, 0, 1)
	vsocktest.WaitFor(t, "one more packet taken", func() bool { return tx.UsedIdx() > store })
	for range 20 {
		p.PostRx(64)
	}
	p.Drv.Queue(vsocktest.Rx).Kick()
	for i := range uint32(store + extra - 1) {
		p.Expect(vsock.OpRst, i+1, 1)
	}
	p.Quiet()
}

func TestSpec_D9_BothRingsFullNoDeadlock(t *testing.T) { // §5.10.6.1; libkrun issue 772
	for _, window := range []int{4096, 64 << 10, 256 << 10} {
		t.Run(fmt.Sprint(window), func(t *testing.T) {
			_, l, p := newPeer(t, vsock.Config{BufferSize: window}, vsocktest.Options{RxBuffers: 2})
			p.Connect(guestPort, hostPort)
			c := accept(t, l)
			p.HoldRx()
			down := random(1, 100<<10)
			done := writeAsync(c, down) // fills rx and waits
			up := random(2, 4000)
			for i := 0; i < len(up); i += 10 { // 400 packets: more than the tx ring holds
				p.Send(header(vsock.OpRW), up[i:i+10])
			}
			got := make([]byte, len(up))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, up) {
				t.Fatalf("upward data differs, %v", err)
			}
			var received []byte
			for len(received) < len(down) {
				pk := p.Recv()
				p.ReleaseRx()
				p.HoldRx()
				received = append(received, pk.Payload...)
				if pk.Op == vsock.OpRW {
					p.Send(credit(64<<10, uint32(len(received))), nil)
				}
			}
			if err := <-done; err != nil || !bytes.Equal(received, down) {
				t.Fatalf("downward data differs, %v", err)
			}
		})
	}
}

func TestSpec_D10_NothingIsSentBeyondTheCredit(t *testing.T) { // §5.10.6.3.2; CVE-2026-23069
	d, p, c := connectedWith(t, vsock.Config{}, 64<<10, vsocktest.Options{})
	data := random(1, 200<<10)
	done := writeAsync(c, data)
	vsocktest.WaitFor(t, "the writer stalls", func() bool { return d.State().Connections[0].Unsent > 0 })
	var got []byte
	fwd := uint32(0)
	collect := func(said []vsocktest.Packet) int {
		d, _, _ := payload(said)
		got = append(got, d...)
		return len(d)
	}
	drain := func() (n int) { // until the host has nothing more to say
		for {
			k := collect(p.Sync())
			if n += k; k == 0 {
				return n
			}
		}
	}
	if n := drain(); n != 64<<10 {
		t.Fatalf("%d bytes for 64 KiB of credit", n)
	}
	for _, step := range []struct {
		alloc uint32
		take  uint32 // bytes the guest takes
		want  int    // bytes the host may send
	}{
		{0, 0, 0},                     // shrunk with 64 KiB in flight
		{32 << 10, 0, 0},              // still more in flight than room
		{64 << 10, 0, 0},              //
		{32 << 10, 40 << 10, 8 << 10}, // 24 in flight, room for 32
		{32 << 10, 32 << 10, 32 << 10},
		{0, 32 << 10, 0}, // nothing in flight, no room
		{1, 0, 1},        // a window of one byte
		{5000, 1, 5000},
	} {
		fwd += step.take
		p.Send(credit(step.alloc, fwd), nil)
		if n := drain(); n != step.want {
			t.Fatalf("credit %+v: %d bytes sent", step, n)
		}
	}
	p.Send(credit(1<<20, uint32(len(got))), nil)
	for len(got) < len(data) {
		collect([]vsocktest.Packet{p.Recv()})
		p.Send(credit(1<<20, uint32(len(got))), nil)
	}
	if err := <-done; err != nil || !bytes.Equal(got, data) {
		t.Fatalf("data differs, %v", err)
	}
}

func TestSpec_D11_WindowIsCappedByTheHost(t *testing.T) { // §5.10.6.3.2; CVE-2026-23086
	d, p, c := connectedWith(t, vsock.Config{SendWindow: 64 << 10}, 1<<32-1, vsocktest.Options{})
	done := writeAsync(c, make([]byte, 1<<20))
	vsocktest.WaitFor(t, "the writer stalls", func() bool { return d.State().Connections[0].Unsent > 0 })
	n := 0
	for i := 0; i < 4; i++ {
		data, _, _ := payload(p.Sync())
		n += len(data)
	}
	if n != 64<<10 {
		t.Errorf("%d bytes in flight for a claimed buffer of 4 GiB, want 64 KiB", n)
	}
	if got := d.State().Connections[0].PacketsInFlight; got > 64 {
		t.Errorf("%d packets are tracked, want at most 64", got)
	}
	c.Close()
	if err := <-done; err == nil {
		t.Error("Write succeeded though the guest took 64 KiB")
	}
}

func TestSpec_D12_EveryPacketCarriesCurrentCredit(t *testing.T) { // §5.10.6.3.2
	const size = 128 << 10
	_, l, p := newPeer(t, vsock.Config{BufferSize: size}, vsocktest.Options{})
	check := func(pk vsocktest.Packet, fwd uint32) {
		t.Helper()
		if pk.BufAlloc != size || pk.FwdCnt != fwd {
			t.Errorf("%v: want buf_alloc %d, fwd_cnt %d", &pk.Header, size, fwd)
		}
	}
	check(p.Connect(guestPort, hostPort), 0)
	c := accept(t, l)
	p.Send(header(vsock.OpRW), make([]byte, 1000))
	mustRead(t, c, string(make([]byte, 600)))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	check(p.Expect(vsock.OpRW, guestPort, hostPort), 600)
	p.Send(header(vsock.OpCreditRequest), nil)
	check(p.Expect(vsock.OpCreditUpdate, guestPort, hostPort), 600)
	mustRead(t, c, string(make([]byte, 400)))
	p.Send(credit(0, 0), nil)
	p.Quiet()
	if _, err := c.Write([]byte("y")); err != nil { // merged: the guest has no room
		t.Fatal(err)
	}
	check(p.Expect(vsock.OpCreditRequest, guestPort, hostPort), 1000)
	p.Send(credit(1<<20, 1), nil)
	check(p.Expect(vsock.OpRW, guestPort, hostPort), 1000)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	check(p.Expect(vsock.OpShutdown, guestPort, hostPort), 1000)
	h := header(vsock.OpShutdown)
	h.Flags, h.FwdCnt = 3, 2
	p.Send(h, nil)
	check(p.Expect(vsock.OpRst, guestPort, hostPort), 1000)
}

func TestSpec_D14_CreditRequestsAreAnsweredAndMerged(t *testing.T) { // §5.10.6.3
	_, p, _ := connected(t, vsock.Config{})
	for range 3 {
		p.Send(header(vsock.OpCreditRequest), nil)
		p.Expect(vsock.OpCreditUpdate, guestPort, hostPort)
	}
	p.Quiet()

	d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{RxBuffers: 1})
	p.Connect(guestPort, hostPort)
	p.HoldRx()
	p.Send(header(vsock.OpCreditRequest), nil)
	p.Expect(vsock.OpCreditUpdate, guestPort, hostPort) // takes the only buffer
	for range 1000 {
		p.Send(header(vsock.OpCreditRequest), nil)
	}
	vsocktest.WaitFor(t, "1000 requests taken", func() bool { return d.Stats().TxPackets == 1002 })
	p.ReleaseRx()
	p.Expect(vsock.OpCreditUpdate, guestPort, hostPort)
	p.Quiet()
}

func TestSpec_D15_UnsolicitedCreditUpdatesAreAccepted(t *testing.T) { // §5.10.6.3
	_, p, c := connected(t, vsock.Config{})
	for i := range uint32(100) {
		p.Send(credit(i*1000, 0), nil)
	}
	p.Quiet()
	p.Send(header(vsock.OpRW), []byte("alive"))
	mustRead(t, c, "alive")
}

func TestSpec_D16_FwdCntLiesAreReset(t *testing.T) { // §5.10.6.3
	for _, lie := range []struct {
		name       string
		first, fwd uint32
	}{
		{"BeyondWhatWasSent", 0, 101},
		{"FarBeyond", 0, 1 << 31},
		{"BackByOne", 50, 49},
		{"BackToZero", 100, 0},
		{"WrappedBack", 0, 1<<32 - 1},
	} {
		for _, op := range []vsock.Op{vsock.OpCreditUpdate, vsock.OpRW, vsock.OpShutdown, vsock.OpCreditRequest} {
			t.Run(lie.name+"/"+op.String(), func(t *testing.T) {
				_, p, c := connected(t, vsock.Config{})
				if _, err := c.Write(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				p.Expect(vsock.OpRW, guestPort, hostPort)
				p.Send(credit(1<<20, lie.first), nil)
				p.Quiet()
				h := header(op)
				h.FwdCnt = lie.fwd
				p.Send(h, nil)
				p.Expect(vsock.OpRst, guestPort, hostPort)
				wantReadError(t, c, vsock.ErrReset)
				wantWriteError(t, c, vsock.ErrReset)
				p.Quiet()
			})
		}
	}
	_, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	h := header(vsock.OpRequest)
	h.FwdCnt = 1
	p.Send(h, nil)
	p.Expect(vsock.OpRst, guestPort, hostPort)
}

func TestSpec_D17_OverrunningOurBufferIsReset(t *testing.T) { // §5.10.6.3.1
	const size = 8192
	for _, last := range []int{1, 100, size + 1} {
		d, p, c := connected(t, vsock.Config{BufferSize: size})
		p.Send(header(vsock.OpRW), bytes.Repeat([]byte{7}, 5000))
		p.Send(header(vsock.OpRW), bytes.Repeat([]byte{7}, size-5000))
		p.Quiet() // a full buffer is in order
		p.Send(header(vsock.OpRW), make([]byte, last))
		p.Expect(vsock.OpRst, guestPort, hostPort)
		if got := d.Stats().TxBytes; got != size {
			t.Errorf("%d bytes buffered, want %d", got, size)
		}
		// What was within the credit is still read, then the error (D29).
		mustRead(t, c, string(bytes.Repeat([]byte{7}, size)))
		wantReadError(t, c, vsock.ErrReset)
	}
}

func TestSpec_D37_ZeroLengthDataCostsNothing(t *testing.T) { // CVE-2026-53132; allocations: TestMuxZeroLengthDataDoesNotAllocate
	d, p, c := connected(t, vsock.Config{})
	for range 5000 {
		p.Send(header(vsock.OpRW), nil)
	}
	p.Quiet()
	_ = c.SetReadDeadline(time.Now().Add(-time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %d, %v, want a deadline: no data came", n, err)
	}
	if st := d.State().Connections[0]; st.Received != 0 {
		t.Errorf("received %d, want 0", st.Received)
	}
}

func TestSpec_D38_PacketsInFlightAreBounded(t *testing.T) { // Linux >= 6.12.92; libkrun issue 795
	const alloc = 64 << 10
	_, p, c := connectedWith(t, vsock.Config{}, alloc, vsocktest.Options{})
	want := random(1, 100*1000)
	done := make(chan error, 1)
	go func() {
		for i := range 1000 {
			if _, err := c.Write(want[i*100 : i*100+100]); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var got []byte
	packets, asked, taken := 0, 0, 0
	for len(got) < len(want) {
		pk := p.Recv()
		switch pk.Op {
		case vsock.OpRW:
			got = append(got, pk.Payload...)
			if packets++; packets-taken > alloc>>10 {
				t.Fatalf("%d packets in flight, want at most %d", packets-taken, alloc>>10)
			}
		case vsock.OpCreditRequest: // only now does this guest's reader take anything
			asked++
			taken = packets
			p.Send(credit(alloc, uint32(len(got))), nil)
		default:
			t.Fatalf("unexpected %v", &pk.Header)
		}
	}
	if err := <-done; err != nil || !bytes.Equal(got, want) {
		t.Fatalf("data differs, %v", err)
	}
	if asked == 0 || packets >= 1000 {
		t.Errorf("%d packets for 1000 writes, %d credit requests: small writes were not merged", packets, asked)
	}
}

func TestHostAsksAgainWhenTheGuestForgetsToTell(t *testing.T) {
	// Linux 6.1 sends no CREDIT_UPDATE of its own for few small packets, so one
	// unanswered or early request must not stall the stream for ever.
	_, p, c := connectedWith(t, vsock.Config{}, 4096, vsocktest.Options{})
	done := writeAsync(c, make([]byte, 10000))
	p.Expect(vsock.OpRW, guestPort, hostPort)
	var at [4]time.Time
	for i := range at {
		for p.Recv().Op != vsock.OpCreditRequest {
		}
		at[i] = time.Now()
	}
	if first, last := at[1].Sub(at[0]), at[3].Sub(at[2]); last < first/2 {
		t.Errorf("requests do not slow down: %v, then %v", first, last)
	}
	p.Send(credit(1<<20, 4096), nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestCreditUpdateAfterAQuarterOfTheWindow(t *testing.T) {
	const size = 64 << 10
	_, p, c := connected(t, vsock.Config{BufferSize: size})
	p.Send(header(vsock.OpRW), make([]byte, size/2))
	mustRead(t, c, string(make([]byte, size/4-1)))
	p.Quiet()
	mustRead(t, c, "\x00")
	if pk := p.Expect(vsock.OpCreditUpdate, guestPort, hostPort); pk.FwdCnt != size/4 {
		t.Errorf("fwd_cnt %d, want %d", pk.FwdCnt, size/4)
	}
	p.Quiet()
	// A guest that is nearly out of credit hears of every 4 KiB.
	p.Send(header(vsock.OpRW), make([]byte, size/4+size/2))
	mustRead(t, c, string(make([]byte, 4095)))
	p.Quiet()
	mustRead(t, c, "\x00")
	if pk := p.Expect(vsock.OpCreditUpdate, guestPort, hostPort); pk.FwdCnt != size/4+4096 {
		t.Errorf("fwd_cnt %d, want %d", pk.FwdCnt, size/4+4096)
	}
}

func TestIdleHostDoesNotSpinWithoutRxBuffers(t *testing.T) { // reliability row 17
	d, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{RxBuffers: 1})
	p.Connect(guestPort, hostPort)
	p.HoldRx()
	c := accept(t, l)
	done := writeAsync(c, make([]byte, 100<<10))
	p.Recv() // and keep the buffer: from now on there is none
	vsocktest.WaitFor(t, "the writer stalls", func() bool { return d.State().Connections[0].Unsent > 0 })
	before := d.Stats().Kicks
	time.Sleep(50 * time.Millisecond) // measures idleness, synchronises nothing
	if got := d.Stats().Kicks - before; got > 3 {
		t.Errorf("%d passes of the worker while nothing can be done", got)
	}
	c.Close()
	if err := <-done; err == nil {
		t.Error("Write succeeded")
	}
}
