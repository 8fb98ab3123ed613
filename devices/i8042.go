package devices

import "sync/atomic"

// Where the I8042 belongs on the port bus.
const (
	I8042Base = 0x60
	I8042Size = 5
)

// Offsets from I8042Base. Ports 0x62 and 0x63 do not exist.
const (
	i8042Data    = 0 // 0x60 data
	i8042PortB   = 1 // 0x61 system control port B, on the PC between the two
	i8042Command = 4 // 0x64 status (read), command (write)
)

const (
	// i8042Status is what the status register always reads: output buffer full
	// (bit 0), input buffer empty (bit 1 clear).
	//
	// Linux empties the output buffer before it believes in a controller; one
	// that never gets empty is "no controller" after 16 reads (under 1 ms),
	// while a status of 0 makes it wait half a second for the answer to each
	// command. The reboot code waits for bit 1 to be clear, up to 130 ms and
	// 65,536 exits each time, before it pulses the reset line.
	i8042Status = 0x01

	// portBStatus has bit 5 set, the output of PIT channel 2: the TSC
	// calibration spins without bound until it is. Bits 6 and 7 are clear, or an
	// NMI would be taken for a memory error.
	portBStatus = 0x20
)

// I8042 is the part of a PC's keyboard controller that a guest without a
// keyboard needs: the CPU reset line, by which Linux reboots.
//
// Concurrency: all methods may be called from any goroutine.
type I8042 struct {
	reset  func()
	resets atomic.Uint64
}

// I8042State is the serialisable state of an I8042.
type I8042State struct {
	Resets uint64 // pulses of the reset line so far
}

// NewI8042 makes a controller that calls reset, on the vCPU's thread, for each
// pulse of the reset line. reset must return at once; nil ignores the pulses.
func NewI8042(reset func()) *I8042 { return &I8042{reset: reset} }

// Read answers the status (0x64) and port B (0x61); everything else reads 0.
func (k *I8042) Read(off uint64, p []byte) {
	clear(p)
	if len(p) != 1 {
		return
	}
	switch off {
	case i8042Command:
		p[0] = i8042Status
	case i8042PortB:
		p[0] = portBStatus
	}
}

// Write calls reset for a command that pulses output line 0 (0xF0..0xFE, even);
// everything else is ignored.
func (k *I8042) Write(off uint64, p []byte) {
	if off != i8042Command || len(p) != 1 || p[0]&0xf1 != 0xf0 {
		return
	}
	k.resets.Add(1)
	if k.reset != nil {
		k.reset()
	}
}

// State returns the serialisable state.
func (k *I8042) State() I8042State { return I8042State{Resets: k.resets.Load()} }

// Restore sets the state.
func (k *I8042) Restore(s I8042State) { k.resets.Store(s.Resets) }
