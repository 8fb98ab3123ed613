package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// Parameters of the kernel command line that the agent reads.
const (
	paramPort     = "hutch.port"     // vsock port of the host; default 1024
	paramPoweroff = "hutch.poweroff" // "acpi" = RB_POWER_OFF instead of a reset
	paramHostname = "hutch.hostname" // default "hutch"
)

const (
	hostCID     = 2    // VMADDR_CID_HOST
	defaultPort = 1024 // where the host listens
	// dialTime bounds the wait for the vsock transport and the host: the host
	// listens before the first guest instruction, so that this is device time.
	dialTime = 30 * time.Second
)

// machine is what Main does to the kernel, so that tests can watch it.
type machine struct {
	root     string // where the file systems are mounted, "/" in a microVM
	cmdline  map[string]string
	phases   []channel.Phase
	warnings []string
}

// Main is the body of the guest's process 1. It sets the machine up, serves the
// host and then stops the machine; it returns only where it is not process 1,
// with an exit code.
func Main() int {
	start := bootTime()
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "hutch-agent: this is process 1 of a microVM; to serve in an ordinary process use agent.Serve")
		return 2
	}
	m := &machine{root: "/"}
	err := m.run(start)
	if err != nil {
		m.console("fatal: " + err.Error())
	}
	m.halt()
	select {} // the kernel panics if process 1 returns
}

// run is everything between the first instruction and the end of the service.
func (m *machine) run(start int64) (err error) {
	defer func() {
		// Without this a bug would end as a panic of the kernel, with the
		// cause scrolled away.
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	m.mark("agent", start)
	kids := newAllChildren()
	m.mountAll()
	m.mark("mounts", bootTime())
	m.cmdline = parseCmdline(readString("/proc/cmdline"))
	m.setUp()
	m.loadModules("/lib/hutch/modules")
	m.mark("modules", bootTime())
	conn, err := m.dial()
	if err != nil {
		return err
	}
	m.mark("vsock", bootTime())
	opt := Options{
		start: start, kids: kids, Phases: m.phases, Warnings: m.warnings,
		OnHello: setClock, ReplayBytes: replayShare(),
	}
	if cg := "/sys/fs/cgroup"; hasFile(cg + "/cgroup.controllers") {
		delegate(cg)
		opt.Cgroup = cg + "/hutch"
	}
	a, err := New(opt)
	if err != nil {
		return err
	}
	err = a.Serve(context.Background(), conn)
	if errors.Is(err, channel.ErrHostGone) {
		return nil // there is no one to serve and no one to tell
	}
	return err
}

// replayShare is what of the guest's memory kept output may take: an eighth, so that sessions nobody watches do not starve those who run.
func replayShare() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0 // the default
	}
	return min(int64(info.Totalram)*int64(info.Unit)/8, defaultReplayTotal)
}

func (m *machine) mark(name string, at int64) {
	m.phases = append(m.phases, channel.Phase{Name: name, Uptime: at})
}

// warn keeps a failure that does not stop the start; the host is told.
func (m *machine) warn(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if len(m.warnings) < 16 {
		m.warnings = append(m.warnings, s)
	}
	m.console(s)
}

// console prints a line where the host can see it although no connection is up.
func (m *machine) console(s string) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		f = os.Stderr // the kernel opened /dev/console for process 1
	}
	fmt.Fprintf(f, "hutch-agent: %s\n", s)
	if f != os.Stderr {
		f.Close()
	}
}

// setUp does the small things that programs expect.
func (m *machine) setUp() {
	host := m.cmdline[paramHostname]
	if host == "" {
		host = "hutch"
	}
	if err := unix.Sethostname([]byte(host)); err != nil {
		m.warn("hostname: %v", err)
	}
	if err := loopbackUp(); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.ENODEV) {
		m.warn("loopback: %v", err)
	}
	unix.Umask(0o022)
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			m.warn("%v", err)
		}
	}
}

// loopbackUp sets the lo interface up; the kernel adds 127.0.0.1 and ::1.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// setClock takes over the host's clock if this one is far off: a machine
// without an RTC starts in 1970, and certificates would be not yet valid.
func setClock(wall time.Time) {
	if d := time.Since(wall); d < -time.Minute || d > time.Minute {
		ts := unix.NsecToTimespec(wall.UnixNano())
		_ = unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	}
}

// dial connects to the host.
func (m *machine) dial() (*os.File, error) {
	port := uint64(defaultPort)
	if v, ok := m.cmdline[paramPort]; ok {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("kernel command line: %s=%q is not a port number", paramPort, v)
		}
		port = n
	}
	var last error
	pause := time.Millisecond
	for end := time.Now().Add(dialTime); time.Now().Before(end); time.Sleep(pause) {
		f, err := dialVsock(hostCID, uint32(port))
		if err == nil {
			return f, nil
		}
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, fmt.Errorf("this kernel has no vsock: %w (modules loaded from /lib/hutch/modules: see above)", err)
		}
		last = err
		pause = min(2*pause, 50*time.Millisecond)
	}
	return nil, fmt.Errorf("no connection to the host at vsock port %d for %v: %w", port, dialTime, last)
}

// dialVsock makes one attempt. The file is in Go's poller.
func dialVsock(cid, port uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return ours(fd, "vsock"), nil
}

// halt ends the machine. Our own kernel has no ACPI, so the default is a reset,
// which the VMM takes for the end.
func (m *machine) halt() {
	unix.Sync()
	// Everything but us; a file system that is being written to is synced again.
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	cmd := unix.LINUX_REBOOT_CMD_RESTART
	if m.cmdline[paramPoweroff] == "acpi" {
		cmd = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	if err := unix.Reboot(cmd); err != nil {
		m.console("reboot: " + err.Error())
	}
}

// parseCmdline reads "key=value" words of a kernel command line; a word without
// "=" has the value "". Quotes are not handled: ours need none.
func parseCmdline(s string) map[string]string {
	m := make(map[string]string)
	for _, w := range strings.Fields(s) {
		k, v, _ := strings.Cut(w, "=")
		m[k] = v
	}
	return m
}

func readString(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

func hasFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
