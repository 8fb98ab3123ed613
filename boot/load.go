package boot

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/hutchvm/hutch/kvm"
	"github.com/hutchvm/hutch/virtio"
)

// Tables says how the guest is told about its processors and devices.
type Tables int

const (
	// TablesAuto picks TablesMP for a kernel that is known to lack ACPI, else TablesACPI.
	TablesAuto Tables = iota
	// TablesACPI: hardware-reduced ACPI. Works on every distribution kernel.
	TablesACPI
	// TablesMP: an Intel MP table, and virtio_mmio.device= on the command line. For kernels without ACPI; needs CONFIG_X86_MPPARSE and
	// CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES.
	TablesMP
)

func (t Tables) String() string {
	switch t {
	case TablesAuto:
		return "auto"
	case TablesACPI:
		return "ACPI"
	case TablesMP:
		return "MP table"
	}
	return fmt.Sprintf("Tables(%d)", int(t))
}

// Archive is one initramfs archive, raw newc or packed with whatever the kernel can unpack. Data is read once, by Load.
type Archive struct {
	Name string // for messages
	Data io.ReaderAt
	Size int64 // bytes
}

// BytesArchive returns an Archive of b.
func BytesArchive(name string, b []byte) Archive {
	return Archive{Name: name, Data: bytes.NewReader(b), Size: int64(len(b))}
}

// Params says what Load puts into guest memory beside the kernel.
type Params struct {
	// Initrd are archives that the kernel unpacks in this order into one tree; later files replace earlier ones. May be empty.
	Initrd []Archive
	// Cmdline is the kernel command line without the parts that describe devices: see Cmdline.
	Cmdline string
	// CPUs is the number of processors, APIC IDs 0..CPUs-1. Zero means 1.
	CPUs int
	// Devices are the virtio-mmio devices.
	Devices []Device
	// Tables is TablesAuto unless a test wants another choice.
	Tables Tables
}

// Entry is the state of the first vCPU at the first guest instruction.
type Entry struct {
	Regs  kvm.Regs
	Sregs kvm.Sregs
	// Cmdline is the whole command line, device descriptions included, for diagnostics.
	Cmdline string
	// Tables is the choice that was made.
	Tables Tables
}

// Apply copies the entry state into s, which the caller took from KVM_GET_SREGS: the APIC base, CR8 and the interrupt bitmap stay as KVM
// set them.
func (e *Entry) Apply(s *kvm.Sregs) {
	apic, cr8, bitmap := s.APICBase, s.CR8, s.InterruptBitmap
	*s = e.Sregs
	s.APICBase, s.CR8, s.InterruptBitmap = apic, cr8, bitmap
}

// Load lays kernel, initramfs, command line and tables into mem and returns the entry state of vCPU 0; the others wait for a start-up IPI.
//
// mem has RAM from 0 to at most LowRAMLimit and the rest from HighRAMBase, all zero: memory a segment leaves blank is not written.
// On an error mem may be partly filled; nothing else is left behind.
//
// Errors: *MemoryError, *CmdlineError, ErrBadParams with the value, *FormatError if the kernel file changed, an error of an archive's
// reader with its name. Concurrency: none with other users of mem.
// Source: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol".
func Load(mem *virtio.Memory, k *Kernel, p Params) (*Entry, error) {
	if p.CPUs == 0 {
		p.CPUs = 1
	}
	if p.Tables == TablesAuto {
		p.Tables = k.tables()
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	l := &loader{mem: mem, kernel: k, params: p}
	if k.arch != "" && k.arch != loadArch {
		return nil, &ArchError{File: k.Path, Arch: k.arch, Want: loadArch}
	}
	return l.load()
}

// loadArch is the architecture whose boot protocol this package speaks. arm64 gets its own loader beside it.
const loadArch = "amd64"

// hostArch is what kernels are looked for.
const hostArch = runtime.GOARCH

func (p *Params) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBadParams, fmt.Sprintf(format, args...))
	}
	if p.CPUs < 1 || p.CPUs > MaxCPUs {
		return bad("%d CPUs, 1 to %d are possible", p.CPUs, MaxCPUs)
	}
	if i := strings.IndexAny(p.Cmdline, "\x00\n"); i >= 0 {
		return bad("command line has a %q at byte %d", p.Cmdline[i], i)
	}
	if p.Tables != TablesACPI && p.Tables != TablesMP {
		return bad("unknown %v", p.Tables)
	}
	if len(p.Devices) > MMIOSlots {
		return bad("%d devices, there are %d slots", len(p.Devices), MMIOSlots)
	}
	for i, d := range p.Devices {
		if d.Size == 0 || d.Base%pageSize != 0 || d.Base < LowRAMLimit || d.Base+d.Size > IOAPICBase || d.Base+d.Size < d.Base {
			return bad("device %d at %#x with %#x bytes does not lie between RAM and the interrupt controllers", i, d.Base, d.Size)
		}
		if d.IRQ >= ioapicPins {
			return bad("device %d has IRQ %d, the I/O APIC has pins 0 to %d", i, d.IRQ, ioapicPins-1)
		}
	}
	for _, a := range p.Initrd {
		if a.Data == nil || a.Size < 0 {
			return bad("initramfs archive %q has no data", a.Name)
		}
	}
	return nil
}

// deviceArgs is the command line form of the devices. Source: Documentation/admin-guide/kernel-parameters.txt, virtio_mmio.device=.
func deviceArgs(devices []Device) []string {
	var args []string
	for _, d := range devices {
		size := fmt.Sprintf("%d", d.Size)
		if d.Size%1024 == 0 {
			size = fmt.Sprintf("%dK", d.Size/1024)
		}
		args = append(args, fmt.Sprintf("virtio_mmio.device=%s@%#x:%d", size, d.Base, d.IRQ))
	}
	return args
}
