package boot

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"sort"
)

// Sizes and offsets of a 64-bit ELF file. Source: System V ABI, "ELF Header" and "Program Header".
const (
	elfHeaderBytes = 64
	elfPhdrBytes   = 56
	maxSegments    = 64 // a vmlinux has five or so
)

// segment is one PT_LOAD of a kernel.
type segment struct {
	off    int64  // in the file
	filesz uint64 // bytes to copy
	memsz  uint64 // bytes occupied; the rest is zero
	paddr  uint64 // guest-physical
	vaddr  uint64
}

// elfImage is the part of a vmlinux that loading needs.
type elfImage struct {
	segments []segment // by paddr, not overlapping
	entry    uint64    // guest-physical address of the 64-bit entry, startup_64
	low      uint64    // first byte occupied
	end      uint64    // first byte after it
}

// parseELF checks the program headers of a vmlinux of size bytes. wantArch is a GOARCH.
//
// What it accepts can be loaded without further checks of the file: every segment lies inside the file, addresses do not wrap and do not
// overlap, and the entry is inside a segment.
// Errors: *ArchError; *FormatError with ErrNotKernel, ErrTruncated, ErrCorrupt or ErrUnsupported.
func parseELF(file string, r io.ReaderAt, size int64, wantArch string) (*elfImage, error) {
	fail := func(off int64, kind error, format string, args ...any) error {
		return &FormatError{File: file, Offset: off, Kind: kind, Detail: fmt.Sprintf(format, args...), Fix: fixGetKernel}
	}
	var h [elfHeaderBytes]byte
	if size < elfHeaderBytes {
		return nil, fail(size, ErrTruncated, "an ELF header needs %d bytes, there are %d", elfHeaderBytes, size)
	}
	if err := readFullAt(r, h[:], 0); err != nil {
		return nil, &FormatError{File: file, Kind: ErrTruncated, Detail: "ELF header cannot be read", Err: err}
	}
	if string(h[:4]) != elf.ELFMAG {
		return nil, fail(0, ErrNotKernel, "no ELF signature")
	}
	if arch := elfArch(h[:]); arch != wantArch {
		return nil, &ArchError{File: file, Arch: arch, Want: wantArch}
	}
	le := binary.LittleEndian
	if t := elf.Type(le.Uint16(h[16:18])); t != elf.ET_EXEC && t != elf.ET_DYN {
		return nil, fail(16, ErrNotKernel, "the ELF type is %v, a kernel is an executable", t)
	}
	phoff, phentsize, phnum := le.Uint64(h[32:40]), le.Uint16(h[54:56]), le.Uint16(h[56:58])
	if phentsize != elfPhdrBytes || phnum == 0 || phnum > maxSegments {
		return nil, fail(54, ErrCorrupt, "%d program headers of %d bytes, 1 to %d of %d are accepted", phnum, phentsize, maxSegments, elfPhdrBytes)
	}
	table := make([]byte, int(phnum)*elfPhdrBytes)
	if phoff > uint64(size) || uint64(len(table)) > uint64(size)-phoff {
		return nil, fail(size, ErrTruncated, "the program headers lie at %#x", phoff)
	}
	if err := readFullAt(r, table, int64(phoff)); err != nil {
		return nil, &FormatError{File: file, Offset: int64(phoff), Kind: ErrTruncated, Detail: "program headers cannot be read", Err: err}
	}
	img := &elfImage{}
	for i := 0; i < int(phnum); i++ {
		p := table[i*elfPhdrBytes:]
		if elf.ProgType(le.Uint32(p[0:4])) != elf.PT_LOAD {
			continue
		}
		s := segment{paddr: le.Uint64(p[24:32]), vaddr: le.Uint64(p[16:24]), filesz: le.Uint64(p[32:40]), memsz: le.Uint64(p[40:48])}
		off, at := le.Uint64(p[8:16]), int64(phoff)+int64(i*elfPhdrBytes)
		switch {
		case s.memsz == 0:
			continue
		case s.filesz > s.memsz:
			return nil, fail(at, ErrCorrupt, "segment %d has %d bytes in the file and %d in memory", i, s.filesz, s.memsz)
		case off > uint64(size) || s.filesz > uint64(size)-off:
			return nil, fail(size, ErrTruncated, "segment %d needs %d bytes at %#x", i, s.filesz, off)
		case s.paddr+s.memsz < s.paddr:
			return nil, fail(at, ErrCorrupt, "segment %d wraps around: %d bytes at address %#x", i, s.memsz, s.paddr)
		}
		s.off = int64(off)
		img.segments = append(img.segments, s)
	}
	if err := img.finish(le.Uint64(h[24:32]), fail); err != nil {
		return nil, err
	}
	return img, nil
}

// finish sorts the segments and finds the entry.
func (img *elfImage) finish(entry uint64, fail func(int64, error, string, ...any) error) error {
	if len(img.segments) == 0 {
		return fail(0, ErrNotKernel, "the ELF file has no segment to load")
	}
	sort.Slice(img.segments, func(i, j int) bool { return img.segments[i].paddr < img.segments[j].paddr })
	for i, s := range img.segments[1:] {
		if prev := img.segments[i]; prev.paddr+prev.memsz > s.paddr {
			return fail(0, ErrCorrupt, "segments at %#x and %#x overlap", prev.paddr, s.paddr)
		}
	}
	last := img.segments[len(img.segments)-1]
	img.low, img.end = img.segments[0].paddr, last.paddr+last.memsz
	for _, s := range img.segments {
		// e_entry of an x86-64 vmlinux is the physical address; some tools rewrite it to the linked one.
		if entry-s.paddr < s.filesz {
			img.entry = entry
			return nil
		}
		if entry-s.vaddr < s.filesz {
			img.entry = entry - s.vaddr + s.paddr
			return nil
		}
	}
	return fail(24, ErrCorrupt, "the entry point %#x is in no segment", entry)
}

// elfArch names the processor of an ELF header in GOARCH spelling where Go has a name for it.
func elfArch(h []byte) string {
	machine := elf.Machine(binary.LittleEndian.Uint16(h[18:20]))
	if elf.Data(h[elf.EI_DATA]) == elf.ELFDATA2MSB {
		machine = elf.Machine(binary.BigEndian.Uint16(h[18:20]))
	}
	wide := elf.Class(h[elf.EI_CLASS]) == elf.ELFCLASS64
	switch {
	case machine == elf.EM_X86_64 && wide:
		return "amd64"
	case machine == elf.EM_AARCH64 && wide:
		return "arm64"
	case machine == elf.EM_386:
		return "386"
	case machine == elf.EM_ARM:
		return "arm"
	case machine == elf.EM_RISCV && wide:
		return "riscv64"
	case machine == elf.EM_S390:
		return "s390x"
	case machine == elf.EM_PPC64:
		return "ppc64"
	case machine == elf.EM_LOONGARCH && wide:
		return "loong64"
	}
	return machine.String()
}
