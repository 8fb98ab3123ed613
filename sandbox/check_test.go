//go:build linux && amd64

package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/initramfs"
	"github.com/hutchvm/hutch/kvm"
)

// files makes a folder with these.
func files(t *testing.T, texts map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range texts {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// goodHost is a machine on which New works: hardware, an own kernel, a cached userland, 1 GiB of memory and no limits.
func goodHost(t *testing.T) surroundings {
	t.Helper()
	t.Setenv(EnvInitramfs, "") // which the lab sets
	kernel := files(t, map[string]string{"vmlinux": string(elf([]byte{0xf4}))})
	return surroundings{
		root: files(t, map[string]string{"proc/meminfo": "MemTotal: 2097152 kB\nMemAvailable:    1048576 kB\n", "proc/self/statm": "1000 1 1 1 0 1 0\n", "proc/self/cgroup": "0::/\n"}),
		probe: func(string) (kvm.Probe, error) {
			return kvm.Probe{VendorFlag: "svm", Instructions: 40000, Elapsed: 40 * time.Microsecond}, nil
		},
		resolve: func(ctx context.Context, _ boot.ResolveOptions) (*boot.Kernel, error) {
			k, err := boot.Open(ctx, filepath.Join(kernel, "vmlinux"))
			if err == nil {
				k.Release, k.Path, k.Origin = "6.12.1-hutch", "/cache/own", "cache"
				k.Tried = []boot.Step{{Name: "option", Try: "WithKernel, --kernel", Err: errors.New("not set")}}
			}
			return k, err
		},
		cached: func(context.Context, initramfs.Options) (*initramfs.Image, string, error) {
			return &initramfs.Image{Path: "/cache/initramfs.cpio"}, "", nil
		},
		space: func() (uint64, bool) { return 0, false },
	}
}

func checkedAt(t *testing.T, s surroundings, opts ...Option) []CheckResult {
	t.Helper()
	t.Setenv(EnvInitramfs, "") // the machine is the test's
	t.Setenv(boot.EnvKernel, "")
	cfg, err := resolve(opts)
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{cfg: cfg, seen: s}
	c.all(context.Background())
	for _, r := range c.results {
		if r.Detail == "" || r.Status == CheckFail && r.Fix == "" || strings.Contains(r.Detail+r.Fix+r.Also, "\n") {
			t.Errorf("%+v says too little, or in several lines", r)
		}
	}
	return c.results
}

var goodResults = []CheckResult{
	{Name: "device", Status: CheckPass, Detail: "/dev/kvm is there and answers"},
	{Name: "permission", Status: CheckPass, Detail: "this user may open it"},
	{Name: "hardware", Status: CheckPass, Detail: "hardware KVM (svm; 40000 instructions at 1ns each)"},
	{Name: "kernel", Status: CheckPass, Detail: "6.12.1-hutch (/cache/own)", Steps: []CheckStep{{"option", "WithKernel, --kernel", "not set"}, {"cache", "/cache/own", "used"}}},
	{Name: "modules", Status: CheckPass, Detail: "everything needed is built in"},
	{Name: "limits", Status: CheckPass, Detail: "this kernel's configuration is not known; WithExecLimits says when it cannot"},
	{Name: "userland", Status: CheckPass, Detail: "cached userland at /cache/initramfs.cpio"},
	{Name: "memory", Status: CheckPass, Detail: "1024 MiB are available, for a guest of 256 MiB"},
	{Name: "cgroup", Status: CheckPass, Detail: "no control group limits memory, processes or CPU time"},
}

func TestCheckOfAMachineThatHasEverything(t *testing.T) {
	if got := checkedAt(t, goodHost(t)); !reflect.DeepEqual(got, goodResults) {
		t.Errorf("got  %+v\nwant %+v", got, goodResults)
	}
}

func TestCheckSaysWhatIsMissingAndHowToGetIt(t *testing.T) {
	steps := []boot.Step{{Name: "option", Try: "WithKernel, --kernel", Err: errors.New("not set")},
		{Name: "host", Try: "/boot/vmlinuz-6.5.0", Err: &boot.UnreadableError{File: "/boot/vmlinuz-6.5.0", Mode: 0o600, Err: &fs.PathError{Op: "open", Path: "/boot/vmlinuz-6.5.0", Err: syscall.EACCES}}}}
	cannot := func(err error) func(*surroundings) {
		return func(s *surroundings) { s.probe = func(string) (kvm.Probe, error) { return kvm.Probe{}, err } }
	}
	userland := func(goTool string, err error) func(*surroundings) {
		return func(s *surroundings) {
			s.cached = func(context.Context, initramfs.Options) (*initramfs.Image, string, error) { return nil, goTool, err }
		}
	}
	const lab = "hutch's lab, which emulates one: bin/kvmlab -- COMMAND, in a checkout of hutch after make build"
	for _, tc := range []struct {
		name  string
		tune  func(*surroundings)
		opts  []Option
		gone  string // results that are missing then
		wants CheckResult
	}{
		{"no device", cannot(notOpened{&kvm.Error{Op: "open /dev/kvm", Errno: syscall.ENOENT, Kind: kvm.ErrNoKVM, Hint: "load the module with: sudo modprobe kvm_amd"}}), nil, "permission hardware",
			CheckResult{Name: "device", Status: CheckFail, Detail: "open /dev/kvm: no such file or directory", Fix: "load the module with: sudo modprobe kvm_amd",
				Also: "without hardware virtualisation: " + lab}},
		{"no permission", cannot(notOpened{&kvm.Error{Op: "open /dev/kvm", Errno: syscall.EACCES, Kind: kvm.ErrPermission, Hint: "it belongs to root:kvm with mode 0660: join that group"}}), nil, "hardware",
			CheckResult{Name: "permission", Status: CheckFail, Detail: "open /dev/kvm: permission denied", Fix: "it belongs to root:kvm with mode 0660: join that group"}},
		{"old KVM", cannot(notOpened{&kvm.CapabilityError{Missing: []string{"KVM_CAP_IRQFD"}}}), nil, "permission hardware",
			CheckResult{Name: "device", Status: CheckFail, Detail: "this kernel's KVM lacks [KVM_CAP_IRQFD]: a Linux kernel of 5.10 or later has them", Fix: "run it on another machine, or in " + lab}},
		{"busy", cannot(&kvm.Error{Op: "KVM_CREATE_VM", Errno: syscall.EBUSY, Kind: kvm.ErrInUse, Hint: "stop the other hypervisor"}), nil, "",
			CheckResult{Name: "hardware", Status: CheckFail, Detail: "the probe guest: KVM_CREATE_VM: device or resource busy", Fix: "stop the other hypervisor"}},
		{"software", func(s *surroundings) {
			s.probe = func(string) (kvm.Probe, error) {
				return kvm.Probe{Instructions: 40000, Elapsed: 20 * time.Millisecond}, nil
			}
		}, nil, "",
			CheckResult{Name: "hardware", Status: CheckFail, Detail: "software KVM (no vmx or svm flag; 40000 instructions at 500ns each): ordinary guest kernels do not run on it",
				Fix: "use a machine with hardware virtualisation", Also: lab}},
		{"no kernel", func(s *surroundings) {
			s.resolve = func(context.Context, boot.ResolveOptions) (*boot.Kernel, error) {
				return nil, &boot.NoKernelError{Steps: steps, Fix: "hutch kernel fetch X", Also: "sudo chmod 0644 Y"}
			}
		}, nil, "modules limits",
			CheckResult{Name: "kernel", Status: CheckFail, Detail: "no usable kernel found", Fix: "hutch kernel fetch X", Also: "sudo chmod 0644 Y",
				Steps: []CheckStep{{"option", "WithKernel, --kernel", "not set"},
					{"host", "/boot/vmlinuz-6.5.0", "permission denied: the file has mode 0600: some distributions let only root read their kernels"}}}},
		{"userland to be built", userland("/usr/bin/go", nil), nil, "",
			CheckResult{Name: "userland", Status: CheckPass, Detail: "not cached yet: will be built with /usr/bin/go, which takes half a minute"}},
		{"no userland", userland("", initramfs.ErrNoToolchain), nil, "",
			CheckResult{Name: "userland", Status: CheckFail, Detail: "there is no cached userland, and no Go toolchain to build it with", Fix: "install Go, then: hutch image build",
				Also: "name an image that `hutch image build -o FILE` wrote elsewhere (WithInitramfs, --initramfs, HUTCH_INITRAMFS)"}},
		{"large guest", nil, []Option{WithMemory(2 << 30)}, "",
			CheckResult{Name: "memory", Status: CheckWarn, Detail: "1024 MiB are available, and the guest may come to use 2048 MiB", Fix: "give the guest less (WithMemory, --memory), or the host more"}},
		{"address space", func(s *surroundings) { s.space = func() (uint64, bool) { return 256 << 20, true } }, nil, "",
			CheckResult{Name: "memory", Status: CheckFail, Detail: "this process may have 256 MiB of addresses (RLIMIT_AS) and has 3 MiB, a guest needs 256 MiB more", Fix: "ulimit -v unlimited",
				Also: "give the guest less (WithMemory, --memory)"}},
		{"container with little memory", func(s *surroundings) {
			s.root = files(t, map[string]string{"proc/meminfo": "MemAvailable: 1048576 kB\n", "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "268435456\n",
				"sys/fs/cgroup/a/memory.current": "209715200\n", "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 104857600\n"})
		}, nil, "", CheckResult{Name: "cgroup", Status: CheckWarn, Detail: "the control group /a leaves 156 MiB of memory, and a guest may come to use 256",
			Fix: "give the guest less (WithMemory, --memory), or the container more (docker run --memory)"}},
	} {
		s := goodHost(t)
		if tc.tune != nil {
			tc.tune(&s)
		}
		var want []CheckResult
		for _, r := range goodResults {
			switch {
			case r.Name == tc.wants.Name:
				want = append(want, tc.wants)
			case tc.wants.Name == "permission" && r.Name == "device":
				want = append(want, CheckResult{Name: "device", Status: CheckPass, Detail: "/dev/kvm is there"})
			case !strings.Contains(tc.gone, r.Name):
				want = append(want, r)
			}
		}
		if got := checkedAt(t, s, tc.opts...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tc.name, got, want)
		}
	}
	var ce *ConfigError
	if _, err := Check(context.Background(), WithCPUs(-1)); !errors.As(err, &ce) {
		t.Errorf("bad option: %v", err)
	}
}

func TestLimitsOfControlGroupsOfBothVersions(t *testing.T) {
	for _, tc := range []struct {
		files map[string]string
		opts  []Option
		want  string
	}{
		{map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/pids.max": "max", "sys/fs/cgroup/cpu.max": "max 100000"}, nil,
			"no control group limits memory, processes or CPU time"},
		{map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "1073741824", "sys/fs/cgroup/a/memory.current": "536870912", "sys/fs/cgroup/a/pids.max": "100",
			"sys/fs/cgroup/a/pids.current": "40", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, nil, "control groups leave 512 MiB of memory, 60 processes and threads, 1.5 processors"},
		{map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000"}, []Option{WithCPUs(2)},
			"the control group /a leaves 1.5 processors, and a guest may come to use 2"},
		{map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/pids.max": "50", "sys/fs/cgroup/a/pids.current": "40"}, nil,
			"the control group /a leaves 10 processes and threads, and a guest may come to use 33"},
		{map[string]string{"proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/\n0::/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1073741824", "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "0",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, nil, "control groups leave 1024 MiB of memory, 4 processors"},
		{map[string]string{"proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, nil,
			"no control group limits memory, processes or CPU time"},
		{map[string]string{"proc/self/cgroup": "4:memory:/host/path\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824"}, nil, "control groups leave 1024 MiB of memory"}, // in a container
		{map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1073741824", "sys/fs/cgroup/a/b/memory.max": "536870912"}, nil, "control groups leave 512 MiB of memory"},
		{map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "536870912", "sys/fs/cgroup/a/b/memory.max": "1073741824"}, nil, "control groups leave 512 MiB of memory"},
		{nil, nil, "no control group limits memory, processes or CPU time"},
	} {
		cfg, err := resolve(tc.opts)
		if err != nil {
			t.Fatal(err)
		}
		c := &checker{cfg: cfg, seen: surroundings{root: files(t, tc.files)}}
		c.cgroup()
		if len(c.results) != 1 || c.results[0].Detail != tc.want {
			t.Errorf("%v: %+v\nwant %s", tc.files, c.results, tc.want)
		}
	}
}

// The device is opened: what its mode bits say does not count.
func TestCheckOfThisHostAgreesWithNew(t *testing.T) {
	list, err := Check(context.Background(), WithKernel(filepath.Join(t.TempDir(), "none")))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]CheckResult{}
	for _, r := range list {
		m[r.Name] = r
	}
	passed := true
	for _, name := range []string{"device", "permission", "hardware"} {
		passed = passed && m[name].Status == CheckPass
	}
	if err := usableKVM(); passed != (err == nil) {
		t.Errorf("Check says %+v, %+v, %+v; opening and probing says %v", m["device"], m["permission"], m["hardware"], err)
	}
	if m["kernel"].Status != CheckFail || len(m["kernel"].Steps) != 1 || m["userland"].Detail == "" || m["memory"].Detail == "" || m["cgroup"].Detail == "" {
		t.Errorf("%+v", list)
	}
}

// Bad files that are named are told with their path.
func TestCheckNamesBadFiles(t *testing.T) {
	bad := filepath.Join(files(t, map[string]string{"bad": "no kernel and no archive"}), "bad")
	list, err := Check(context.Background(), WithKernel(bad), WithInitramfs(bad))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if (r.Name == "kernel" || r.Name == "userland") && (r.Status != CheckFail || !strings.Contains(r.Detail, bad) || !strings.Contains(r.Fix, "hutch ")) {
			t.Errorf("%+v", r)
		}
	}
}
