//go:build amd64

package kvm

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// fd owns a file descriptor that several goroutines use. close waits for those that are
// in a system call with it, so that a number is never used after the kernel gave it to
// somebody else.
type fd struct {
	mu     sync.Mutex
	idle   sync.Cond
	n      int
	users  int
	closed bool
}

func newFD(n int) *fd {
	f := &fd{n: n}
	f.idle.L = &f.mu
	return f
}

// acquire pins the descriptor. Every successful acquire needs one release.
func (f *fd) acquire(op string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return -1, &Error{Op: op, Kind: ErrClosed}
	}
	f.users++
	return f.n, nil
}

func (f *fd) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users--
	if f.users == 0 {
		f.idle.Broadcast()
	}
}

// close lets no new user in, waits for the present ones and closes. Idempotent.
func (f *fd) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	for f.users > 0 {
		f.idle.Wait()
	}
	return unix.Close(f.n)
}

// ioctl is an ioctl with an integer argument. It retries EINTR: Go preempts threads with
// SIGURG, and KVM lets that interrupt more than KVM_RUN (KVM_CREATE_VM returns EINTR about
// once in 600 calls of a busy program).
func ioctl(f *fd, r request, arg uintptr) (int, error) {
	n, err := f.acquire(r.name)
	if err != nil {
		return 0, err
	}
	defer f.release()
	for {
		if err := injected(r.name); err != nil {
			if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // as the kernel would give it
				err = ioctlError(r, errno)
			}
			return 0, err
		}
		v, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), r.nr, arg)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, ioctlError(r, errno)
		}
		return int(v), nil
	}
}

// ioctlError gives an errno the condition it stands for.
func ioctlError(r request, errno syscall.Errno) error {
	e := &Error{Op: r.name, Errno: errno}
	switch {
	case r == reqCreateVM && (errno == unix.EBUSY || errno == unix.EIO):
		e.Kind = ErrInUse
		e.Hint = inUseHint
	case r == reqCreateVM && errno == unix.EINVAL:
		e.Kind = ErrUnsupported
		e.Hint = "this KVM offers no virtual machine of the default type"
	default:
		e.Kind, e.Hint = limitOf(errno)
	}
	return e
}

// inUseHint is for a processor whose virtualisation somebody else has: only one hypervisor can have it.
const inUseHint = "another hypervisor (VirtualBox, VMware) holds the processor's virtualisation: end its virtual machines, " +
	"and if that does not help unload its module, for example: sudo modprobe -r vboxnetadp vboxnetflt vboxdrv"

// limitOf names the host limit behind an errno, if there is one.
func limitOf(errno syscall.Errno) (kind error, hint string) {
	switch errno {
	case unix.ENOMEM:
		return ErrLimit, here.memoryHint()
	case unix.EMFILE:
		return ErrLimit, "out of file descriptors: raise ulimit -n"
	case unix.ENFILE:
		return ErrLimit, "the host is out of file descriptors: raise fs.file-max"
	case unix.EAGAIN:
		return ErrLimit, "out of threads: check ulimit -u and the pids limit of the cgroup"
	}
	return nil, ""
}

// sysError wraps the error of a system call other than an ioctl.
func sysError(op string, err error) error {
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	e := &Error{Op: op}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		e.Errno = errno
		e.Kind, e.Hint = limitOf(errno)
	} else {
		e.Hint = err.Error()
	}
	return e
}

// faultHook, if set, is asked before each system call of the set-up path and may fail it:
// the tests use it to prove that every error path undoes what came before.
var faultHook atomic.Pointer[func(op string) error]

func injected(op string) error {
	if h := faultHook.Load(); h != nil {
		return (*h)(op)
	}
	return nil
}
