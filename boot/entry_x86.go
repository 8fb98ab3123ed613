package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/hutchvm/hutch/kvm"
)

// Control register and EFER bits of the entry state. Source: Intel SDM volume 3, §2.5 and §2.2.1.
const (
	cr0PE = 1 << 0  // protected mode
	cr0ET = 1 << 4  // fixed to 1 on every processor since the 486
	cr0NE = 1 << 5  // FPU errors as exceptions
	cr0PG = 1 << 31 // paging

	cr4PAE = 1 << 5

	eferLME = 1 << 8
	eferLMA = 1 << 10

	ptePresent  = 1 << 0
	pteWritable = 1 << 1
	pteHuge     = 1 << 7

	rflagsFixed = 1 << 1

	apicEnabled = 1 << 11
	apicBSP     = 1 << 8
)

// Selectors that the 64-bit boot protocol fixes: __BOOT_CS and __BOOT_DS.
const (
	bootCS = 0x10
	bootDS = 0x18
)

// gdt is the descriptor table of the entry state. The protocol wants flat 4 GiB segments: execute/read for __BOOT_CS, read/write for
// __BOOT_DS.
var gdt = [4]uint64{
	bootCS >> 3: 0x00af_9b00_0000_ffff, // present, code, execute/read, accessed, long mode, 4 KiB granularity
	bootDS >> 3: 0x00cf_9300_0000_ffff, // present, data, read/write, accessed, 32-bit, 4 KiB granularity
}

// identityGiB is how much the entry page tables map one to one. The protocol asks for the kernel, the zero page and the command line; low
// RAM is all a kernel can be loaded to.
const identityGiB = 4

// writeEntryTables stores GDT and page tables.
func (l *loader) writeEntryTables() error {
	var g [len(gdt) * 8]byte
	for i, d := range gdt {
		binary.LittleEndian.PutUint64(g[i*8:], d)
	}
	if err := l.mem.WriteAt(g[:], gdtBase); err != nil {
		return fmt.Errorf("GDT: %w", err)
	}
	if err := l.mem.WriteAt(identityTables(), pageTables); err != nil {
		return fmt.Errorf("page tables: %w", err)
	}
	return nil
}

// identityTables returns PML4, PDPT and one page directory of 2 MiB pages for each GiB, for address pageTables.
//
// 2 MiB rather than 1 GiB pages: every 64-bit processor has them.
func identityTables() []byte {
	b := make([]byte, (2+identityGiB)*pageSize)
	le := binary.LittleEndian
	const table = ptePresent | pteWritable
	le.PutUint64(b, pageTables+pageSize|table)
	for g := 0; g < identityGiB; g++ {
		le.PutUint64(b[pageSize+g*8:], uint64(pageTables+(2+g)*pageSize)|table)
		for i := 0; i < 512; i++ {
			at := (2+g)*pageSize + i*8
			le.PutUint64(b[at:], uint64(g)<<30|uint64(i)<<21|table|pteHuge)
		}
	}
	return b
}

// entryState is what the 64-bit boot protocol asks for: long mode, paging with the identity map, flat segments, interrupts off, the zero
// page in RSI. Source: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol".
func entryState(entry uint64) (kvm.Regs, kvm.Sregs) {
	regs := kvm.Regs{RIP: entry, RSI: zeroPageBase, RSP: stackTop, RFLAGS: rflagsFixed}
	code := kvm.Segment{Limit: 0xffff_ffff, Selector: bootCS, Type: 0xb, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffff_ffff, Selector: bootDS, Type: 0x3, Present: 1, S: 1, DB: 1, G: 1}
	sregs := kvm.Sregs{
		CS: code, DS: data, ES: data, FS: data, GS: data, SS: data,
		// VM entry in long mode insists on a busy 64-bit TSS and tolerates an LDT that is not used. The kernel loads its own.
		TR:  kvm.Segment{Limit: 0xffff, Type: 0xb, Present: 1},
		LDT: kvm.Segment{Limit: 0xffff, Type: 0x2, Present: 1},
		GDT: kvm.DTable{Base: gdtBase, Limit: uint16(len(gdt)*8 - 1)},
		CR0: cr0PE | cr0ET | cr0NE | cr0PG, CR3: pageTables, CR4: cr4PAE, EFER: eferLME | eferLMA,
		APICBase: LAPICBase | apicEnabled | apicBSP,
	}
	return regs, sregs
}
