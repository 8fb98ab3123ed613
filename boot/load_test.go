package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/boot/acpi"
	"github.com/hutchvm/hutch/kvm"
	"github.com/hutchvm/hutch/virtio"
)

func testMemory(t testing.TB, low, high int) (*virtio.Memory, []byte) {
	ram := make([]byte, low)
	regions := []virtio.Region{{GPA: 0, Bytes: ram}}
	if high > 0 {
		regions = append(regions, virtio.Region{GPA: HighRAMBase, Bytes: make([]byte, high)})
	}
	mem, err := virtio.NewMemory(regions...)
	if err != nil {
		t.Fatal(err)
	}
	return mem, ram
}

func testKernel(t testing.TB, elf []byte) *Kernel {
	testCache(t)
	k, err := Open(context.Background(), writeFile(t, filepath.Join(t.TempDir(), "vmlinux"), elf))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestLoadLaysEverythingOut(t *testing.T) {
	k := testKernel(t, smallELF())
	mem, ram := testMemory(t, 32<<20, 0)
	slot0, _ := MMIODevice(0)
	slot1, _ := MMIODevice(1)
	one, two := bytes.Repeat([]byte("1"), 4097), bytes.Repeat([]byte("2"), 10)
	e, err := Load(mem, k, Params{
		Initrd: []Archive{BytesArchive("one", one), BytesArchive("two", two)}, Cmdline: "quiet -- user", CPUs: 2,
		Devices: []Device{slot0, slot1}, Tables: TablesMP,
	})
	if err != nil {
		t.Fatal(err)
	}
	const cmdline = "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 quiet -- user"
	if e.Cmdline != cmdline || string(ram[cmdlineBase:cmdlineBase+len(cmdline)+1]) != cmdline+"\x00" {
		t.Errorf("command line %q", e.Cmdline)
	}
	if got := ram[0x100_0000:0x100_5000]; !bytes.Equal(got[:12000], bytes.Repeat([]byte("text"), 3000)) || !zero(got[12000:]) {
		t.Error("first segment")
	}
	if got := ram[0x100_8000:0x100_a000]; string(got[:12]) != "data segment" || !zero(got[12:]) {
		t.Error("second segment")
	}
	le := binary.LittleEndian
	zp := ram[0x7000:0x8000]
	start, size := le.Uint32(zp[0x218:]), le.Uint32(zp[0x21c:])
	if size != 4100+10 || start%4096 != 0 || start+size > 32<<20 || start+size+4096 <= 32<<20 {
		t.Fatalf("initramfs at %#x with %d bytes, want the last pages of 32 MiB", start, size)
	}
	initrd := ram[start : start+size]
	if !bytes.Equal(initrd[:4097], one) || !zero(initrd[4097:4100]) || !bytes.Equal(initrd[4100:], two) {
		t.Error("the archives are not concatenated on a multiple of 4")
	}
	if e.Regs.RIP != 0x100_0000 || e.Regs.RSI != 0x7000 || e.Regs.RFLAGS != 2 {
		t.Errorf("registers %+v", e.Regs)
	}
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// TestZeroPageGolden compares every byte that is not zero with offsets typed from zero-page.rst and boot.rst.
func TestZeroPageGolden(t *testing.T) {
	k := testKernel(t, smallELF())
	l := &loader{kernel: k, lowEnd: 0xc000_0000, high: 0x4000_0000, initrd: 0x7ff0_0000, initrdLen: 0x12345, rsdp: 0xe0000}
	got := l.zeroPage(0x55)
	want := make([]byte, 4096)
	put := func(off int, h string) {
		b, err := hex.DecodeString(strings.ReplaceAll(h, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		copy(want[off:], b)
	}
	put(0x070, "00000e0000000000") // acpi_rsdp_addr
	put(0x1e8, "04")               // e820_entries
	put(0x1fe, "55aa")             // boot_flag
	put(0x202, "48647253 0f02")    // HdrS, 2.15
	put(0x210, "ff 01")            // type_of_loader, loadflags
	put(0x218, "0000f07f 45230100")
	put(0x228, "00000200 ffffff7f 00000001") // cmd_line_ptr, initrd_addr_max, kernel_alignment
	put(0x238, "55000000")
	put(0x2d0, "0000000000000000 00fc090000000000 01000000"+
		"00fc090000000000 0004060000000000 02000000"+
		"0000100000000000 0000f0bf00000000 01000000"+
		"0000000001000000 0000004000000000 01000000")
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("offset %#x: %#02x, want %#02x", i, got[i], want[i])
		}
	}
}

func TestEntryStateIsThatOfTheBootProtocol(t *testing.T) {
	k := testKernel(t, smallELF())
	mem, ram := testMemory(t, 32<<20, 0)
	e, err := Load(mem, k, Params{Tables: TablesACPI})
	if err != nil {
		t.Fatal(err)
	}
	s := e.Sregs
	if s.CR0 != 0x8000_0031 || s.CR3 != 0x9000 || s.CR4 != 0x20 || s.EFER != 0x500 || s.GDT.Base != 0x500 || s.GDT.Limit != 31 {
		t.Errorf("sregs %+v", s)
	}
	if s.CS.Selector != 0x10 || s.CS.L != 1 || s.CS.DB != 0 || s.DS.Selector != 0x18 || s.SS != s.DS || s.ES != s.DS {
		t.Errorf("segments %+v %+v", s.CS, s.DS)
	}
	le := binary.LittleEndian
	if c, d := le.Uint64(ram[0x510:]), le.Uint64(ram[0x518:]); c != 0x00af9b000000ffff || d != 0x00cf93000000ffff {
		t.Errorf("GDT %#x %#x", c, d)
	}
	// Walk the tables as the processor does.
	for _, gpa := range []uint64{0, 0x7123, 0x100_0000, 0xbfff_ffff, 0xffff_fff0} {
		entry := func(table uint64, index uint64) uint64 { return le.Uint64(ram[table+index*8:]) }
		pml4 := entry(s.CR3, gpa>>39&0x1ff)
		pdpt := entry(pml4&^0xfff, gpa>>30&0x1ff)
		pd := entry(pdpt&^0xfff, gpa>>21&0x1ff)
		if pml4&3 != 3 || pdpt&0x83 != 3 || pd&0x83 != 0x83 {
			t.Fatalf("%#x: entries %#x %#x %#x", gpa, pml4, pdpt, pd)
		}
		if got := pd&^0x1f_ffff | gpa&0x1f_ffff; got != gpa {
			t.Errorf("%#x is mapped to %#x", gpa, got)
		}
	}
	host := kvm.Sregs{APICBase: 0xfee00d00, CR8: 3}
	e.Apply(&host)
	if host.APICBase != 0xfee00d00 || host.CR8 != 3 || host.CR3 != 0x9000 {
		t.Errorf("Apply: %+v", host)
	}
}

func TestLoadRefusesWhatCannotWork(t *testing.T) {
	k := testKernel(t, smallELF())
	below := testKernel(t, testELF(testSegment{paddr: 0x9000, data: []byte("over the page tables")}))
	huge := testKernel(t, testELF(testSegment{paddr: 0x100_0000, data: []byte("x"), memsz: 0xffff_0000}))
	slot, _ := MMIODevice(0)
	sized := func(n int64) []Archive { return []Archive{{Name: "image.cpio", Data: bytes.NewReader(nil), Size: n}} }
	tests := []struct {
		name   string
		kernel *Kernel
		mib    int
		params Params
		kind   error
		text   string
	}{
		{"memory below the kernel", k, 8, Params{}, ErrMemoryTooSmall, "the kernel does not fit in 8 MiB, at least 41 MiB"},
		{"initramfs too large", k, 64, Params{Initrd: sized(100 << 20)}, ErrMemoryTooSmall, "at least 241 MiB"},
		{"initramfs cannot be unpacked", k, 64, Params{Initrd: sized(40 << 20)}, ErrMemoryTooSmall, "unpacked initramfs of 41943040 bytes does not fit in 64 MiB, at least 121 MiB"},
		{"initramfs of absurd size", k, 64, Params{Initrd: sized(1 << 62)}, ErrMemoryTooSmall, "image.cpio"},
		{"initramfs shorter than announced", k, 64, Params{Initrd: sized(5)}, ErrTruncated, "image.cpio"},
		{"negative initramfs", k, 64, Params{Initrd: sized(-1)}, ErrBadParams, "image.cpio"},
		{"long command line", k, 64, Params{Cmdline: strings.Repeat("x", 2048)}, ErrCmdlineTooLong, "2048 bytes, this kernel reads 2047"},
		{"NUL in command line", k, 64, Params{Cmdline: "a\x00b"}, ErrBadParams, "byte 1"},
		{"too many CPUs", k, 64, Params{CPUs: MaxCPUs + 1}, ErrBadParams, "129 CPUs"},
		{"negative CPUs", k, 64, Params{CPUs: -1}, ErrBadParams, "-1 CPUs"},
		{"device in RAM", k, 64, Params{Devices: []Device{{Base: 0x1000, Size: 0x1000, IRQ: 5}}}, ErrBadParams, "0x1000"},
		{"device wraps", k, 64, Params{Devices: []Device{{Base: ^uint64(0xfff), Size: 0x2000, IRQ: 5}}}, ErrBadParams, "device 0"},
		{"IRQ without pin", k, 64, Params{Devices: []Device{{Base: slot.Base, Size: slot.Size, IRQ: 24}}}, ErrBadParams, "IRQ 24"},
		{"kernel below 1 MiB", below, 64, Params{}, ErrUnsupported, "0x9000"},
		{"kernel above the hole", huge, 64, Params{}, ErrUnsupported, "ends at"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mem, _ := testMemory(t, tt.mib<<20, 0)
			e, err := Load(mem, tt.kernel, tt.params)
			if e != nil || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("Load = %v, %v; want %v with %q", e, err, tt.kind, tt.text)
			}
		})
	}
}

func TestTablesFollowTheConfiguration(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		tail         string // appended to the image
		want         Tables
	}{
		{"ACPI=y", "CONFIG_ACPI=y\n", "", TablesACPI},
		{"no ACPI", "# CONFIG_ACPI is not set\nCONFIG_X86=y\n", "", TablesMP},
		{"not mentioned", "CONFIG_X86=y\n", "", TablesMP},
		{"unknown, text of ACPICA in the image", "", "xx ACPI BIOS Error (bug): ", TablesACPI},
		{"unknown, no such text", "", "nothing", TablesMP},
		{"embedded configuration", "", "IKCFG_ST" + string(packed(t, "gzip", []byte("CONFIG_ACPI=y\n"))) + "IKCFG_ED", TablesACPI},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testCache(t)
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "vmlinux"), append(smallELF(), tt.tail...))
			if tt.config != "" {
				writeFile(t, filepath.Join(dir, "config"), []byte(tt.config))
			}
			k, err := Open(context.Background(), dir)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			mem, ram := testMemory(t, 32<<20, 0)
			slot, _ := MMIODevice(0)
			e, err := Load(mem, k, Params{Devices: []Device{slot}})
			if err != nil {
				t.Fatal(err)
			}
			if e.Tables != tt.want {
				t.Fatalf("tables %v, want %v", e.Tables, tt.want)
			}
			hasRSDP := string(ram[acpiBase:acpiBase+8]) == "RSD PTR "
			hasMP := string(ram[mpBase:mpBase+4]) == "_MP_"
			hasArg := strings.Contains(e.Cmdline, "virtio_mmio.device=")
			if hasRSDP != (tt.want == TablesACPI) || hasMP == hasRSDP || hasArg != hasMP {
				t.Errorf("RSDP %v, MP table %v, argument %v", hasRSDP, hasMP, hasArg)
			}
		})
	}
}

func TestPowerOffValueIsTheACPIOne(t *testing.T) {
	if PowerOffValue != acpi.SleepValue {
		t.Fatalf("%#x and %#x", PowerOffValue, acpi.SleepValue)
	}
}

// TestMPTableGolden was typed from the MultiProcessor Specification 1.4, chapter 4.
func TestMPTableGolden(t *testing.T) {
	got := mpTable(2, []Device{{IRQ: 5}, {IRQ: 17}})
	if string(got[:4]) != "_MP_" || sum(got[:16]) != 0 || hex.EncodeToString(got[4:10]) != "10000f000104" || !zero(got[11:16]) {
		t.Errorf("floating pointer % x", got[:16])
	}
	c := got[16:]
	if string(c[:4]) != "PCMP" || int(binary.LittleEndian.Uint16(c[4:])) != len(c) || c[6] != 4 || sum(c) != 0 {
		t.Errorf("header % x", c[:44])
	}
	want := "00001403" + "00060000" + "01020000" + "0000000000000000" +
		"00011401" + "00060000" + "01020000" + "0000000000000000" +
		"0100" + hex.EncodeToString([]byte("ISA   ")) +
		"02021101" + "0000c0fe"
	for irq := 0; irq < 18; irq++ {
		want += "03000500" + "00" + hex.EncodeToString([]byte{byte(irq)}) + "02" + hex.EncodeToString([]byte{byte(irq)})
	}
	want += "0403000000000000" + "040100000000ff01"
	if body := hex.EncodeToString(c[44:]); body != want {
		t.Errorf("entries\n%s\nwant\n%s", body, want)
	}
	if n := binary.LittleEndian.Uint16(c[34:]); n != 2+1+1+18+2 {
		t.Errorf("entry count %d", n)
	}
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

func TestCmdlineKeepsUserArgumentsLast(t *testing.T) {
	got := Cmdline(CmdlineOptions{Init: "/sbin/init", Extra: []string{"panic=5", "--", "x"}})
	if !strings.HasPrefix(got, "quiet console=ttyS0 ") || !strings.HasSuffix(got, " rdinit=/sbin/init panic=5 -- x") {
		t.Errorf("%q", got)
	}
	if v := Cmdline(CmdlineOptions{Verbose: true}); strings.Contains(v, "quiet") || !strings.HasPrefix(v, "ignore_loglevel ") {
		t.Errorf("verbose: %q", v)
	}
	for _, a := range defaultArgs {
		if a.why == "" || !strings.Contains(got, a.arg) {
			t.Errorf("argument %+v", a)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	k := testKernel(b, testELF(testSegment{paddr: 0x100_0000, data: make([]byte, 32<<20)}))
	mem, _ := testMemory(b, 128<<20, 0)
	initrd := []Archive{BytesArchive("initrd", make([]byte, 8<<20))}
	b.SetBytes(40 << 20)
	for b.Loop() {
		if _, err := Load(mem, k, Params{Initrd: initrd, Cmdline: "quiet", Tables: TablesACPI}); err != nil {
			b.Fatal(err)
		}
	}
}
