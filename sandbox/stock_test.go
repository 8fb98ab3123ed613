package sandbox

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/boot"
)

// stockKernels are the distribution's own kernels that must work unmodified: ACPI, modules, no command-line devices.
var stockKernels = []string{"linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"}

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

func TestStockKernelsBootUnmodifiedAndRunCommands(t *testing.T) {
	needKVM(t)
	for _, pkg := range stockKernels {
		for _, cpus := range []int{1, 2} {
			t.Run(pkg+"/"+map[int]string{1: "one CPU", 2: "two CPUs"}[cpus], func(t *testing.T) {
				needKernel(t, pkg)
				sb := newSandbox(t, WithKernel(pkg), WithCPUs(cpus))
				res, err := sb.Shell(testContext(t), "uname -r; grep -c ^processor /proc/cpuinfo; cat; exit 3", WithExecStdin(strings.NewReader("from the host\n")))
				if err != nil {
					t.Fatal(err)
				}
				want := sb.Info().Kernel + "\n" + map[int]string{1: "1", 2: "2"}[cpus] + "\nfrom the host\n"
				if res.Stdout() != want || res.ExitCode() != 3 || !strings.Contains(sb.Info().Kernel, "cloud-amd64") {
					t.Fatalf("stdout %q, code %d; want %q and 3 (stderr %q)", res.Stdout(), res.ExitCode(), want, res.Stderr())
				}
			})
		}
	}
}

func TestStockKernelThatDoesNotFitIsRefused(t *testing.T) {
	needKVM(t)
	needKernel(t, stockKernels[0])
	base := measure(t)
	sb, err := New(context.Background(), WithKernel(stockKernels[0]), WithMemory(MinMemory))
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

func TestStockKernelPanicAndPowerOffAreToldApart(t *testing.T) {
	needKVM(t)
	needKernel(t, stockKernels[0])
	for _, tc := range []struct {
		trigger string
		want    Reason
	}{{"c", ReasonPanic}, {"o", ReasonPowerOff}, {"b", ReasonReboot}} {
		sb := newSandbox(t, WithKernel(stockKernels[0]))
		_, err := sb.Shell(testContext(t), "echo "+tc.trigger+" > /proc/sysrq-trigger; sleep 1000")
		var stopped *StoppedError
		if !errors.As(err, &stopped) || stopped.Reason != tc.want {
			t.Errorf("sysrq %s: got %v, want a StoppedError for %q", tc.trigger, err, tc.want)
		}
	}
}
