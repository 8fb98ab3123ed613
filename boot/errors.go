package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// The kinds of failure of this package, for errors.Is. Each comes wrapped in a type of this file that names the file or the value.
var (
	// ErrNoKernel: no step of the ladder gave a kernel. See NoKernelError.
	ErrNoKernel = errors.New("no usable kernel found")
	// ErrNotKernel: the file is not a kernel image in any known format.
	ErrNotKernel = errors.New("not a Linux kernel image")
	// ErrTruncated: the file ends before the data its headers promise.
	ErrTruncated = errors.New("file is truncated")
	// ErrCorrupt: the file contradicts itself or its payload does not decompress.
	ErrCorrupt = errors.New("file is corrupt")
	// ErrUnsupported: the format is known but hutch cannot read it.
	ErrUnsupported = errors.New("format is not supported")
	// ErrTooLarge: the unpacked data would exceed the limit of this package.
	ErrTooLarge = errors.New("unpacked data is too large")
	// ErrForeignArch: the kernel is for another processor. See ArchError.
	ErrForeignArch = errors.New("kernel is for another architecture")
	// ErrMemoryTooSmall: guest memory cannot hold what has to be loaded. See MemoryError.
	ErrMemoryTooSmall = errors.New("guest memory is too small")
	// ErrCmdlineTooLong: the kernel command line exceeds what the kernel reads. See CmdlineError.
	ErrCmdlineTooLong = errors.New("kernel command line is too long")
	// ErrBadParams: a Params field has a value that cannot be described to a guest.
	ErrBadParams = errors.New("bad boot parameters")
	// ErrUnreadable: the kernel's file is there, and this user may not read it. See UnreadableError.
	ErrUnreadable = errors.New("kernel cannot be read by this user")
	// ErrNoFeature: the kernel was built without something that guests need. See FeatureError.
	ErrNoFeature = errors.New("kernel lacks a feature")
	// ErrNoModule: a kernel module is neither built in nor shipped with the kernel. See ModuleError.
	ErrNoModule = errors.New("kernel module is missing")
)

// FormatError says what is wrong with a file, where and what to do about it.
//
// Kind is one of ErrNotKernel, ErrTruncated, ErrCorrupt, ErrUnsupported, ErrTooLarge; Err is the decoder's own error or nil. Both are
// reachable with errors.Is.
type FormatError struct {
	File   string
	Offset int64 // bytes from the start of the file
	Kind   error
	Detail string // what was found
	Fix    string // what to do; may be empty
	Err    error
}

func (e *FormatError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: at offset %#x: %v: %s", e.File, e.Offset, e.Kind, e.Detail)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Fix != "" {
		fmt.Fprintf(&b, " (%s)", e.Fix)
	}
	return b.String()
}

// Unwrap returns Kind and Err.
func (e *FormatError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// ArchError reports a kernel for another processor. errors.Is(err, ErrForeignArch) holds.
type ArchError struct {
	File string
	Arch string // of the file, in GOARCH spelling where there is one
	Want string // what this host can run
}

func (e *ArchError) Error() string {
	return fmt.Sprintf("%s: %v: it is for %s, this host runs %s guests (give a kernel built for %s)", e.File, ErrForeignArch, e.Arch, e.Want, e.Want)
}

// Is reports whether target is ErrForeignArch.
func (e *ArchError) Is(target error) bool { return target == ErrForeignArch }

// MemoryError reports guest memory that cannot hold the kernel, the initramfs or a table. errors.Is(err, ErrMemoryTooSmall) holds.
type MemoryError struct {
	What string // what did not fit
	Have uint64 // bytes of guest memory
	Need uint64 // the least number of bytes that would do, rounded up to MiB
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("%v: %s does not fit in %d MiB, at least %d MiB are needed (give the guest more with WithMemory or --memory)", ErrMemoryTooSmall, e.What, e.Have>>20, e.Need>>20)
}

// Is reports whether target is ErrMemoryTooSmall.
func (e *MemoryError) Is(target error) bool { return target == ErrMemoryTooSmall }

// CmdlineError reports a command line longer than the kernel reads. errors.Is(err, ErrCmdlineTooLong) holds.
type CmdlineError struct {
	Len int // bytes, without the terminating NUL
	Max int
}

func (e *CmdlineError) Error() string {
	return fmt.Sprintf("%v: %d bytes, this kernel reads %d (shorten the extra arguments)", ErrCmdlineTooLong, e.Len, e.Max)
}

// Is reports whether target is ErrCmdlineTooLong.
func (e *CmdlineError) Is(target error) bool { return target == ErrCmdlineTooLong }

// UnreadableError reports a kernel that this user may not read. errors.Is(err, ErrUnreadable) and fs.ErrPermission hold.
type UnreadableError struct {
	File string
	Mode fs.FileMode // its permission bits
	Err  error       // of open
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("kernel: %v: the file has mode %04o: some distributions let only root read their kernels", e.Err, e.Mode)
}

// fix makes the file readable where it is: a copy elsewhere would not have its modules and its configuration beside it.
func (e *UnreadableError) fix() string { return "sudo chmod 0644 " + e.File }

// Is reports whether target is ErrUnreadable.
func (e *UnreadableError) Is(target error) bool { return target == ErrUnreadable }

// Unwrap returns Err.
func (e *UnreadableError) Unwrap() error { return e.Err }

// FeatureError reports a kernel whose configuration lacks what every guest of hutch needs. errors.Is(err, ErrNoFeature) holds.
type FeatureError struct {
	Kernel string // release and path
	Option string // such as CONFIG_BLK_DEV_INITRD; more than one where any of them would do
	Source string // where the configuration was read: a file, or the kernel itself
	Use    string // what a guest needs it for
}

func (e *FeatureError) Error() string {
	return fmt.Sprintf("kernel %s: %s not set, says %s: a guest needs it for %s: use a kernel that has it: %s", e.Kernel, e.Option, e.Source, e.Use, fixNoKernel)
}

// Is reports whether target is ErrNoFeature.
func (e *FeatureError) Is(target error) bool { return target == ErrNoFeature }

// ModuleError reports a module that the kernel neither has built in nor ships. errors.Is(err, ErrNoModule) holds.
type ModuleError struct {
	Module  string
	Kernel  string // path or release of the kernel
	Config  string // the option that provides it, for example CONFIG_VIRTIO_MMIO; empty if not known
	Needers string // the module that depends on it, if it was not asked for directly
	Err     error  // why a file that is there could not be used, or nil
}

func (e *ModuleError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kernel %s: module %s", e.Kernel, e.Module)
	if e.Needers != "" {
		fmt.Fprintf(&b, " (needed by %s)", e.Needers)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, " cannot be used: %v", e.Err)
		return b.String()
	}
	b.WriteString(" is neither built in nor shipped with it")
	if e.Config != "" {
		fmt.Fprintf(&b, " (use a kernel with %s=y or =m and its modules beside it; `hutch kernel fetch linux-image-cloud-amd64` gets one)", e.Config)
	}
	return b.String()
}

// Is reports whether target is ErrNoModule.
func (e *ModuleError) Is(target error) bool { return target == ErrNoModule }

// Unwrap returns Err.
func (e *ModuleError) Unwrap() error { return e.Err }
