//go:build unix

package vsock

import (
	"errors"
	"os"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// faultyRAM is a driver over memory whose pages take can make inaccessible, as
// memory is that the host cannot provide any more (reliability row 34).
func faultyRAM(t *testing.T, d *Device) (drv *virtiotest.Driver, take func(gpa uint64)) {
	t.Helper()
	const base = 0x10000
	ram := virtiotest.RAM(t, 4<<20)
	mem, err := virtio.NewMemory(virtio.Region{GPA: base, Bytes: ram})
	if err != nil {
		t.Fatal(err)
	}
	drv = virtiotest.NewWithMemory(t, d, mem, base)
	page := uint64(os.Getpagesize())
	return drv, func(gpa uint64) {
		t.Helper()
		off := (gpa - base) &^ (page - 1)
		if err := unix.Mprotect(ram[off:off+page], unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
}

// hangGuard ends the test binary when a lock was left behind. It panics in a
// goroutine of its own: the test's cleanup would hang on the same lock.
func hangGuard(t *testing.T) {
	t.Helper()
	w := time.AfterFunc(20*time.Second, func() { panic("the device hangs after a fault on guest memory") })
	t.Cleanup(func() { w.Stop() })
}

func TestFaultOnTheRingBreaksTheDeviceAndCloseReturns(t *testing.T) {
	d, err := New(Config{GuestCID: testCID})
	if err != nil {
		t.Fatal(err)
	}
	hangGuard(t)
	drv, take := faultyRAM(t, d)
	drv.Start(virtio.FeatureRingEventIdx)
	take(drv.Queue(queueTx).Avail)
	drv.Queue(queueTx).Notify()
	for d.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	var fe *FaultError
	if !errors.As(d.Err(), &fe) {
		t.Errorf("Err = %v, want a FaultError", d.Err())
	}
	drv.MMIO.Close()
	d.Close()
}

func TestFaultWhileTheDeviceStartsLeavesItClosable(t *testing.T) {
	d, err := New(Config{GuestCID: testCID})
	if err != nil {
		t.Fatal(err)
	}
	hangGuard(t)
	drv, take := faultyRAM(t, d)
	drv.Negotiate(0) // without EVENT_IDX, starting writes to the used ring
	for i, n := range d.QueueSizes() {
		drv.SetupQueue(i, n)
	}
	take(drv.Queue(queueRx).Used)
	func() {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // as on a vCPU's thread
		defer func() {
			if recover() == nil {
				t.Error("starting did not fault: the test is stale")
			}
		}()
		drv.DriverOK()
	}()
	drv.MMIO.Close()
	d.Close()
}
