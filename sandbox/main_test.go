package sandbox

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hutchvm/hutch/kvm"
)

// The lab is a hundred times slower than real hardware, and jittery: nothing here may fail because of that.
const (
	bootTimeout = 4 * time.Minute
	execTimeout = 10 * time.Minute
)

func TestMain(m *testing.M) {
	if runAsChild() {
		return
	}
	code := m.Run()
	shared.close()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString("goroutines left after the last test: " + err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// needKVM skips the test when no guest can run here, or fails it when HUTCH_REQUIRE_KVM says that one must.
func needKVM(t testing.TB) {
	t.Helper()
	if err := usableKVM(); err != nil {
		const fix = "run it in the lab: go test -exec \"$PWD/bin/kvmlab --\" ./sandbox"
		if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
			t.Fatalf("a guest is required and none can run: %v; %s", err, fix)
		}
		t.Skipf("no guest can run here: %v; %s", err, fix)
	}
}

var usableKVM = sync.OnceValue(func() error {
	sys, err := kvm.Open()
	if err != nil {
		return err
	}
	defer sys.Close()
	probe, err := sys.Probe()
	if err == nil && probe.SoftwareKVM() {
		err = ErrSoftwareKVM
	}
	return err
})

// needsNoGuest leaves out what `make test` has run outside of the lab already, and what takes several times as long inside.
func needsNoGuest(t testing.TB) {
	t.Helper()
	if os.Getenv("HUTCH_GUESTS_ONLY") == "1" {
		t.Skip("it needs no guest: unset HUTCH_GUESTS_ONLY to run it")
	}
}

// newSandbox boots a sandbox that is closed with the test.
func newSandbox(t testing.TB, opts ...Option) *Sandbox {
	t.Helper()
	needKVM(t)
	sb, err := New(context.Background(), append([]Option{WithBootTimeout(bootTimeout)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	return sb
}

// sharedSandbox is one sandbox for the tests that leave nothing behind in it.
type sharedSandbox struct {
	once sync.Once
	sb   *Sandbox
	err  error
}

var shared sharedSandbox

func (s *sharedSandbox) get(t testing.TB) *Sandbox {
	t.Helper()
	needKVM(t)
	s.once.Do(func() { s.sb, s.err = New(context.Background(), WithBootTimeout(bootTimeout)) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.sb
}

func (s *sharedSandbox) close() {
	if s.sb != nil {
		s.sb.Close()
	}
}

// testContext ends when a command hangs, long after it would have ended in the slowest lab.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), execTimeout, errors.New("the test's own deadline"))
	t.Cleanup(cancel)
	return ctx
}

// soak is how often something is done: n, or full with HUTCH_SOAK=1.
func soak(n, full int) int {
	if os.Getenv("HUTCH_SOAK") == "1" {
		return full
	}
	return n
}
