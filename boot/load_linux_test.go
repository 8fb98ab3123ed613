package boot

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/hutchvm/hutch/virtio"
)

// addressSpace returns n bytes that cost nothing until they are touched: a slice of the Go heap may be cleared.
func addressSpace(t *testing.T, n int) []byte {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(b) })
	return b
}

func TestInitramfsStaysBelowTheKernelsLimit(t *testing.T) {
	k := testKernel(t, smallELF())
	l := &loader{kernel: k, params: Params{Initrd: []Archive{{Name: "big", Data: bytes.NewReader(nil), Size: 100 << 20}}}}
	var err error
	if l.mem, err = virtio.NewMemory(virtio.Region{GPA: 0, Bytes: addressSpace(t, LowRAMLimit)}, virtio.Region{GPA: HighRAMBase, Bytes: make([]byte, 1<<20)}); err != nil {
		t.Fatal(err)
	}
	if err := l.measure(k.elf); err != nil {
		t.Fatal(err)
	}
	if l.initrd+l.initrdLen > 0x8000_0000 || l.initrd < 0x7000_0000 || l.high != 1<<20 || l.lowEnd != LowRAMLimit {
		t.Errorf("%+v", l)
	}
}

func TestLoadTellsWhenNoMemorySizeHelps(t *testing.T) {
	k := testKernel(t, smallELF())
	l := &loader{kernel: k, params: Params{Initrd: []Archive{{Name: "big", Data: bytes.NewReader(nil), Size: 2 << 30}}}}
	var err error
	if l.mem, err = virtio.NewMemory(virtio.Region{GPA: 0, Bytes: addressSpace(t, LowRAMLimit)}); err != nil {
		t.Fatal(err)
	}
	if err := l.measure(k.elf); !errors.Is(err, ErrBadParams) || errors.Is(err, ErrMemoryTooSmall) || !strings.Contains(err.Error(), "0x80000000") {
		t.Fatalf("measure = %v", err)
	}
}
