package boot

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hutchvm/hutch/boot/acpi"
	"github.com/hutchvm/hutch/virtio"
)

const (
	// MaxCPUs is how many processors can be described. The limit is the room for the MP table and the 8-bit APIC IDs of both forms.
	MaxCPUs = 128

	ioapicPins = 24

	// Values for a vmlinux that came without a bzImage header. They are those of every x86-64 kernel since 2.6.26.
	defaultCmdlineMax    = 2047
	defaultInitrdAddrMax = 0x7fff_ffff

	initrdAlign = 4 // a newc archive must start on a multiple of 4 in the concatenation; the kernel skips zeros up to it
	copyChunk   = 256 << 10
)

// loader is one run of Load.
type loader struct {
	mem    *virtio.Memory
	kernel *Kernel
	params Params

	lowEnd    uint64 // end of RAM below 4 GiB
	high      uint64 // bytes of RAM from HighRAMBase
	initrd    uint64
	initrdLen uint64
	rsdp      uint64
}

func (l *loader) load() (*Entry, error) {
	img := l.kernel.elf
	if err := l.measure(img); err != nil {
		return nil, err
	}
	cmdline, err := l.writeCmdline()
	if err != nil {
		return nil, err
	}
	for _, s := range img.segments {
		if err := l.copyIn(s.paddr, l.kernel.image, s.off, int64(s.filesz)); err != nil {
			return nil, &FormatError{File: l.kernel.Image, Offset: s.off, Kind: ErrTruncated, Detail: "segment cannot be read", Fix: fixGetKernel, Err: err}
		}
	}
	if err := l.writeInitrd(); err != nil {
		return nil, err
	}
	if err := l.writeTables(); err != nil {
		return nil, err
	}
	if err := l.mem.WriteAt(l.zeroPage(uint32(len(cmdline))), zeroPageBase); err != nil {
		return nil, fmt.Errorf("zero page: %w", err)
	}
	if err := l.writeEntryTables(); err != nil {
		return nil, err
	}
	regs, sregs := entryState(img.entry)
	return &Entry{Regs: regs, Sregs: sregs, Cmdline: cmdline, Tables: l.params.Tables}, nil
}

// measure finds where RAM ends and whether everything fits.
func (l *loader) measure(img *elfImage) error {
	size := l.mem.Size()
	l.lowEnd = min(size, LowRAMLimit)
	l.high = size - l.lowEnd
	if !l.mem.Contains(0, l.lowEnd) || l.high > 0 && !l.mem.Contains(HighRAMBase, l.high) {
		return fmt.Errorf("%w: guest memory of %d bytes is not laid out from 0 to %#x and from %#x", ErrBadParams, size, uint64(LowRAMLimit), uint64(HighRAMBase))
	}
	if img.low < biosEnd {
		return &FormatError{File: l.kernel.Image, Kind: ErrUnsupported, Detail: fmt.Sprintf("a segment lies at %#x, below 1 MiB", img.low)}
	}
	// The addresses come from a file: a kernel that asks for more than any low RAM is no matter of memory size.
	if img.end > LowRAMLimit {
		return &FormatError{File: l.kernel.Image, Kind: ErrUnsupported, Detail: fmt.Sprintf("the kernel ends at %#x, above %#x", img.end, uint64(LowRAMLimit))}
	}
	var total uint64
	for _, a := range l.params.Initrd {
		// Sizes are bounded before they are added up.
		if uint64(a.Size) > LowRAMLimit || total > LowRAMLimit {
			return &MemoryError{What: "the initramfs archive " + a.Name, Have: size, Need: mib(uint64(a.Size))}
		}
		total = alignUp(total, initrdAlign) + uint64(a.Size)
	}
	l.initrdLen = total
	kernelEnd, room := alignUp(img.end, pageSize), alignUp(total, pageSize)
	need := mib(kernelEnd + 2*room + workRoom)
	if kernelEnd > l.lowEnd {
		return &MemoryError{What: "the kernel", Have: size, Need: need}
	}
	top := min(l.lowEnd, uint64(l.kernel.initrdMax())+1)
	if total > 0 && (kernelEnd >= top || room > top-kernelEnd) {
		if top < l.lowEnd {
			return fmt.Errorf("%w: an initramfs of %d bytes does not fit between the kernel, which ends at %#x, and %#x, the highest address this kernel takes it at",
				ErrBadParams, total, kernelEnd, top)
		}
		return &MemoryError{What: fmt.Sprintf("an initramfs of %d bytes after the kernel", total), Have: size, Need: need}
	}
	// The archive stays until all of it is unpacked into memory. With less than this the guest would panic in the middle.
	if size < img.end-img.low+2*room+leastRoom {
		return &MemoryError{What: fmt.Sprintf("the kernel with an unpacked initramfs of %d bytes", total), Have: size, Need: need}
	}
	if total > 0 {
		l.initrd = (top - total) &^ (pageSize - 1)
	}
	return nil
}

const (
	// leastRoom is what no kernel can do without beside itself and its initramfs; memory that lacks it is refused.
	leastRoom = 6 << 20
	// workRoom is what a kernel of a distribution needs to reach user space: it is part of the advice in MemoryError.
	workRoom = 24 << 20
)

func alignUp(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }

func mib(n uint64) uint64 { return alignUp(n, 1<<20) }

// writeCmdline stores the command line, device descriptions first: what follows a "--" of the user goes to init.
func (l *loader) writeCmdline() (string, error) {
	line := l.params.Cmdline
	if l.params.Tables == TablesMP {
		line = strings.TrimSpace(strings.Join(append(deviceArgs(l.params.Devices), line), " "))
	}
	if limit := min(int(l.kernel.cmdlineLimit()), cmdlineRoom-1); len(line) > limit {
		return "", &CmdlineError{Len: len(line), Max: limit}
	}
	if err := l.mem.WriteAt(append([]byte(line), 0), cmdlineBase); err != nil {
		return "", fmt.Errorf("command line: %w", err)
	}
	return line, nil
}

// copyIn copies n bytes of r into guest memory.
func (l *loader) copyIn(gpa uint64, r io.ReaderAt, off, n int64) error {
	buf := make([]byte, min(n, copyChunk))
	for n > 0 {
		p := buf[:min(n, copyChunk)]
		if err := readFullAt(r, p, off); err != nil {
			return err
		}
		if err := l.mem.WriteAt(p, gpa); err != nil {
			return err
		}
		gpa, off, n = gpa+uint64(len(p)), off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

func (l *loader) writeInitrd() error {
	gpa := l.initrd
	for _, a := range l.params.Initrd {
		gpa = alignUp(gpa, initrdAlign)
		if err := l.copyIn(gpa, a.Data, 0, a.Size); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return &FormatError{File: a.Name, Offset: a.Size, Kind: ErrTruncated, Detail: fmt.Sprintf("the initramfs archive is shorter than the %d bytes it was announced with", a.Size), Err: err}
			}
			return fmt.Errorf("initramfs archive %s: %w", a.Name, err)
		}
		gpa += uint64(a.Size)
	}
	return nil
}

// writeTables stores the description of processors and devices.
func (l *loader) writeTables() error {
	if l.params.Tables == TablesMP {
		blob := mpTable(l.params.CPUs, l.params.Devices)
		if mpBase+len(blob) > biosEnd {
			return fmt.Errorf("%w: the MP table takes %d bytes", ErrBadParams, len(blob))
		}
		if err := l.mem.WriteAt(blob, mpBase); err != nil {
			return fmt.Errorf("MP table: %w", err)
		}
		return nil
	}
	c := acpi.Config{
		CPUs: l.params.CPUs, LAPICBase: LAPICBase, IOAPICBase: IOAPICBase, SerialPort: SerialPort, SerialGSI: SerialGSI,
		ResetPort: ResetPort, ResetValue: ResetValue, SleepControlPort: SleepControlPort, SleepStatusPort: SleepStatusPort,
	}
	for _, d := range l.params.Devices {
		c.Devices = append(c.Devices, acpi.Device{Base: d.Base, Size: d.Size, GSI: d.IRQ})
	}
	blob, err := acpi.Build(acpiBase, c)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadParams, err)
	}
	if acpiBase+len(blob) > mpBase {
		return fmt.Errorf("%w: the ACPI tables take %d bytes", ErrBadParams, len(blob))
	}
	if err := l.mem.WriteAt(blob, acpiBase); err != nil {
		return fmt.Errorf("ACPI tables: %w", err)
	}
	l.rsdp = acpiBase
	return nil
}
