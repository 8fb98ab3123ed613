//go:build linux && amd64

package kvm

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOpenSaysWhatIsMissing(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "kvm")
	_, err := OpenPath(missing)
	if !errors.Is(err, ErrNoKVM) || !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), missing) {
		t.Errorf("no such file: %v, want ErrNoKVM and ENOENT with the path", err)
	}
	_, err = OpenPath("/dev/null")
	if !errors.Is(err, ErrNoKVM) || !strings.Contains(err.Error(), "not the KVM device") {
		t.Errorf("another device: %v, want ErrNoKVM", err)
	}
}

func TestOpenSaysWhoMayOpen(t *testing.T) {
	dir, err := os.MkdirTemp("", "hutch-kvm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "kvm")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, nil, 0), os.Chmod(path, 0)); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		// As another user, which a thread can be by itself. It ends with the goroutine.
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				t.Error(err)
			}
		}
		_, err := OpenPath(path)
		got <- err
	}()
	err = <-got
	if !errors.Is(err, ErrPermission) || !errors.Is(err, unix.EACCES) {
		t.Fatalf("%v, want ErrPermission and EACCES", err)
	}
	for _, want := range []string{path, "mode 0000", userName(uint32(os.Getuid())), "setfacl -m u:$USER:rw " + path, "usermod -aG kvm $USER"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestVendorFlagIsAWholeWord(t *testing.T) {
	for cpuinfo, want := range map[string]string{
		"processor\t: 0\nflags\t\t: fpu vmx sse\n": "vmx", "flags : fpu svm\n": "svm", "flags : svm_lock vmxx\n": "",
		"vmx flags\t: vmx\nflags\t: fpu\n": "", "": "", "model name: svm\n": "",
	} {
		if got := parseVendorFlag(cpuinfo); got != want {
			t.Errorf("%q: %q, want %q", cpuinfo, got, want)
		}
	}
}

func TestCapabilityErrorIsUnsupported(t *testing.T) {
	err := error(&CapabilityError{Missing: []string{"KVM_CAP_IRQFD"}})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "KVM_CAP_IRQFD") {
		t.Errorf("%v does not say what is missing", err)
	}
}

func TestProbeJudgesOnBothSigns(t *testing.T) {
	dead := errors.New("dead")
	for _, c := range []struct {
		p    Probe
		want bool
	}{
		{Probe{VendorFlag: "svm", Instructions: 40000, Elapsed: 40 * time.Microsecond}, false},
		{Probe{VendorFlag: "svm", Instructions: 40000, Elapsed: time.Second}, false},
		{Probe{VendorFlag: "vmx", Err: dead}, false},
		{Probe{Instructions: 40000, Elapsed: 40 * time.Microsecond}, false},
		{Probe{Instructions: 40000, Elapsed: 20 * time.Millisecond}, true},
		{Probe{Instructions: 0, Elapsed: 20 * time.Millisecond}, true},
		{Probe{Err: dead}, true},
	} {
		if got := c.p.SoftwareKVM(); got != c.want {
			t.Errorf("%v: software %v, want %v", c.p, got, c.want)
		}
	}
}

func TestProbeOfThisHost(t *testing.T) {
	s := open(t)
	before := held(t)
	begin := time.Now()
	p, err := s.Probe()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v in %v", p, time.Since(begin))
	// None at all is possible: an emulated hypervisor may need 20 ms to enter the guest.
	if p.Err == nil && (p.Instructions < 0 || p.Instructions > 2*probeLoops || p.Elapsed <= 0) {
		t.Errorf("%d instructions in %v", p.Instructions, p.Elapsed)
	}
	// True of every machine we test on: those without the flag have an interpreting KVM.
	if flag := VendorFlag(); p.SoftwareKVM() != (flag == "") {
		t.Errorf("flag %q, but the verdict is %v", flag, p)
	}
	expectHeld(t, before, 6)
}
