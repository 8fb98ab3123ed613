package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guestInit is process 1 of the lab. It makes the machine usable, starts the server and reaps orphans; when the server ends, the machine
// does too. It never returns.
func guestInit() {
	if err := setUpMachine(); err != nil {
		fmt.Fprintln(os.Stderr, "kvmlab init:", err)
		halt()
	}
	// ForkExec, not os/exec: the loop below waits for every child, so nobody else may.
	server, err := syscall.ForkExec("/init", []string{"kvmlab", serverCommand}, &syscall.ProcAttr{
		Env: []string{"PATH=/"}, Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvmlab init: start server:", err)
		halt()
	}
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil, pid == server:
			fmt.Fprintf(os.Stderr, "kvmlab init: server ended: status %#x, %v\n", uint32(ws), err)
			halt()
		}
	}
}

// halt ends the emulated machine: a restart, which the emulator was told to take for an end.
func halt() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func setUpMachine() error {
	for _, m := range []struct{ source, target, fstype string }{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	settleClock()
	if err := loadModules("/modules"); err != nil {
		return err
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm", "/dev/mqueue"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod("/dev/kvm", 0o666); err != nil {
		return fmt.Errorf("the emulated processor offers no nested virtualisation: %w", err)
	}
	if err := holdKVM(); err != nil {
		return fmt.Errorf("keep KVM switched on: %w", err)
	}
	links := map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	limit := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	if err := unix.Sethostname([]byte("kvmlab")); err != nil {
		return err
	}
	return raiseLoopback()
}

// Requests of KVM without an argument structure. Documentation/virt/kvm/api.rst.
const (
	kvmCreateVM      = 0xAE01
	kvmCreateVCPU    = 0xAE41
	kvmCreateIRQChip = 0xAE60
)

// holdKVM makes two idle virtual machines, one with and one without interrupt controllers, that stay until the lab ends. KVM patches the
// kernel's code and switches the processors' virtualisation on and off when the first machine of a kind appears and the last one goes,
// which is very slow in an emulator and, with a thread per processor, breaks it (see threads).
func holdKVM() error {
	dev, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	for _, irqchip := range []bool{false, true} {
		vm, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(dev), kvmCreateVM, 0)
		if errno != 0 {
			return fmt.Errorf("create a virtual machine: %w", errno)
		}
		if irqchip {
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, vm, kvmCreateIRQChip, 0); errno != 0 {
				return fmt.Errorf("create interrupt controllers: %w", errno)
			}
		}
		vcpu, _, errno := unix.Syscall(unix.SYS_IOCTL, vm, kvmCreateVCPU, 0)
		if errno != 0 {
			return fmt.Errorf("create a processor: %w", errno)
		}
		unix.CloseOnExec(int(vm)) // both stay open in this process, which never ends
		unix.CloseOnExec(int(vcpu))
	}
	return nil
}

// settleTime bounds settleClock: the kernel refines its clock about two seconds after the start.
const settleTime = 20 * time.Second

// settleClock waits until the kernel has refined how fast the time stamp counter runs, and uses it as its clock. KVM keeps the figure of the
// moment in which its module is loaded for new virtual machines. When the first measurement was too low, as on a busy host, the later one
// is above it; KVM then refuses to run a guest's counter slower than the processor's, and leaves it without any scale: timers of
// guests that use the counter's deadline never fire, and such a guest sleeps for ever. Linux, arch/x86/kvm/x86.c, set_tsc_khz.
func settleClock() {
	const path = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if name, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(name)) == "tsc" {
			return
		}
	}
	fmt.Fprintln(os.Stderr, "kvmlab init: the time stamp counter does not become the clock; guests may hang")
}

// loadModules loads all modules of dir in the order of their names. All are tried; the errors are joined.
func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	var errs []error
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("load %s: %w", file, err))
		}
		f.Close()
		os.Remove(file) // the archive's memory is the machine's memory
	}
	return errors.Join(errs...)
}

// raiseLoopback brings lo up: programs under test listen on 127.0.0.1.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// openPort opens the wire protocol's port once the driver has announced it.
func openPort() (*port, error) {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, file := range names {
			name, err := os.ReadFile(file)
			if err != nil || strings.TrimSpace(string(name)) != portName {
				continue
			}
			dev := "/dev/" + filepath.Base(filepath.Dir(file))
			f, err := os.OpenFile(dev, os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			return &port{f: f}, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio-serial port named %s", portName)
}

// port is the virtio-serial port. The driver reports an end of file while the host side is not connected, which right after the start only
// means that its message has not arrived.
type port struct {
	f     *os.File
	heard bool
}

func (p *port) Read(b []byte) (int, error) {
	for range 2000 {
		n, err := p.f.Read(b)
		if n > 0 {
			p.heard = true
		}
		if n > 0 || p.heard || !errors.Is(err, io.EOF) {
			return n, err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, io.EOF
}

func (p *port) Write(b []byte) (int, error) { return p.f.Write(b) }
func (p *port) Close() error                { return p.f.Close() }
