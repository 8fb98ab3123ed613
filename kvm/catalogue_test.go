//go:build linux && amd64

package kvm

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/internal/errdoc"
)

// world makes the surroundings of a machine with these files, on which the user is in no group of the device.
func world(t *testing.T, files map[string]string) surroundings {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return surroundings{
		root:   root,
		owner:  func(string) (ownership, bool) { return ownership{"root", "kvm", 104, 0o660}, true },
		groups: func() ([]int, []int) { return []int{1000}, []int{1000} },
		space:  func() uint64 { return math.MaxUint64 },
	}
}

// inWorld runs f there, with op failing with errno.
func inWorld(t *testing.T, s surroundings, op string, errno syscall.Errno, f func()) {
	t.Helper()
	old := here
	here = s
	hook := func(o string) error {
		if o == op {
			return errno
		}
		return nil
	}
	faultHook.Store(&hook)
	defer func() { here = old; faultHook.Store(nil) }()
	f()
}

const (
	intelInfo = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n"
	amdInfo   = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm\n"
	plainInfo = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sse\n"
)

// openCase is a failure to open the device, and the condition that it is.
type openCase struct {
	name  string
	files map[string]string
	errno syscall.Errno
	kind  error
	tune  func(*surroundings)
}

var openCases = []openCase{
	{"no-device-intel", map[string]string{"proc/cpuinfo": intelInfo}, unix.ENOENT, ErrNoKVM, nil},
	{"no-device-amd", map[string]string{"proc/cpuinfo": amdInfo}, unix.ENOENT, ErrNoKVM, nil},
	{"no-device-no-flag", map[string]string{"proc/cpuinfo": plainInfo}, unix.ENOENT, ErrNoKVM, nil},
	{"no-device-container", map[string]string{"proc/cpuinfo": intelInfo, ".dockerenv": ""}, unix.ENOENT, ErrNoKVM, nil},
	{"no-device-container-no-flag", map[string]string{"proc/cpuinfo": plainInfo, "run/systemd/container": "nspawn"}, unix.ENXIO, ErrNoKVM, nil},
	{"no-device-though-loaded", map[string]string{"proc/cpuinfo": amdInfo, "sys/module/kvm_amd/refcnt": "0"}, unix.ENOENT, ErrNoKVM, nil},
	{"permission", map[string]string{"proc/cpuinfo": intelInfo}, unix.EACCES, ErrPermission, nil},
	{"permission-other-group", nil, unix.EACCES, ErrPermission, func(s *surroundings) {
		s.owner = func(string) (ownership, bool) { return ownership{"root", "virt", 977, 0o660}, true }
	}},
	{"permission-old-login", nil, unix.EACCES, ErrPermission, func(s *surroundings) {
		s.groups = func() ([]int, []int) { return []int{1000}, []int{1000, 104} }
	}},
	{"permission-root-only", nil, unix.EACCES, ErrPermission, func(s *surroundings) {
		s.owner = func(string) (ownership, bool) { return ownership{"root", "root", 0, 0o600}, true }
	}},
	{"permission-container-group", map[string]string{"run/.containerenv": ""}, unix.EACCES, ErrPermission, nil},
	{"permission-container-rules", map[string]string{"proc/1/cgroup": "0::/docker/5ba1\n"}, unix.EPERM, ErrPermission, nil},
}

func TestTheCatalogueHasWhatOpenAndCreateVMSay(t *testing.T) {
	messages := map[string]string{}
	for _, c := range openCases {
		s := world(t, c.files)
		if c.tune != nil {
			c.tune(&s)
		}
		inWorld(t, s, "open "+DefaultPath, c.errno, func() {
			_, err := Open()
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, c.kind) || !errors.Is(err, c.errno) {
				t.Fatalf("%s: %v, want an *Error of %v and %v", c.name, err, c.kind, c.errno)
			}
			messages[c.name] = err.Error()
		})
	}
	limited := world(t, map[string]string{"proc/self/cgroup": "3:cpu:/x\n0::/app/worker\n", "sys/fs/cgroup/app/memory.max": "268435456\n",
		"sys/fs/cgroup/app/memory.current": "251658240\n", "sys/fs/cgroup/app/worker/memory.max": "max\n"})
	narrow := world(t, nil)
	narrow.space = func() uint64 { return 512 << 20 }
	for _, c := range []struct {
		name  string
		where surroundings
		errno syscall.Errno
		kind  error
	}{
		{"busy", world(t, nil), unix.EBUSY, ErrInUse}, {"busy-io", world(t, nil), unix.EIO, ErrInUse},
		{"no-memory-cgroup", limited, unix.ENOMEM, ErrLimit}, {"no-memory-rlimit", narrow, unix.ENOMEM, ErrLimit},
		{"no-memory-host", world(t, nil), unix.ENOMEM, ErrLimit},
	} {
		inWorld(t, c.where, reqCreateVM.name, c.errno, func() {
			vm, err := (&System{fd: newFD(-1)}).CreateVM()
			var e *Error
			if vm != nil || !errors.As(err, &e) || !errors.Is(err, c.kind) || !errors.Is(err, c.errno) {
				t.Fatalf("%s: %v, want an *Error of %v and %v", c.name, err, c.kind, c.errno)
			}
			messages[c.name] = err.Error()
		})
	}
	messages["old-kernel"] = (&CapabilityError{Missing: []string{"KVM_CAP_IRQFD"}}).Error()
	errdoc.Compare(t, "kvm", messages)
}

// The device that this machine has is opened, whatever its mode bits say: only open knows about access lists, capabilities and containers.
func TestAMissingDeviceIsExplainedByWhereThisRuns(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "kvm")
	old := here
	defer func() { here = old }()
	here = world(t, map[string]string{"proc/cpuinfo": amdInfo})
	_, err := OpenPath(missing)
	const want = ": no such file or directory: the processor can virtualise (svm): load the module with: sudo modprobe kvm_amd (if that is refused, switch virtualisation on in the firmware)"
	if err == nil || err.Error() != "kvm: open "+missing+want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestContainersAreRecognisedByAnyOfTheirMarks(t *testing.T) {
	for _, c := range []struct {
		file, text string
		want       bool
	}{
		{".dockerenv", "", true}, {"run/.containerenv", "", true}, {"run/systemd/container", "nspawn", true},
		{"proc/1/cgroup", "12:devices:/docker/0123\n", true}, {"proc/1/cgroup", "0::/kubepods.slice/pod1\n", true},
		{"proc/1/cgroup", "0::/system.slice/containerd.service/x\n", true}, {"proc/1/cgroup", "0::/init.scope\n", false}, {"etc/hostname", "docker", false},
	} {
		if got := world(t, map[string]string{c.file: c.text}).inContainer(); got != c.want {
			t.Errorf("%s with %q: %v, want %v", c.file, c.text, got, c.want)
		}
	}
}

func TestTheTightestMemoryLimitCounts(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		group string
		limit int64
	}{
		{map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "9", "sys/fs/cgroup/a/b/memory.max": "5"}, "/a/b", 5},
		{map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "3", "sys/fs/cgroup/a/b/memory.max": "5"}, "/a", 3},
		{map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "7"}, "/", 7},
		{map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max"}, "", 0},
		{map[string]string{"proc/self/cgroup": "1:memory:/a\n"}, "", 0}, {nil, "", 0},
	} {
		group, limit, _, ok := world(t, c.files).cgroupMemory()
		if group != c.group || limit != c.limit || ok != (c.limit > 0) {
			t.Errorf("%v: %q, %d, %v; want %q, %d", c.files, group, limit, ok, c.group, c.limit)
		}
	}
}

func TestNothingElseIsInvented(t *testing.T) {
	s := world(t, nil)
	s.owner = func(string) (ownership, bool) { return ownership{}, false }
	if got := s.permissionHint("/x/kvm", unix.EACCES); got != "let this user open it with: sudo setfacl -m u:$USER:rw /x/kvm" {
		t.Errorf("without an owner: %q", got)
	}
	if got := s.absentHint("/x/kvm"); !strings.HasPrefix(got, "the processor shows neither vmx nor svm") || !strings.HasSuffix(got, "sudo modprobe kvm_intel") {
		t.Errorf("without /proc/cpuinfo: %q", got)
	}
}
