package boot

import "encoding/binary"

// The Intel MultiProcessor table tells a kernel without ACPI its processors, the I/O APIC and which interrupt goes to which pin.
// Source: Intel MultiProcessor Specification 1.4, chapter 4.
const (
	mpFloatingBytes = 16
	mpHeaderBytes   = 44

	mpProcessor   = 0
	mpBus         = 1
	mpIOAPIC      = 2
	mpIOInterrupt = 3
	mpLocal       = 4

	mpCPUEnabled = 1 << 0
	mpCPUBoot    = 1 << 1
	mpSpec14     = 4
	apicVersion  = 0x14 // of an integrated local APIC; KVM's reads the same
	ioapicVer    = 0x11
	mpIntVector  = 0 // vectored: the pin's redirection entry has the vector
	mpIntNMI     = 1
	mpIntExt     = 3
	mpIntEdge    = 1<<2 | 1 // trigger mode edge, polarity active high
	mpAllAPICs   = 0xff
	isaInterrupt = 16
)

// mpTable returns the floating pointer and the configuration table for address mpBase.
//
// Every pin of the I/O APIC that a device can use gets an entry, edge triggered and active high, since an irqfd without a resample eventfd
// delivers a pulse. Interrupts from 16 on are entered as ISA ones too: a kernel without PCI maps only what the table lists.
func mpTable(cpus int, devices []Device) []byte {
	le := binary.LittleEndian
	var body []byte
	count := 0
	add := func(b ...byte) {
		body = append(body, b...)
		count++
	}
	for id := 0; id < cpus; id++ {
		e := make([]byte, 20)
		e[0], e[1], e[2], e[3] = mpProcessor, byte(id), apicVersion, mpCPUEnabled
		if id == 0 {
			e[3] |= mpCPUBoot
		}
		le.PutUint32(e[4:8], 0x600)      // signature: family 6; the kernel reads CPUID
		le.PutUint32(e[8:12], 1<<9|1<<0) // features: APIC and FPU on chip
		add(e...)
	}
	add(append([]byte{mpBus, 0}, "ISA   "...)...)
	ioapicID := byte(cpus) // shares the number space of the local APICs
	add(le.AppendUint32([]byte{mpIOAPIC, ioapicID, ioapicVer, 1}, IOAPICBase)...)
	pins := isaInterrupt
	for _, d := range devices {
		pins = max(pins, int(d.IRQ)+1)
	}
	for irq := 0; irq < min(pins, ioapicPins); irq++ {
		add(mpIOInterrupt, mpIntVector, mpIntEdge, 0, 0, byte(irq), ioapicID, byte(irq))
	}
	add(mpLocal, mpIntExt, 0, 0, 0, 0, 0, 0)
	add(mpLocal, mpIntNMI, 0, 0, 0, 0, mpAllAPICs, 1)

	f := make([]byte, mpFloatingBytes)
	copy(f, "_MP_")
	le.PutUint32(f[4:8], mpBase+mpFloatingBytes)
	f[8], f[9] = 1, mpSpec14 // length in 16-byte units, version
	f[10] = mpChecksum(f)

	h := make([]byte, mpHeaderBytes)
	copy(h, "PCMP")
	le.PutUint16(h[4:6], uint16(mpHeaderBytes+len(body)))
	h[6] = mpSpec14
	copy(h[8:16], "HUTCH   ")
	copy(h[16:28], "microVM     ")
	le.PutUint16(h[34:36], uint16(count))
	le.PutUint32(h[36:40], LAPICBase)
	table := append(h, body...)
	table[7] = mpChecksum(table)
	return append(f, table...)
}

func mpChecksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum += c
	}
	return -sum
}
