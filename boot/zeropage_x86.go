package boot

import "encoding/binary"

// Fields of struct boot_params, the zero page. Source: Documentation/arch/x86/zero-page.rst; those from 0x1f1 on are the setup header of
// Documentation/arch/x86/boot.rst.
//
//	offset  size  name
const (
	bpACPIRSDPAddr  = 0x070 // 8  acpi_rsdp_addr
	bpE820Entries   = 0x1e8 // 1  e820_entries
	bpBootFlag      = 0x1fe // 2  boot_flag
	bpHeader        = 0x202 // 4  header
	bpVersion       = 0x206 // 2  version
	bpTypeOfLoader  = 0x210 // 1  type_of_loader
	bpLoadflags     = 0x211 // 1  loadflags
	bpRamdiskImage  = 0x218 // 4  ramdisk_image
	bpRamdiskSize   = 0x21c // 4  ramdisk_size
	bpCmdLinePtr    = 0x228 // 4  cmd_line_ptr
	bpInitrdAddrMax = 0x22c // 4  initrd_addr_max
	bpKernelAlign   = 0x230 // 4  kernel_alignment
	bpCmdlineSize   = 0x238 // 4  cmdline_size
	bpE820Table     = 0x2d0 // 20 each
	e820EntryBytes  = 20
	zeroPageBytes   = 4096
	loaderUndefined = 0xff   // type_of_loader: no registered boot loader
	loadedHigh      = 1 << 0 // loadflags: the protected-mode code is at 1 MiB or above
	bootProtocol    = 0x020f // 2.15
	kernelAlignment = 0x100_0000
	e820RAM         = 1
	e820Reserved    = 2
)

// zeroPage is the boot_params of this guest.
func (l *loader) zeroPage(cmdlineLen uint32) []byte {
	b := make([]byte, zeroPageBytes)
	le := binary.LittleEndian
	le.PutUint64(b[bpACPIRSDPAddr:], l.rsdp) // 0: the kernel may search for it and will find none
	le.PutUint16(b[bpBootFlag:], bootFlag)
	copy(b[bpHeader:], headerMagic)
	le.PutUint16(b[bpVersion:], bootProtocol)
	b[bpTypeOfLoader] = loaderUndefined
	b[bpLoadflags] = loadedHigh
	if l.initrdLen > 0 {
		le.PutUint32(b[bpRamdiskImage:], uint32(l.initrd)) // below initrd_addr_max, which has 32 bits
		le.PutUint32(b[bpRamdiskSize:], uint32(l.initrdLen))
	}
	le.PutUint32(b[bpCmdLinePtr:], cmdlineBase)
	le.PutUint32(b[bpInitrdAddrMax:], l.kernel.initrdMax())
	le.PutUint32(b[bpKernelAlign:], kernelAlignment)
	le.PutUint32(b[bpCmdlineSize:], cmdlineLen)

	type entry struct {
		base, size uint64
		kind       uint32
	}
	table := []entry{
		{0, lowMemoryEnd, e820RAM},
		{lowMemoryEnd, biosEnd - lowMemoryEnd, e820Reserved},
		{biosEnd, l.lowEnd - biosEnd, e820RAM},
	}
	if l.high > 0 {
		table = append(table, entry{HighRAMBase, l.high, e820RAM})
	}
	b[bpE820Entries] = byte(len(table))
	for i, e := range table {
		p := b[bpE820Table+i*e820EntryBytes:]
		le.PutUint64(p[0:8], e.base)
		le.PutUint64(p[8:16], e.size)
		le.PutUint32(p[16:20], e.kind)
	}
	return b
}
