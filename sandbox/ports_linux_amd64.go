package sandbox

import (
	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/devices"
)

// exitHandler serves the guest's accesses to ports and to addresses without memory. It is called on virtual CPU threads, several at a time;
// the buses are fixed once the machine is built and each device has its own lock.
type exitHandler machine

func (h *exitHandler) PortIn(port uint16, p []byte) {
	h.exit()
	h.ports.Read(uint64(port), p)
}

func (h *exitHandler) PortOut(port uint16, p []byte) {
	h.exit()
	h.ports.Write(uint64(port), p)
}

func (h *exitHandler) MMIORead(gpa uint64, p []byte) {
	h.exit()
	h.mmio.Read(gpa, p)
}

func (h *exitHandler) MMIOWrite(gpa uint64, p []byte) {
	h.exit()
	h.mmio.Write(gpa, p)
}

// exit notes that the guest has come to use a device. It mostly only reads, so that virtual CPUs do not contend for the word.
func (h *exitHandler) exit() {
	if !h.exited.Load() {
		h.exited.Store(true)
	}
}

// controlPort is one of the ports that the ACPI tables name for power-off and reset: it reads as zero, and writing value calls act.
type controlPort struct {
	value byte
	act   func()
}

func (c *controlPort) Read(_ uint64, p []byte) { clear(p) }

func (c *controlPort) Write(_ uint64, p []byte) {
	if c.act != nil && len(p) > 0 && p[0] == c.value {
		c.act()
	}
}

// addPorts fills the port bus.
func (m *machine) addPorts() error {
	raise, err := m.addIRQ(boot.SerialGSI)
	if err != nil {
		return err
	}
	m.serial = devices.NewSerial(m.console, raise)
	reset := func() { m.end(m.resetCause(ReasonReboot)) }
	powerOff := func() { m.end(&StoppedError{Reason: ReasonPowerOff}) }
	for _, d := range []struct {
		name       string
		base, size uint64
		dev        devices.Device
	}{
		{"serial", boot.SerialPort, devices.SerialSize, m.serial},
		{"sleep control", boot.SleepControlPort, 1, &controlPort{boot.PowerOffValue, powerOff}},
		{"sleep status", boot.SleepStatusPort, 1, &controlPort{}},
		{"reset", boot.ResetPort, 1, &controlPort{boot.ResetValue, reset}},
		{"i8042", boot.I8042Port, devices.I8042Size, devices.NewI8042(reset)},
	} {
		if err := m.ports.Add(d.name, d.base, d.size, d.dev); err != nil {
			return err
		}
	}
	return devices.AddPortStubs(m.ports, reset)
}
