//go:build amd64

package kvm

// An ioctl number holds the direction of its argument, its size, the subsystem's magic
// and a counter (include/uapi/asm-generic/ioctl.h). All are derived here from the structs
// themselves, and pinned by testdata/kvm_abi.tsv.
const (
	magic     = 0xAE // KVMIO
	dirWrite  = 1    // userspace gives the argument
	dirRead   = 2    // the kernel fills it
	shiftType = 8
	shiftSize = 16
	shiftDir  = 30
)

// request is one ioctl with the name that errors show.
type request struct {
	name string
	nr   uintptr
}

func io(name string, nr uintptr) request {
	return request{name, magic<<shiftType | nr}
}

func ior(name string, nr, size uintptr) request {
	return request{name, dirRead<<shiftDir | size<<shiftSize | magic<<shiftType | nr}
}

func iow(name string, nr, size uintptr) request {
	return request{name, dirWrite<<shiftDir | size<<shiftSize | magic<<shiftType | nr}
}

func iowr(name string, nr, size uintptr) request {
	return request{name, (dirRead|dirWrite)<<shiftDir | size<<shiftSize | magic<<shiftType | nr}
}
