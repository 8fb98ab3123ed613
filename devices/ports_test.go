package devices_test

import (
	"encoding/json"
	"testing"

	"github.com/hutchvm/hutch/devices"
)

// pc is a port bus with everything that a microVM has, but for the serial port.
func pc(t *testing.T, reset func()) *devices.Bus {
	t.Helper()
	b := &devices.Bus{}
	if err := devices.AddPortStubs(b, reset); err != nil {
		t.Fatal(err)
	}
	if err := b.Add("i8042", devices.I8042Base, devices.I8042Size, devices.NewI8042(reset)); err != nil {
		t.Fatal(err)
	}
	if err := b.Add("com1", devices.COM1Base, devices.SerialSize, devices.NewSerial(nil, nil)); err != nil {
		t.Fatal(err)
	}
	return b
}

func in(b *devices.Bus, port uint64) byte {
	p := []byte{0x5a}
	b.Read(port, p)
	return p[0]
}

func out(b *devices.Bus, port uint64, v byte) { b.Write(port, []byte{v}) }

// Each answer that Linux depends on, at the port it reads.
func TestPortAnswersThatLinuxWaitsFor(t *testing.T) {
	b := pc(t, nil)
	out(b, 0x70, 0x0a) // status register A: no update in progress
	if v := in(b, 0x71); v != 0 {
		t.Errorf("CMOS register A reads %#x, want 0", v)
	}
	if v := in(b, 0x64); v&0x02 != 0 {
		t.Errorf("i8042 status %#x: the input buffer is never empty, a reboot waits for it", v)
	}
	if v := in(b, 0x64); v&0x01 == 0 {
		t.Errorf("i8042 status %#x: Linux takes this for a controller and waits for its answers", v)
	}
	if v := in(b, 0x61); v&0x20 == 0 || v&0xc0 != 0 {
		t.Errorf("port 0x61 reads %#x, want PIT channel 2 high and no NMI reason", v)
	}
	if v := in(b, 0x42); v == 0xff {
		t.Error("the PIT counts 0xff for ever: the quick TSC calibration polls for it")
	}
	out(b, 0x21, 0xfb)
	if v := in(b, 0x21); v == 0xfb {
		t.Error("a PIC seems to be there")
	}
	p := []byte{0, 0, 0, 0x80}
	b.Write(0xcf8, p)
	b.Read(0xcf8, p)
	if p[3] == 0x80 {
		t.Error("the PCI address register reads back: PCI seems to be there")
	}
	for _, port := range []uint64{0x2f8, 0x3e8, 0x2e8, 0x378, 0x3c4, 0x1f7, 0x510} {
		if v := in(b, port); v != 0xff {
			t.Errorf("port %#x reads %#x, want 0xff: there is nothing", port, v)
		}
	}
}

func TestResetLines(t *testing.T) {
	var resets int
	b := pc(t, func() { resets++ })
	for _, c := range []struct {
		port  uint64
		v     byte
		reset bool
	}{
		{0x64, 0xfe, true}, {0x64, 0xf0, true}, {0x64, 0xff, false}, {0x64, 0xf1, false}, {0x64, 0xaa, false}, {0x64, 0x20, false},
		{0x60, 0xfe, false}, {0x61, 0xfe, false}, {0xcf9, 0x06, true}, {0xcf9, 0x02, false}, {0xcf8, 0x06, false}, {0x92, 0x01, false},
	} {
		resets = 0
		out(b, c.port, c.v)
		if (resets == 1) != c.reset {
			t.Errorf("%#x to port %#x: %d resets, want one: %v", c.v, c.port, resets, c.reset)
		}
	}
	resets = 0
	b.Write(0x64, []byte{0xfe, 0xfe})
	b.Write(0xcf8, []byte{6, 6, 6, 6})
	if resets != 0 {
		t.Error("a wide access reset the machine")
	}
	out(pc(t, nil), 0x64, 0xfe) // nobody listens
}

// B22, attack row 34: all ports in all widths, nothing panics.
func TestEveryPortEveryWidth(t *testing.T) {
	b := pc(t, nil)
	for port := range uint64(0x10000) {
		for _, w := range []int{1, 2, 4} {
			p := []byte{0xff, 0xff, 0xff, 0xff}[:w]
			b.Write(port, p)
			b.Read(port, p)
		}
	}
}

func TestPortStubsHaveReasons(t *testing.T) {
	for _, s := range devices.PortStubs {
		if s.Name == "" || s.Reason == "" || s.Size == 0 || s.Base+s.Size > 0x10000 {
			t.Errorf("stub %+v", s)
		}
	}
	b := &devices.Bus{}
	if err := b.Add("x", 0x71, 1, &devices.CMOS{}); err != nil {
		t.Fatal(err)
	}
	if err := devices.AddPortStubs(b, nil); err == nil {
		t.Error("stubs over another device were accepted")
	}
}

func TestSmallDeviceStates(t *testing.T) {
	var c, c2 devices.CMOS
	c.Write(0, []byte{0x0d})
	k, k2 := devices.NewI8042(nil), devices.NewI8042(nil)
	k.Write(4, []byte{0xfe})
	js, err := json.Marshal([]any{c.State(), k.State()})
	if err != nil || string(js) != `[{"Index":13},{"Resets":1}]` {
		t.Errorf("states %s, %v", js, err)
	}
	c2.Restore(c.State())
	k2.Restore(k.State())
	if c2.State() != c.State() || k2.State() != k.State() {
		t.Error("restored states differ")
	}
	p := make([]byte, 2)
	c2.Read(0, p)
	if p[0] != 0x0d || p[1] != 0 {
		t.Errorf("index reads %x", p)
	}
}
