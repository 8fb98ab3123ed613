//go:build amd64

package kvm

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strings"
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
	if err := injected(op); err != nil {
		return nil, err
	}
	n, err := openRetry(path)
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
		return &Error{Op: "open " + path, Errno: unix.ENOTTY, Kind: ErrNoKVM, Hint: "this file is not the KVM device"}
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
	var errno syscall.Errno
	if n, ok := err.(syscall.Errno); ok { //nolint:errorlint // unix.Open returns a bare errno
		errno = n
	}
	e := &Error{Op: "open " + path, Errno: errno}
	switch errno {
	case unix.ENOENT, unix.ENXIO, unix.ENODEV, unix.ENOTDIR:
		e.Kind = ErrNoKVM
		e.Hint = absentHint(VendorFlag(), inContainer())
	case unix.EACCES, unix.EPERM, unix.EROFS:
		e.Kind = ErrPermission
		e.Hint = permissionHint(path)
	case unix.EBUSY:
		e.Kind = ErrInUse
		e.Hint = "another hypervisor holds it: stop it"
	default:
		e.Kind, e.Hint = limitOf(errno)
	}
	return e
}

// absentHint says why there is no /dev/kvm. flag is the processor's virtualisation flag.
func absentHint(flag string, container bool) string {
	switch {
	case container:
		return "in a container, pass --device /dev/kvm when you start it"
	case flag == "vmx":
		return "the processor can virtualise (vmx): load the module with: sudo modprobe kvm_intel"
	case flag == "svm":
		return "the processor can virtualise (svm): load the module with: sudo modprobe kvm_amd"
	}
	return "the processor shows neither vmx nor svm: virtualisation is off in the firmware, " +
		"or this is a virtual machine without nested virtualisation"
}

// permissionHint shows who may open the device and how to become one of them.
func permissionHint(path string) string {
	who := ""
	if info, err := os.Stat(path); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			who = fmt.Sprintf("it belongs to %s:%s with mode %04o; ",
				userName(st.Uid), groupName(st.Gid), info.Mode().Perm())
			if info.Mode()&fs.ModeDevice != 0 && st.Gid != 0 && info.Mode().Perm()&0o060 == 0o060 {
				return who + fmt.Sprintf("run: sudo usermod -aG %s $USER (and log in again), or for this boot only: "+
					"sudo setfacl -m u:$USER:rw %s", groupName(st.Gid), path)
			}
		}
	}
	return who + fmt.Sprintf("run: sudo setfacl -m u:$USER:rw %s (until the next boot), or let group kvm open it: "+
		"sudo chown root:kvm %s && sudo chmod 0660 %s && sudo usermod -aG kvm $USER (and log in again)", path, path, path)
}

func userName(id uint32) string {
	if u, err := user.LookupId(fmt.Sprint(id)); err == nil {
		return u.Username
	}
	return fmt.Sprint(id)
}

func groupName(id uint32) string {
	if g, err := user.LookupGroupId(fmt.Sprint(id)); err == nil {
		return g.Name
	}
	return fmt.Sprint(id)
}

// inContainer looks for the marks that Docker, Podman and systemd-nspawn leave.
func inContainer() bool {
	for _, p := range []string{"/.dockerenv", "/run/.containerenv", "/run/systemd/container"} {
		if _, err := os.Stat(p); err == nil {
			return true
		}
	}
	return false
}

// VendorFlag returns the processor's virtualisation flag as /proc/cpuinfo shows it: "vmx", "svm", or "" for none. A KVM with the flag has
// hardware behind it; without it only Probe can tell.
func VendorFlag() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	return parseVendorFlag(string(b))
}

func parseVendorFlag(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, f := range strings.Fields(value) {
			if f == "vmx" || f == "svm" {
				return f
			}
		}
		return "" // all processors of a machine show the same
	}
	return ""
}
