package acpi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrConfig is what errors.Is finds in an error of Build.
var ErrConfig = errors.New("bad ACPI description")

// Device is one virtio-mmio device.
type Device struct {
	Base, Size uint64 // guest-physical range; below 4 GiB
	GSI        uint32 // global system interrupt
}

// Config is what the tables describe. All fields but Devices and SerialPort are needed.
type Config struct {
	CPUs    int // local APIC IDs 0..CPUs-1; at most 254
	Devices []Device

	LAPICBase, IOAPICBase uint32

	SerialPort uint16 // base of a 16550 to declare as COM1; 0: none
	SerialGSI  uint32

	// I/O ports, one byte each. Writing ResetValue to ResetPort resets; writing SleepValue to SleepControlPort powers off.
	ResetPort, SleepControlPort, SleepStatusPort uint16
	ResetValue                                   byte
}

// sleepTypeS5 is the number that the DSDT declares for "off" and the guest writes into the sleep control register.
const sleepTypeS5 = 5

// SleepValue is the byte a guest writes to the sleep control port to power off: SLP_EN and the sleep type of \_S5.
// Source: ACPI 6.5 §4.8.3.7, "Sleep Control Register".
const SleepValue = sleepTypeS5<<2 | 1<<5

// MaxCPUs is how many processors the MADT can name with 8-bit APIC IDs: 0xff addresses all of them, and one is left free.
const MaxCPUs = 254

const (
	headerBytes = 36
	rsdpBytes   = 36
	fadtBytes   = 276
	tablesStart = 64
)

// Build returns the tables for guest-physical address base; the RSDP is at its start. len of the result tells how much room they take:
// about 700 bytes and 60 for each device and 8 for each processor.
//
// Errors: ErrConfig wrapped with the value that cannot be described.
func Build(base uint64, c Config) ([]byte, error) {
	if c.CPUs < 1 || c.CPUs > MaxCPUs {
		return nil, fmt.Errorf("%w: %d processors, 1 to %d are possible", ErrConfig, c.CPUs, MaxCPUs)
	}
	if base%16 != 0 || base > math.MaxUint32/2 {
		return nil, fmt.Errorf("%w: base address %#x", ErrConfig, base)
	}
	if len(c.Devices) > 256 {
		return nil, fmt.Errorf("%w: %d devices, at most 256 are possible", ErrConfig, len(c.Devices))
	}
	for _, d := range c.Devices {
		if d.Size == 0 || d.Base+d.Size < d.Base || d.Base+d.Size > 1<<32 {
			return nil, fmt.Errorf("%w: device at %#x with %#x bytes does not lie below 4 GiB", ErrConfig, d.Base, d.Size)
		}
	}
	blob := make([]byte, tablesStart)
	add := func(table []byte) (gpa uint64) {
		for len(blob)%16 != 0 {
			blob = append(blob, 0)
		}
		gpa = base + uint64(len(blob))
		blob = append(blob, table...)
		return gpa
	}
	dsdt := add(table("DSDT", 2, dsdtBody(c)))
	fadt := add(fadtTable(c, dsdt))
	madt := add(table("APIC", 5, madtBody(c)))
	le := binary.LittleEndian
	xsdt := add(table("XSDT", 1, le.AppendUint64(le.AppendUint64(nil, fadt), madt)))
	copy(blob, rsdp(xsdt))
	return blob, nil
}

// rsdp is the root pointer. Source: §5.2.5.3.
func rsdp(xsdt uint64) []byte {
	b := make([]byte, rsdpBytes)
	copy(b[0:8], "RSD PTR ")
	copy(b[9:15], oemID)
	b[15] = 2 // revision
	binary.LittleEndian.PutUint32(b[20:24], rsdpBytes)
	binary.LittleEndian.PutUint64(b[24:32], xsdt)
	b[8] = checksum(b[:20]) // the part that ACPI 1.0 knew
	b[32] = checksum(b)
	return b
}

const (
	oemID     = "HUTCH "
	oemTable  = "HUTCHVM "
	creatorID = "HTCH"
)

// table puts a standard header before body. Source: §5.2.6.
func table(signature string, revision byte, body []byte) []byte {
	b := make([]byte, headerBytes, headerBytes+len(body))
	copy(b[0:4], signature)
	binary.LittleEndian.PutUint32(b[4:8], uint32(headerBytes+len(body)))
	b[8] = revision
	copy(b[10:16], oemID)
	copy(b[16:24], oemTable)
	binary.LittleEndian.PutUint32(b[24:28], 1)
	copy(b[28:32], creatorID)
	binary.LittleEndian.PutUint32(b[32:36], 1)
	b = append(b, body...)
	b[9] = checksum(b)
	return b
}

// checksum is the byte that makes b sum to zero, if its place in b holds zero.
func checksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum += c
	}
	return -sum
}

// FADT flags and boot architecture bits. Source: §5.2.9, tables "Fixed ACPI Description Table Fixed Feature Flags" and
// "IA-PC Boot Architecture Flags".
const (
	fadtWBINVD     = 1 << 0
	fadtC1         = 1 << 2
	fadtPowerBtn   = 1 << 4 // no fixed power button
	fadtSleepBtn   = 1 << 5 // no fixed sleep button
	fadtResetReg   = 1 << 10
	fadtHWReduced  = 1 << 20
	bootNoVGA      = 1 << 2
	bootNoRTC      = 1 << 5 // the guest then leaves the CMOS ports alone
	spaceSystemIO  = 1
	accessSizeByte = 1
)

func fadtTable(c Config, dsdt uint64) []byte {
	b := make([]byte, fadtBytes-headerBytes)
	at := func(off int) []byte { return b[off-headerBytes:] }
	le := binary.LittleEndian
	// Offsets are those of the specification, from the start of the table.
	le.PutUint32(at(40), uint32(dsdt))                                                            // DSDT
	le.PutUint16(at(109), bootNoVGA|bootNoRTC)                                                    // IAPC_BOOT_ARCH: no 8042 announced either
	le.PutUint32(at(112), fadtWBINVD|fadtC1|fadtPowerBtn|fadtSleepBtn|fadtResetReg|fadtHWReduced) // Flags
	copy(at(116), portRegister(c.ResetPort))                                                      // RESET_REG
	at(128)[0] = c.ResetValue                                                                     // RESET_VALUE
	at(131)[0] = 5                                                                                // minor version
	le.PutUint64(at(140), dsdt)                                                                   // X_DSDT
	copy(at(244), portRegister(c.SleepControlPort))                                               // SLEEP_CONTROL_REG
	copy(at(256), portRegister(c.SleepStatusPort))                                                // SLEEP_STATUS_REG
	copy(at(268), "HUTCH\x00\x00\x00")                                                            // hypervisor vendor
	return table("FACP", 6, b)
}

// portRegister is a generic address structure for a one-byte I/O port. Source: §5.2.3.2.
func portRegister(port uint16) []byte {
	return binary.LittleEndian.AppendUint64([]byte{spaceSystemIO, 8, 0, accessSizeByte}, uint64(port))
}

// madtBody lists the interrupt controllers. Source: §5.2.12.
func madtBody(c Config) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, c.LAPICBase)
	b = le.AppendUint32(b, 0) // flags: no 8259 pair
	for id := 0; id < c.CPUs; id++ {
		b = append(b, 0, 8, byte(id), byte(id)) // processor local APIC: type, length, UID, APIC ID
		b = le.AppendUint32(b, 1)               // enabled
	}
	b = append(b, 1, 12, 0, 0) // I/O APIC: type, length, ID, reserved
	b = le.AppendUint32(b, c.IOAPICBase)
	b = le.AppendUint32(b, 0)             // its first GSI
	return append(b, 4, 6, 0xff, 0, 0, 1) // NMI on LINT1 of every processor
}

// dsdtBody declares the devices and the off state.
func dsdtBody(c Config) []byte {
	var nodes [][]byte
	for i, d := range c.Devices {
		nodes = append(nodes, device(fmt.Sprintf("V%03X", i),
			name("_HID", text("LNRO0005")),
			name("_UID", integer(uint64(i))),
			name("_CRS", resources(memory32Fixed(uint32(d.Base), uint32(d.Size)), interruptEdge(d.GSI)))))
	}
	if c.SerialPort != 0 {
		// A hardware-reduced machine has no legacy interrupts: without this node the driver gets the port but not its interrupt.
		nodes = append(nodes, device("COM1",
			name("_HID", eisaID("PNP0501")),
			name("_UID", integer(0)),
			name("_CRS", resources(ioPorts(c.SerialPort, 8), interruptEdge(c.SerialGSI)))))
	}
	s5 := name("_S5_", pack(integer(sleepTypeS5), integer(0), integer(0), integer(0)))
	return append(rootScope("_SB_", nodes...), s5...)
}
