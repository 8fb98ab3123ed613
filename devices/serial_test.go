package devices_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/hutchvm/hutch/devices"
)

// Registers, typed from the 16550D data sheet.
const (
	rData = 0
	rIER  = 1
	rIIR  = 2 // FCR when written
	rLCR  = 3
	rMCR  = 4
	rLSR  = 5
	rMSR  = 6
	rSCR  = 7
)

// console is a UART with its guest and its host.
type console struct {
	*devices.Serial
	out  bytes.Buffer
	irqs int
}

func newConsole() *console {
	c := &console{}
	c.Serial = devices.NewSerial(&c.out, func() error { c.irqs++; return nil })
	return c
}

func (c *console) rd(reg uint64) byte {
	p := []byte{0xee}
	c.Read(reg, p)
	return p[0]
}

func (c *console) wr(reg uint64, v byte) { c.Write(reg, []byte{v}) }

// listen sets the UART up as Linux does for an open console.
func (c *console) listen() {
	c.wr(rLCR, 0x80)
	c.wr(rData, 1)
	c.wr(rIER, 0)
	c.wr(rLCR, 0x03)
	c.wr(rIIR, 0x81) // FIFOs, trigger level 8
	c.wr(rMCR, 0x0b) // DTR, RTS, OUT2
	c.wr(rIER, 0x05) // received data, line status
}

// The access sequence of Linux's 8250 autoconfiguration ends at "16550A".
func TestLinuxRecognises16550A(t *testing.T) {
	c := newConsole()
	is := func(what string, got, want byte) {
		t.Helper()
		if got != want {
			t.Errorf("%s reads %#x, want %#x", what, got, want)
		}
	}
	ier := c.rd(rIER)
	c.wr(rIER, 0)
	is("IER after 0", c.rd(rIER)&0x0f, 0)
	c.wr(rIER, 0x0f)
	is("IER after 0x0f", c.rd(rIER)&0x0f, 0x0f)
	c.wr(rIER, ier)
	// Loopback with RTS and OUT2 shows CTS and DCD.
	mcr, lcr := c.rd(rMCR), c.rd(rLCR)
	c.wr(rMCR, 0x10|0x0a)
	is("MSR in loopback", c.rd(rMSR)&0xf0, 0x90)
	c.wr(rMCR, 0x10|0x05)
	is("MSR in loopback", c.rd(rMSR)&0xf0, 0x60)
	c.wr(rMCR, mcr)
	// FIFOs exist and work.
	c.wr(rLCR, 0xbf)
	c.wr(rIIR, 0)
	c.wr(rLCR, 0)
	c.wr(rIIR, 0x01)
	is("IIR with FIFOs", c.rd(rIIR)>>6, 3)
	// No enhanced register where a 16650 has one.
	c.wr(rLCR, 0x80)
	if c.rd(rIIR) == 0 {
		t.Error("register 2 reads 0 with DLAB: taken for a 16650")
	}
	c.wr(rLCR, 0xbf)
	if c.rd(rIIR) == 0 {
		t.Error("register 2 reads 0 with LCR 0xbf: taken for a 16650V2")
	}
	// No 64-byte FIFO: not a 16750.
	c.wr(rLCR, 0)
	c.wr(rIIR, 0x01)
	s1 := c.rd(rIIR) >> 5
	c.wr(rIIR, 0x01)
	c.wr(rLCR, 0x80)
	c.wr(rIIR, 0x21)
	s2 := c.rd(rIIR) >> 5
	c.wr(rIIR, 0x01)
	c.wr(rLCR, 0)
	if s1 != 6 || s2 != 6 {
		t.Errorf("IIR >> 5 = %d, %d, want 6, 6", s1, s2)
	}
	// No unit enable bit: not an XScale.
	c.wr(rIER, ier|0x40)
	is("IER after UUE", c.rd(rIER)&0x40, 0)
	c.wr(rLCR, lcr)
	c.wr(rSCR, 0xa5)
	is("SCR", c.rd(rSCR), 0xa5)
	if c.out.Len() != 0 {
		t.Errorf("the probe printed %q", c.out.String())
	}
	// The "transmitter empty" interrupt comes each time it is enabled, or Linux
	// falls back to a timer.
	c.wr(rMCR, 0x08)
	for range 2 {
		c.irqs = 0
		c.wr(rIER, 0x02)
		is("LSR", c.rd(rLSR)&0x60, 0x60)
		is("IIR", c.rd(rIIR), 0xc2)
		is("IIR after it was read", c.rd(rIIR), 0xc1)
		c.wr(rIER, 0)
		if c.irqs != 1 {
			t.Errorf("%d interrupts, want 1", c.irqs)
		}
	}
}

func TestSerialOutput(t *testing.T) {
	c := newConsole()
	c.listen()
	for _, b := range []byte("hello\n") {
		if c.rd(rLSR)&0x20 == 0 {
			t.Fatal("the transmitter is not empty")
		}
		c.wr(rData, b)
	}
	if c.out.String() != "hello\n" || c.irqs != 0 {
		t.Errorf("output %q with %d interrupts, want hello and none", c.out.String(), c.irqs)
	}
	c.wr(rIER, 0x02)
	if c.irqs != 1 || c.rd(rIIR) != 0xc2 {
		t.Errorf("%d interrupts after THRE was enabled, want 1", c.irqs)
	}
	c.wr(rData, 'x') // sent at once: empty again
	if c.irqs != 2 || c.rd(rIIR) != 0xc2 || c.rd(rIIR) != 0xc1 {
		t.Errorf("%d interrupts after a byte, want 2", c.irqs)
	}
}

func TestSerialInput(t *testing.T) {
	c := newConsole()
	c.listen()
	if n, err := c.InjectInput([]byte("abc")); n != 3 || err != nil {
		t.Fatalf("InjectInput = %d, %v", n, err)
	}
	if c.irqs != 1 {
		t.Errorf("%d interrupts, want 1", c.irqs)
	}
	if v := c.rd(rIIR); v != 0xcc {
		t.Errorf("IIR = %#x for 3 bytes below the trigger of 8, want 0xcc (timeout)", v)
	}
	var got []byte
	for c.rd(rLSR)&1 != 0 {
		got = append(got, c.rd(rData))
	}
	if string(got) != "abc" || c.rd(rIIR) != 0xc1 || c.rd(rData) != 0 {
		t.Errorf("guest read %q, then IIR %#x", got, c.rd(rIIR))
	}
	if _, err := c.InjectInput(bytes.Repeat([]byte("z"), 8)); err != nil {
		t.Fatal(err)
	}
	if v := c.rd(rIIR); c.irqs != 2 || v != 0xc4 {
		t.Errorf("IIR = %#x, %d interrupts at the trigger level, want 0xc4, 2", v, c.irqs)
	}
}

// More input than the FIFO holds arrives in order and is bounded.
func TestSerialInputIsBounded(t *testing.T) {
	c := newConsole()
	c.listen()
	in := make([]byte, 3*devices.SerialInputLimit)
	for i := range in {
		in[i] = byte(i * 31 >> 3)
	}
	n, err := c.InjectInput(in)
	if !errors.Is(err, devices.ErrInputFull) || n != devices.SerialInputLimit {
		t.Fatalf("InjectInput = %d, %v, want %d and ErrInputFull", n, err, devices.SerialInputLimit)
	}
	more, err := c.InjectInput(in[n:])
	if !errors.Is(err, devices.ErrInputFull) || more != 16 { // what the FIFO took
		t.Errorf("a second InjectInput took %d, %v, want 16", more, err)
	}
	n += more
	if n, err := c.InjectInput(in[:1]); n != 0 || !errors.Is(err, devices.ErrInputFull) {
		t.Errorf("a third InjectInput took %d, %v", n, err)
	}
	var got []byte
	for c.rd(rLSR)&1 != 0 {
		got = append(got, c.rd(rData))
	}
	if !bytes.Equal(got, in[:n]) {
		t.Errorf("the guest read %d bytes, not the %d that were taken", len(got), n)
	}
	if st := c.State(); st.Overrun {
		t.Error("host input overran the receiver")
	}
}

func TestSerialLoopback(t *testing.T) {
	c := newConsole()
	c.wr(rIIR, 1)
	c.wr(rIER, 0x0f)
	c.wr(rMCR, 0x1a)
	if _, err := c.InjectInput([]byte("host")); err != nil {
		t.Fatal(err)
	}
	for i := range byte(17) {
		c.wr(rData, 'a'+i)
	}
	if c.out.Len() != 0 || c.irqs != 0 {
		t.Errorf("loopback printed %q, raised %d interrupts", c.out.String(), c.irqs)
	}
	if v := c.rd(rIIR); v != 0xc6 {
		t.Errorf("IIR = %#x after an overrun, want 0xc6 (line status)", v)
	}
	if v := c.rd(rLSR); v != 0x63 {
		t.Errorf("LSR = %#x after an overrun, want 0x63", v)
	}
	if v := c.rd(rLSR); v != 0x61 {
		t.Errorf("LSR = %#x when read again, want 0x61", v)
	}
	var got []byte
	for c.rd(rLSR)&1 != 0 {
		got = append(got, c.rd(rData))
	}
	if string(got) != "abcdefghijklmnop" {
		t.Errorf("looped back %q", got)
	}
	c.wr(rMCR, 0x08) // host input arrives when the line is connected again
	if c.rd(rData) != 'h' || c.irqs == 0 {
		t.Error("host input did not arrive after loopback")
	}
}

func TestSerialFIFOControl(t *testing.T) {
	c := newConsole()
	c.wr(rIER, 1)
	c.wr(rMCR, 8)
	if _, err := c.InjectInput([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if v := c.rd(rIIR); v != 0x04 {
		t.Errorf("IIR = %#x without FIFOs, want 4", v)
	}
	if a, b := c.rd(rData), c.rd(rData); a != 'a' || b != 'b' || c.irqs != 2 {
		t.Errorf("read %q %q with %d interrupts, want a, b, 2", a, b, c.irqs)
	}
	c.wr(rIIR, 1)
	_, _ = c.InjectInput([]byte("xyz"))
	c.wr(rIIR, 3) // clear the receive FIFO
	if v := c.rd(rLSR); v&1 != 0 {
		t.Errorf("LSR = %#x after the FIFO was cleared", v)
	}
	// The interrupt needs OUT2.
	c.wr(rMCR, 0)
	c.irqs = 0
	_, _ = c.InjectInput([]byte("q"))
	if c.irqs != 0 {
		t.Error("an interrupt without OUT2")
	}
	c.wr(rMCR, 8)
	if c.irqs != 1 {
		t.Error("no interrupt when OUT2 was set with data waiting")
	}
}

type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) { f.n++; return 0, io.ErrClosedPipe }

func TestSerialCountsDroppedOutput(t *testing.T) {
	w := &failing{}
	s := devices.NewSerial(w, func() error { return io.ErrClosedPipe })
	for range 5 {
		s.Write(0, []byte{'x'})
	}
	if s.Dropped() != 5 || w.n != 5 {
		t.Errorf("dropped %d of %d, want 5", s.Dropped(), w.n)
	}
}

// A slow writer holds up only output: the guest's other accesses and the host's
// input go on.
func TestSlowOutputDoesNotBlockInput(t *testing.T) {
	r, w := io.Pipe() // a writer that blocks until someone reads
	s := devices.NewSerial(w, nil)
	var wg sync.WaitGroup
	wg.Go(func() { s.Write(0, []byte{'x'}) })
	if _, err := s.InjectInput([]byte("i")); err != nil {
		t.Fatal(err)
	}
	p := []byte{0}
	s.Read(0, p)
	if p[0] != 'i' {
		t.Errorf("read %q", p)
	}
	if _, err := r.Read(p); err != nil || p[0] != 'x' {
		t.Errorf("output %q, %v", p, err)
	}
	wg.Wait()
}

func TestSerialStateRoundTrip(t *testing.T) {
	c := newConsole()
	c.listen()
	c.wr(rIER, 0x07)
	c.wr(rSCR, 0x42)
	_, _ = c.InjectInput([]byte(strings.Repeat("in", 20)))
	js, err := json.Marshal(c.State())
	if err != nil {
		t.Fatal(err)
	}
	var st devices.SerialState
	if err := json.Unmarshal(js, &st); err != nil {
		t.Fatal(err)
	}
	c2 := newConsole()
	if err := c2.Restore(st); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c2.State(), c.State()) || c2.irqs != 1 {
		t.Errorf("restored %+v, want %+v; %d interrupts", c2.State(), c.State(), c2.irqs)
	}
	for i := range 40 {
		if a, b := c.rd(rData), c2.rd(rData); a != b || a != "in"[i%2] {
			t.Fatalf("byte %d: %q and %q", i, a, b)
		}
	}
	for name, bad := range map[string]devices.SerialState{
		"FIFO":  {FIFO: make([]byte, 17)},
		"input": {Input: make([]byte, devices.SerialInputLimit+1)},
		"IER":   {IER: 0x10},
		"MCR":   {MCR: 0x20},
	} {
		before := c2.State()
		if err := c2.Restore(bad); !errors.Is(err, devices.ErrBadState) || !reflect.DeepEqual(before, c2.State()) {
			t.Errorf("%s: Restore = %v, want ErrBadState and no change", name, err)
		}
	}
}

// Edges are never lost: a guest that handles the interrupt as Linux does, until
// IIR shows nothing, gets every byte although it sleeps between edges.
func TestNoInterruptEdgeIsLost(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	edge := make(chan struct{}, 1)
	s := devices.NewSerial(nil, func() error {
		select {
		case edge <- struct{}{}:
		default:
		}
		return nil
	})
	rd := func(reg uint64) byte { p := []byte{0}; s.Read(reg, p); return p[0] }
	for reg, v := range []byte{rIIR: 1, rMCR: 8} {
		s.Write(uint64(reg), []byte{v})
	}
	s.Write(rIER, []byte{1})
	want := make([]byte, 100_000)
	for i := range want {
		want[i] = byte(r.Uint32())
	}
	var got []byte
	var wg sync.WaitGroup
	wg.Go(func() {
		for len(got) < len(want) {
			<-edge
			for rd(rIIR)&1 == 0 {
				for rd(rLSR)&1 != 0 {
					got = append(got, rd(rData))
				}
			}
		}
	})
	for p := want; len(p) > 0; {
		n, _ := s.InjectInput(p[:min(len(p), 1+r.IntN(40))])
		p = p[n:]
	}
	wg.Wait()
	if !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
}

// FuzzSerial: a script of 2-byte steps: register and operation, value.
// Properties: no panic; the FIFO and the input stay bounded; the state restores;
// output has one byte per write of THR outside loopback and DLAB.
func FuzzSerial(f *testing.F) {
	f.Add([]byte{0x14, 0x0b, 0x11, 0x0f, 0x12, 0xc1, 0x20, 'x', 0x10, 'y', 0, 0, 2, 0, 5, 0})
	f.Add([]byte{0x14, 0x1a, 0x10, 'a', 0x10, 'b', 0x05, 0, 0x00, 0})
	f.Add([]byte{0x13, 0x80, 0x10, 1, 0x11, 2, 0x00, 0, 0x01, 0, 0x30, 9})
	f.Fuzz(func(t *testing.T, script []byte) {
		c := newConsole()
		sent := 0
		for ; len(script) >= 2; script = script[2:] {
			reg, v := uint64(script[0]&0x0f), script[1]
			switch script[0] >> 4 & 3 {
			case 0:
				c.Read(reg, make([]byte, 1+v%4))
			case 1:
				st := c.State()
				if reg == 0 && st.LCR&0x80 == 0 && st.MCR&0x10 == 0 {
					sent++
				}
				c.wr(reg, v)
			case 2:
				_, _ = c.InjectInput(bytes.Repeat([]byte{v}, int(v)*int(reg)))
			case 3:
				c.Write(reg, make([]byte, v%9*2))
			}
			st := c.State()
			if len(st.FIFO) > 16 || len(st.Input) > devices.SerialInputLimit || st.IER > 15 || st.MCR > 31 {
				t.Fatalf("state %+v", st)
			}
			if c.out.Len() != sent {
				t.Fatalf("%d bytes out, %d written", c.out.Len(), sent)
			}
			if err := newConsole().Restore(st); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkSerialOutput(b *testing.B) {
	s := devices.NewSerial(nil, nil)
	p := []byte{'x'}
	b.ReportAllocs()
	for b.Loop() {
		s.Write(0, p)
	}
}
