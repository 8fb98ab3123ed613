package devices

import "sync/atomic"

// PortStub is one range of ports which answers a constant.
type PortStub struct {
	Name       string
	Base, Size uint64
	Value      byte   // every byte read
	Reason     string // why this answer
}

// PortStubs are the ports that AddPortStubs adds. Ports that are not here and
// have no device read as all ones, which is how the guest finds out that the
// other serial ports, the parallel port, VGA and so on do not exist.
//
// Ports of chips that KVM emulates when it was asked to (PIC, PIT) never get
// here then.
var PortStubs = []PortStub{
	{"dma1", 0x00, 0x10, 0x00, "the DMA controller is programmed blindly at boot"},
	{"pic1", 0x20, 0x02, 0xff, "a mask register that does not read back tells Linux that there is no 8259"},
	{"pit", 0x40, 0x04, 0x00, "the quick TSC calibration polls for a count of 0xff: all ones would keep it polling for 100,000 exits"},
	{"post", 0x80, 0x01, 0x00, "written as a delay of 1 us by old drivers"},
	{"dmapage", 0x81, 0x0f, 0x00, "DMA page registers, programmed blindly at boot"},
	{"porta", 0x92, 0x01, 0x02, "system control port A: A20 is on"},
	{"pic2", 0xa0, 0x02, 0xff, "like pic1"},
	{"dma2", 0xc0, 0x20, 0x00, "like dma1"},
	{"delay", 0xed, 0x01, 0x00, "the alternative delay port (io_delay=0xed)"},
	{"elcr", 0x4d0, 0x02, 0x00, "edge/level control of the PIC: all edge"},
}

// PCI configuration ports, and the reset control register among them.
const (
	PCIConfigBase = 0xcf8
	PCIConfigSize = 8
	pciResetOff   = 1 // 0xcf9
)

// CMOS index and data ports.
const (
	CMOSBase = 0x70
	CMOSSize = 2
)

// AddPortStubs adds the stubs, a CMOS and the PCI configuration ports to the
// port bus. reset is called when the guest resets the machine through port
// 0xcf9; nil ignores that. Errors: *RangeError.
func AddPortStubs(b *Bus, reset func()) error {
	for _, s := range PortStubs {
		if err := b.Add(s.Name, s.Base, s.Size, constant(s.Value)); err != nil {
			return err
		}
	}
	if err := b.Add("cmos", CMOSBase, CMOSSize, &CMOS{}); err != nil {
		return err
	}
	return b.Add("pci", PCIConfigBase, PCIConfigSize, &noPCI{reset: reset})
}

// constant is a Device that reads as one byte value and takes no writes.
type constant byte

func (c constant) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = byte(c)
	}
}

func (constant) Write(uint64, []byte) {}

// CMOS is a real-time clock without a battery: all its bytes read 0.
//
// A missing one would read 0xff, whose bit 7 is "update in progress" in status
// register A: Linux waits a second for that to pass, several times. The guest
// has its time from kvmclock.
//
// Concurrency: all methods may be called from any goroutine. The zero value is
// ready.
type CMOS struct {
	index atomic.Uint32
}

// CMOSState is the serialisable state of a CMOS.
type CMOSState struct {
	Index byte // register selected through port 0x70
}

// Read gives the index, or 0 for the data of any register.
func (c *CMOS) Read(off uint64, p []byte) {
	clear(p)
	if off == 0 && len(p) > 0 {
		p[0] = byte(c.index.Load())
	}
}

// Write selects a register; data is dropped.
func (c *CMOS) Write(off uint64, p []byte) {
	if off == 0 && len(p) > 0 {
		c.index.Store(uint32(p[0]))
	}
}

// State returns the serialisable state.
func (c *CMOS) State() CMOSState { return CMOSState{Index: byte(c.index.Load())} }

// Restore sets the state.
func (c *CMOS) Restore(s CMOSState) { c.index.Store(uint32(s.Index)) }

// noPCI answers the PCI configuration ports with all ones: the address register
// does not read back, so Linux concludes that there is no PCI. Port 0xcf9, in the
// middle of them, resets the machine (bit 2 set).
type noPCI struct {
	reset func()
}

func (n *noPCI) Read(_ uint64, p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}

func (n *noPCI) Write(off uint64, p []byte) {
	if off == pciResetOff && len(p) == 1 && p[0]&0x04 != 0 && n.reset != nil {
		n.reset()
	}
}
