//go:build amd64

package kvm

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultPath is the KVM device.
const DefaultPath = "/dev/kvm"

// apiVersion is the only one there is since 2007 (api.rst, KVM_GET_API_VERSION).
const apiVersion = 12

// System is an open /dev/kvm: it answers questions about the host and creates VMs.
// All methods may be called from several goroutines. Close it when no more VM is to be
// made; VMs made with it live on.
type System struct {
	fd       *fd
	mmapSize int // of kvm_run, in bytes
}

// Open opens /dev/kvm and checks that this kernel's KVM has what hutch needs.
// Errors: ErrNoKVM, ErrPermission, ErrLimit (all in an *Error that says what to do), or a
// *CapabilityError.
func Open() (*System, error) { return OpenPath(DefaultPath) }

// OpenPath is Open for a device node at another path.
func OpenPath(path string) (*System, error) {
	op := "open " + path
	n, err := 0, injected(op)
	if err == nil {
		n, err = openRetry(path)
	}
	if err != nil {
		return nil, openError(path, err)
	}
	s := &System{fd: newFD(n)}
	if err := s.check(path); err != nil {
		_ = s.fd.close()
		return nil, err
	}
	return s, nil
}

func openRetry(path string) (int, error) {
	for {
		n, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// check makes sure that the file is KVM, and a KVM we can work with.
func (s *System) check(path string) error {
	v, err := ioctl(s.fd, reqGetAPIVersion, 0)
	if err != nil {
		return &Error{Op: "open " + path, Errno: unix.ENOTTY, Kind: ErrNoKVM, Hint: "this file is not the KVM device: give the path of the device, which is " + DefaultPath}
	}
	if v != apiVersion {
		return &Error{Op: reqGetAPIVersion.name, Kind: ErrUnsupported,
			Hint: fmt.Sprintf("the kernel speaks version %d, hutch version %d", v, apiVersion)}
	}
	var missing []string
	for _, c := range requiredCaps {
		n, err := s.CheckExtension(c)
		if err != nil {
			return err
		}
		if n == 0 {
			missing = append(missing, capNames[c])
		}
	}
	if len(missing) > 0 {
		return &CapabilityError{Missing: missing}
	}
	s.mmapSize, err = ioctl(s.fd, reqGetVCPUMmapSize, 0)
	if err != nil {
		return err
	}
	if least := runUnion + runUnionSize; s.mmapSize < least {
		return &Error{Op: reqGetVCPUMmapSize.name, Kind: ErrUnsupported,
			Hint: fmt.Sprintf("the kernel says %d bytes, kvm_run has at least %d", s.mmapSize, least)}
	}
	return nil
}

// CheckExtension asks for a KVM_CAP_… number: 0 means no, anything above means yes and
// may carry a value (api.rst, KVM_CHECK_EXTENSION).
func (s *System) CheckExtension(c Cap) (int, error) {
	return ioctl(s.fd, reqCheckExtension, uintptr(c))
}

// Close closes /dev/kvm. Idempotent.
func (s *System) Close() error { return s.fd.close() }

// openError turns the errno of open into a condition with the way out of it.
func openError(path string, err error) error {
	errno, ok := err.(syscall.Errno) //nolint:errorlint // unix.Open returns a bare errno
	if !ok {
		return err
	}
	e := &Error{Op: "open " + path, Errno: errno}
	switch errno {
	case unix.ENOENT, unix.ENXIO, unix.ENODEV, unix.ENOTDIR:
		e.Kind = ErrNoKVM
		e.Hint = here.absentHint(path)
	case unix.EACCES, unix.EPERM, unix.EROFS:
		e.Kind = ErrPermission
		e.Hint = here.permissionHint(path, errno)
	case unix.EBUSY:
		e.Kind = ErrInUse
		e.Hint = inUseHint
	default:
		e.Kind, e.Hint = limitOf(errno)
	}
	return e
}
