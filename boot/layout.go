package boot

// The guest-physical memory map. Everything that names an address of it uses these constants.
//
//	0x0000_0500  GDT of the entry state
//	0x0000_7000  zero page (struct boot_params)
//	0x0000_9000  page tables of the entry state: PML4, PDPT, four page directories
//	0x0002_0000  kernel command line
//	0x0009_fc00  end of conventional memory; reserved up to 1 MiB
//	0x000e_0000  ACPI tables
//	0x000f_0000  MP table, where a kernel without ACPI looks for it
//	0x0010_0000  RAM again: the kernel at its own address, initramfs as high as allowed
//	0xc000_0000  end of low RAM at the latest
//	0xd000_0000  virtio-mmio slots
//	0xfec0_0000  I/O APIC
//	0xfee0_0000  local APICs
//	0xfffb_c000  identity map page and TSS that KVM wants on Intel
//	0x1_0000_0000  the rest of RAM
const (
	LowRAMLimit = 0xc000_0000   // RAM below 4 GiB ends here at the latest
	HighRAMBase = 0x1_0000_0000 // where the rest of it starts

	MMIOBase     = 0xd000_0000 // slot i lies at MMIOBase + i*MMIOSlotSize and raises GSI MMIOFirstGSI+i
	MMIOSlotSize = 0x1000
	MMIOFirstGSI = 5
	// MMIOSlots is how many slots there are: KVM's I/O APIC has pins 0 to 23.
	MMIOSlots = 24 - MMIOFirstGSI

	IOAPICBase      = 0xfec0_0000
	LAPICBase       = 0xfee0_0000
	IdentityMapBase = 0xfffb_c000 // KVM_SET_IDENTITY_MAP_ADDR
	TSSBase         = 0xfffb_d000 // KVM_SET_TSS_ADDR, three pages

	SerialPort = 0x3f8 // COM1, a 16550
	SerialGSI  = 4
	I8042Port  = 0x60 // data; 0x64 is status and command. Command 0xfe pulses the reset line (`reboot=k`).

	// Ports that the ACPI tables name, one byte each. Writing PowerOffValue to SleepControlPort means: power off; writing ResetValue to
	// ResetPort means: reset. SleepStatusPort reads as 0 and ignores writes.
	SleepControlPort = 0x600
	SleepStatusPort  = 0x601
	ResetPort        = 0x602
	ResetValue       = 0x52
	PowerOffValue    = 0x34 // acpi.SleepValue

	gdtBase      = 0x0500
	zeroPageBase = 0x7000
	stackTop     = 0x6ff0 // below the zero page; a 64-bit kernel sets its own stack before it needs one
	pageTables   = 0x9000
	cmdlineBase  = 0x2_0000
	cmdlineRoom  = 0x1_0000
	lowMemoryEnd = 0x9_fc00
	acpiBase     = 0xe_0000
	mpBase       = 0xf_0000
	biosEnd      = 0x10_0000 // 1 MiB: reserved area ends, kernel memory starts

	pageSize = 4096
)

// MMIODevice returns the description of virtio-mmio slot i. ok is false if there is no such slot.
func MMIODevice(i int) (d Device, ok bool) {
	if i < 0 || i >= MMIOSlots {
		return Device{}, false
	}
	return Device{Base: MMIOBase + uint64(i)*MMIOSlotSize, Size: MMIOSlotSize, IRQ: uint32(MMIOFirstGSI + i)}, true
}

// Device is one virtio-mmio device as the guest is told about it.
type Device struct {
	Base, Size uint64 // guest-physical range
	IRQ        uint32 // GSI, which is the I/O APIC pin
}
