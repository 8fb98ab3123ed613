package acpi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAMLGolden compares the encoder with bytes written by hand from chapters 20 and 6.4 of the specification.
func TestAMLGolden(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"zero", integer(0), "00"},
		{"one", integer(1), "01"},
		{"byte", integer(0xff), "0a ff"},
		{"word", integer(0x100), "0b 0001"},
		{"dword", integer(0x12345678), "0c 78563412"},
		{"qword", integer(1 << 32), "0e 0000000001000000"},
		{"string", text("AB"), "0d 4142 00"},
		{"padded name", name("_S5", integer(1)), "08 5f53355f 01"},
		{"EISA ID", eisaID("PNP0501"), "0c 41d00501"},
		{"EISA ID with letters", eisaID("PNP0C0F"), "0c 41d00c0f"},
		{"package", pack(integer(5), integer(0)), "12 05 02 0a05 00"},
		{"buffer", buffer([]byte{1, 2, 3}), "11 06 0a03 010203"},
		{"device", device("COM1"), "5b82 05 434f4d31"},
		{"scope", rootScope("_SB_"), "10 06 5c 5f53425f"},
		{"memory32fixed", memory32Fixed(0xd0000000, 0x1000), "86 0900 01 000000d0 00100000"},
		{"interrupt", interruptEdge(5), "89 0600 03 01 05000000"},
		{"io", ioPorts(0x3f8, 8), "47 01 f803 f803 01 08"},
		{"resources", resources(interruptEdge(5)), "11 0e 0a0b 89 0600 03 01 05000000 79 00"},
	} {
		if want := unhex(t, tt.want); !bytes.Equal(tt.got, want) {
			t.Errorf("%s: % x, want % x", tt.name, tt.got, want)
		}
	}
}

func TestPkgLengthBoundaries(t *testing.T) {
	for _, tt := range []struct {
		n    int
		want string
	}{
		{0, "01"}, {62, "3f"}, {63, "41 04"}, // 65 = 0x41: low nibble 1, rest 4
		{4093, "4f ff"}, {4094, "81 00 01"}, // 4095 = 0xfff, 4097 = 0x1001
		{1<<20 - 4, "8f ff ff"}, {1<<20 - 3, "c1 00 00 01"},
	} {
		if got, want := pkgLength(tt.n), unhex(t, tt.want); !bytes.Equal(got, want) {
			t.Errorf("pkgLength(%d) = % x, want % x", tt.n, got, want)
		}
	}
}

func TestDSDTGolden(t *testing.T) {
	got := dsdtBody(Config{Devices: []Device{{Base: 0xd0000000, Size: 0x1000, GSI: 5}}, SerialPort: 0x3f8, SerialGSI: 4})
	want := unhex(t, `
		10 4607 5c 5f53425f
		5b82 3a 56303030
			08 5f484944 0d 4c4e524f30303035 00
			08 5f554944 00
			08 5f435253 11 1a 0a17 86 0900 01 000000d0 00100000 89 0600 03 01 05000000 79 00
		5b82 31 434f4d31
			08 5f484944 0c 41d00501
			08 5f554944 00
			08 5f435253 11 16 0a13 47 01 f803 f803 01 08 89 0600 03 01 04000000 79 00
		08 5f53355f 12 07 04 0a05 00 00 00`)
	if !bytes.Equal(got, want) {
		t.Errorf("\n% x\nwant\n% x", got, want)
	}
}

func testConfig() Config {
	return Config{
		CPUs: 3, LAPICBase: 0xfee00000, IOAPICBase: 0xfec00000, SerialPort: 0x3f8, SerialGSI: 4,
		ResetPort: 0x602, ResetValue: 0x52, SleepControlPort: 0x600, SleepStatusPort: 0x601,
		Devices: []Device{{0xd0000000, 0x1000, 5}, {0xd0001000, 0x1000, 6}},
	}
}

// TestTablesCanBeWalked follows the pointers as an operating system does and checks every length and checksum.
func TestTablesCanBeWalked(t *testing.T) {
	const base = 0xe0000
	blob, err := Build(base, testConfig())
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	sum := func(b []byte) (s byte) {
		for _, c := range b {
			s += c
		}
		return s
	}
	table := func(gpa uint64, signature string) []byte {
		t.Helper()
		b := blob[gpa-base:]
		n := le.Uint32(b[4:])
		if string(b[:4]) != signature || int(n) > len(b) || sum(b[:n]) != 0 || gpa%16 != 0 {
			t.Fatalf("table %q at %#x: %q, %d bytes, sum %d", signature, gpa, b[:4], n, sum(b[:n]))
		}
		return b[:n]
	}
	if string(blob[:8]) != "RSD PTR " || sum(blob[:20]) != 0 || sum(blob[:36]) != 0 || blob[15] != 2 || le.Uint32(blob[20:]) != 36 {
		t.Fatalf("RSDP % x", blob[:36])
	}
	xsdt := table(le.Uint64(blob[24:]), "XSDT")
	if len(xsdt) != 36+16 {
		t.Fatalf("XSDT has %d bytes", len(xsdt))
	}
	fadt := table(le.Uint64(xsdt[36:]), "FACP")
	madt := table(le.Uint64(xsdt[44:]), "APIC")
	table(le.Uint64(fadt[140:]), "DSDT")
	if uint64(le.Uint32(fadt[40:])) != le.Uint64(fadt[140:]) {
		t.Error("DSDT and X_DSDT differ")
	}
	if len(fadt) != 276 || fadt[8] != 6 || le.Uint32(fadt[112:]) != 1<<20|1<<10|1<<5|1<<4|1<<2|1 || le.Uint16(fadt[109:]) != 0x24 {
		t.Errorf("FADT %d bytes, flags %#x, boot %#x", len(fadt), le.Uint32(fadt[112:]), le.Uint16(fadt[109:]))
	}
	for off, want := range map[int]string{116: "01080001 0206000000000000 52", 244: "01080001 0006000000000000", 256: "01080001 0106000000000000"} {
		if w := unhex(t, want); !bytes.Equal(fadt[off:off+len(w)], w) {
			t.Errorf("FADT at %d: % x", off, fadt[off:off+len(w)])
		}
	}
	want := unhex(t, `0000e0fe 00000000
		0008 0000 01000000  0008 0101 01000000  0008 0202 01000000
		010c 0000 0000c0fe 00000000
		0406 ff 0000 01`)
	if !bytes.Equal(madt[36:], want) {
		t.Errorf("MADT\n% x\nwant\n% x", madt[36:], want)
	}
	again, err := Build(base, testConfig())
	if err != nil || !bytes.Equal(blob, again) {
		t.Error("two builds differ")
	}
}

func TestBuildRefusesWhatItCannotDescribe(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no processor":         func(c *Config) { c.CPUs = 0 },
		"too many processors":  func(c *Config) { c.CPUs = 255 },
		"device above 4 GiB":   func(c *Config) { c.Devices[0].Base = 1 << 32 },
		"device without size":  func(c *Config) { c.Devices[0].Size = 0 },
		"device wraps":         func(c *Config) { c.Devices[0].Base = ^uint64(0) },
		"device over the line": func(c *Config) { c.Devices[0].Base = 1<<32 - 0x800 },
		"too many devices":     func(c *Config) { c.Devices = make([]Device, 257) },
	} {
		c := testConfig()
		change(&c)
		if b, err := Build(0xe0000, c); b != nil || !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	if _, err := Build(0xe0001, testConfig()); !errors.Is(err, ErrConfig) {
		t.Errorf("odd base: %v", err)
	}
}
