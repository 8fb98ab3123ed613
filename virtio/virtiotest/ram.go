//go:build unix

package virtiotest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/virtio"
)

// RAM maps size bytes (rounded up to pages) of zeroed memory with an
// inaccessible page at each end, and unmaps it when the test is over.
func RAM(tb testing.TB, size int) []byte {
	tb.Helper()
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		tb.Fatalf("virtiotest: mapping %d bytes of RAM: %v", size, err)
	}
	tb.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			tb.Errorf("virtiotest: unmapping RAM: %v", err)
		}
	})
	for _, guard := range [][]byte{b[:page], b[page+size:]} {
		if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
			tb.Fatalf("virtiotest: guard page: %v", err)
		}
	}
	return b[page : page+size : page+size]
}

// Memory is a guest memory of one region of size bytes at gpa.
func Memory(tb testing.TB, gpa uint64, size int) *virtio.Memory {
	tb.Helper()
	m, err := virtio.NewMemory(virtio.Region{GPA: gpa, Bytes: RAM(tb, size)})
	if err != nil {
		tb.Fatalf("virtiotest: %v", err)
	}
	return m
}
