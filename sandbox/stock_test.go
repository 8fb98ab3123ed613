package sandbox

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/boot"
)

// stockKernels are the distribution's own kernels that must work unmodified: ACPI, modules, no command-line devices.
var stockKernels = []struct {
	pkg   string
	cpus  int
	sysrq string // how the test ends the guest
	want  Reason
}{
	{"linux-image-cloud-amd64", 1, "c", ReasonPanic}, // resets the machine as "b" does
	{"linux-image-cloud-amd64", 2, "o", ReasonPowerOff},
	{"linux-image-amd64", 2, "o", ReasonPowerOff},
	{"linux-image-6.12-cloud-amd64", 2, "o", ReasonPowerOff},
	{"linux-image-6.12-amd64", 2, "o", ReasonPowerOff},
}

// needKernel skips the test when the package was not fetched, or fails it when guests are required.
func needKernel(t *testing.T, pkg string) {
	t.Helper()
	k, err := boot.Resolve(context.Background(), boot.ResolveOptions{Ref: pkg})
	if err == nil {
		k.Close()
		return
	}
	if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
		t.Fatalf("the kernel is required: %v", err)
	}
	t.Skipf("fetch the kernel first: hutch kernel fetch %s (%v)", pkg, err)
}

// TestStockKernelsBootUnmodified boots each once and looks at all that differs from kernel to kernel.
func TestStockKernelsBootUnmodified(t *testing.T) {
	needKVM(t)
	for _, tc := range stockKernels {
		t.Run(tc.pkg+"/cpus="+strconv.Itoa(tc.cpus), func(t *testing.T) {
			needKernel(t, tc.pkg)
			sb := newSandbox(t, WithKernel(tc.pkg), WithCPUs(tc.cpus))
			t.Logf("%s: the agent answered after %v: %+v", sb.Info().Kernel, sb.Info().Boot.Agent.Round(10*time.Millisecond), sb.Info().Boot)
			stockCommand(t, sb, tc.cpus)
			stockClock(t, sb)
			_, err := sb.Shell(testContext(t), "echo "+tc.sysrq+" > /proc/sysrq-trigger; sleep 1000")
			var stopped *StoppedError
			switch {
			case !errors.As(err, &stopped):
				t.Errorf("sysrq %s: got %v, want a StoppedError for %q", tc.sysrq, err, tc.want)
			case stopped.Reason == ReasonAgent && tc.want == ReasonPowerOff && strings.Contains(string(sb.Console()), "Power Off"):
				// The kernel stops its devices first, in a busy lab long before the machine.
				t.Logf("it was powering off when the connection to the agent had been gone for %v", agentGrace)
			case stopped.Reason != tc.want:
				t.Errorf("sysrq %s: got %v, want a StoppedError for %q; the console: %q", tc.sysrq, err, tc.want, sb.Console())
			}
		})
	}
}

// stockCommand runs a command: release, processors, the modules behind the connection, streams, exit code.
func stockCommand(t *testing.T, sb *Sandbox, cpus int) {
	t.Helper()
	const script = "uname -r; grep -c ^processor /proc/cpuinfo; grep -c '^vmw_vsock_virtio_transport ' /proc/modules; cat; echo err >&2; exit 3"
	res, err := sb.Shell(testContext(t), script, WithExecStdin(strings.NewReader("from the host\n")))
	if err != nil {
		t.Fatal(err)
	}
	want := sb.Info().Kernel + "\n" + strconv.Itoa(cpus) + "\n1\nfrom the host\n"
	if res.Stdout() != want || res.Stderr() != "err\n" || res.ExitCode() != 3 || !strings.HasSuffix(sb.Info().Kernel, "amd64") {
		t.Errorf("stdout %q, stderr %q, code %d; want %q, err and 3", res.Stdout(), res.Stderr(), res.ExitCode(), want)
	}
}

// stockClock: the guest's clock is the hypervisor's, shows about the host's time, and advances about as the host's does.
func stockClock(t *testing.T, sb *Sandbox) {
	t.Helper()
	read := func() (wall time.Time, up time.Duration, source string) {
		res, err := sb.Shell(testContext(t), "date -u; read up idle </proc/uptime; echo $up; cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(res.Stdout()), "\n")
		if len(lines) != 3 {
			t.Fatalf("%q, stderr %q", res.Stdout(), res.Stderr())
		}
		wall, err1 := time.Parse(time.UnixDate, lines[0])
		seconds, err2 := strconv.ParseFloat(lines[1], 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return wall, time.Duration(seconds * float64(time.Second)), lines[2]
	}
	const drift = time.Minute // seen in a busy lab: 3 s behind after a boot of 27 s, perhaps ticks lost before the kernel turns to kvm-clock
	began := time.Now()
	wall, up1, source := read()
	if ended := time.Now(); source != "kvm-clock" || wall.Before(began.Add(-drift)) || wall.After(ended.Add(drift)) {
		t.Errorf("clock source %s; the guest says %v between %v and %v of the host", source, wall, began, ended)
	}
	between := time.Now()
	time.Sleep(time.Second) // what is measured
	least := time.Since(between)
	_, up2, _ := read()
	if most := time.Since(began); up2-up1 < least/2 || up2-up1 > 2*most {
		t.Errorf("the guest was up %v longer, after %v to %v of the host's time", up2-up1, least, most)
	}
}

func TestStockKernelThatDoesNotFitIsRefused(t *testing.T) {
	needKVM(t)
	pkg := stockKernels[0].pkg
	needKernel(t, pkg)
	base := measure(t)
	sb, err := New(context.Background(), WithKernel(pkg), WithMemory(MinMemory))
	if err == nil {
		sb.Close()
		t.Fatal("New succeeded")
	}
	var me *boot.MemoryError
	if !errors.As(err, &me) || me.Have >= me.Need {
		t.Fatalf("got %v; want a boot.MemoryError that says how much is needed", err)
	}
	assertNothingLeft(t, base, 4)
}
