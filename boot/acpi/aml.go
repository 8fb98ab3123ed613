package acpi

import (
	"encoding/binary"
	"fmt"
)

// Opcodes and prefixes of AML. Source: ACPI 6.5 §20.3.
const (
	opZero     = 0x00
	opOne      = 0x01
	opName     = 0x08
	prefixByte = 0x0a
	prefixWord = 0x0b
	prefixDW   = 0x0c
	prefixStr  = 0x0d
	prefixQW   = 0x0e
	opScope    = 0x10
	opBuffer   = 0x11
	opPackage  = 0x12
	opExt      = 0x5b
	extDevice  = 0x82
)

// pkgLength encodes the length of a package whose contents have n bytes. The encoded value counts itself. Source: §20.2.4.
//
//	n+1 < 64           one byte: the length
//	n+2 < 1<<12        two: bits 7:6 = 1, bits 3:0 = low nibble, then bits 11:4
//	n+3 < 1<<20        three, n+4 < 1<<28 four, alike
func pkgLength(n int) []byte {
	if n+1 < 64 {
		return []byte{byte(n + 1)}
	}
	for extra := 1; extra < 3; extra++ {
		if total := n + 1 + extra; total < 1<<(4+8*extra) {
			return pkgBytes(total, extra)
		}
	}
	return pkgBytes(n+4, 3)
}

func pkgBytes(total, extra int) []byte {
	b := []byte{byte(extra<<6 | total&0xf)}
	for i := 0; i < extra; i++ {
		b = append(b, byte(total>>(4+8*i)))
	}
	return b
}

// nameSeg is one four-character name. Shorter ones are padded with '_'. Source: §20.2.2.
func nameSeg(s string) []byte {
	b := []byte("____")
	copy(b, s)
	return b
}

// integer encodes n in its shortest form. Source: §20.2.3.
func integer(n uint64) []byte {
	le := binary.LittleEndian
	switch {
	case n == 0:
		return []byte{opZero}
	case n == 1:
		return []byte{opOne}
	case n < 1<<8:
		return []byte{prefixByte, byte(n)}
	case n < 1<<16:
		return le.AppendUint16([]byte{prefixWord}, uint16(n))
	case n < 1<<32:
		return le.AppendUint32([]byte{prefixDW}, uint32(n))
	}
	return le.AppendUint64([]byte{prefixQW}, n)
}

func text(s string) []byte {
	return append(append([]byte{prefixStr}, s...), 0)
}

// name declares a named value: Name(seg, value).
func name(seg string, value []byte) []byte {
	return append(append([]byte{opName}, nameSeg(seg)...), value...)
}

// pack is Package(){...}. Source: §20.2.5.4.
func pack(elements ...[]byte) []byte {
	body := append([]byte{byte(len(elements))}, join(elements)...)
	return wrap([]byte{opPackage}, body)
}

// buffer is Buffer(len(b)){...}.
func buffer(b []byte) []byte {
	return wrap([]byte{opBuffer}, append(integer(uint64(len(b))), b...))
}

// device is Device(seg){...}.
func device(seg string, terms ...[]byte) []byte {
	return wrap([]byte{opExt, extDevice}, append(nameSeg(seg), join(terms)...))
}

// rootScope is Scope(\seg){...}.
func rootScope(seg string, terms ...[]byte) []byte {
	return wrap([]byte{opScope}, append(append([]byte{'\\'}, nameSeg(seg)...), join(terms)...))
}

// wrap puts opcode and package length before body.
func wrap(op, body []byte) []byte {
	return append(append(append([]byte{}, op...), pkgLength(len(body))...), body...)
}

func join(parts [][]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// eisaID packs an ID such as PNP0501 into the integer form that _HID wants. Source: §19.3.4, EISAID.
//
// Three letters of five bits each, then four hexadecimal digits, stored most significant byte first.
func eisaID(id string) []byte {
	if len(id) != 7 {
		panic(fmt.Sprintf("acpi: EISA ID %q", id)) // a constant of this package
	}
	var v uint32
	for i := 0; i < 3; i++ {
		v = v<<5 | uint32(id[i]-'@')&0x1f
	}
	v = v<<16 | uint32(hex4(id[3:]))
	return append([]byte{prefixDW}, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func hex4(s string) (v uint16) {
	for _, c := range []byte(s) {
		d := c - '0'
		if c >= 'A' {
			d = c - 'A' + 10
		}
		v = v<<4 | uint16(d)
	}
	return v
}

// Resource descriptors, used inside resources. Source: §6.4.

// memory32Fixed is Memory32Fixed(ReadWrite, base, size). Source: §6.4.3.4.
func memory32Fixed(base, size uint32) []byte {
	le := binary.LittleEndian
	b := []byte{0x86, 9, 0, 1}
	return le.AppendUint32(le.AppendUint32(b, base), size)
}

// interruptEdge is Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive){gsi}. Source: §6.4.3.6.
//
// Edge, since an irqfd without a resample eventfd delivers a pulse.
func interruptEdge(gsi uint32) []byte {
	const consumer, edge = 1 << 0, 1 << 1
	return binary.LittleEndian.AppendUint32([]byte{0x89, 6, 0, consumer | edge, 1}, gsi)
}

// ioPorts is IO(Decode16, base, base, 1, size). Source: §6.4.2.5.
func ioPorts(base uint16, size uint8) []byte {
	lo, hi := byte(base), byte(base>>8)
	return []byte{0x47, 1, lo, hi, lo, hi, 1, size}
}

// resources is a ResourceTemplate(){...}: the descriptors and an end tag without checksum (0 means: take it as correct, §6.4.2.9).
func resources(descriptors ...[]byte) []byte {
	return buffer(append(join(descriptors), 0x79, 0))
}
