// Package acpi builds the few ACPI tables that a Linux guest needs to find its processors and its virtio-mmio devices.
//
// # Domain
//
// ACPI tells an operating system what hardware there is. The firmware leaves a root pointer (RSDP) in memory; it leads to a list of
// tables (XSDT). We make four: the fixed description table (FADT), which says that this is a hardware-reduced machine, with nothing of
// a PC's power management, and which port resets and which powers off; the interrupt controllers (MADT); and the DSDT, a small program
// in a byte code called AML that only declares devices. A virtio-mmio device is a node with the ID LNRO0005, a memory range and an
// interrupt; Linux's virtio_mmio driver binds to it.
//
// Stock distribution kernels cannot be told about virtio-mmio on the command line (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES is off), so this is
// the way that works on all of them.
//
// # Layout
//
//	base+0x000  RSDP (36 bytes, padded to 64)
//	base+0x040  XSDT, FADT, MADT, DSDT, each 16-byte aligned
//
// Build returns one blob for one address; it is a pure function of its input, byte for byte.
//
// # Testing
//
// The tests compare the encoder with bytes written by hand from the specification and read the finished tables back with an
// independent walker.
//
// Source: ACPI specification 6.5; section numbers below refer to it.
package acpi
