package vsock

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/hutchvm/hutch/virtio"
)

// What happens when the guest breaks the device, or we do.

// FaultError is a panic or memory fault caught while the device worked: a bug in
// this package or a hole in guest memory. It broke this device only.
type FaultError struct {
	Value any    // what was recovered
	Stack []byte // where
}

func (e *FaultError) Error() string { return fmt.Sprintf("vsock: fault in the device: %v", e.Value) }

func (d *Device) fail(w *worker, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failLocked(w, err)
}

// failLocked stops the device until the driver resets it: connections end, no
// ring is touched again, and the driver finds DEVICE_NEEDS_RESET (§2.1.2).
func (d *Device) failLocked(w *worker, err error) {
	if d.run != w || d.broken != nil {
		return
	}
	d.broken = err
	d.mux.log.record(err.Error(), nil)
	d.mux.dropAll(reasonDevice)
	if !errors.Is(err, virtio.ErrBroken) && !errors.Is(err, virtio.ErrStopped) {
		w.irq.NeedsReset(err) // a queue's own error is known to the transport
	}
}

// catch turns a panic of the worker into a broken device. Deferred.
func (d *Device) catch(w *worker) {
	if r := recover(); r != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.faultLocked(w, r)
	}
}

// catchLocked is catch for code that holds d.mu.
func (d *Device) catchLocked(w *worker) {
	if r := recover(); r != nil {
		d.faultLocked(w, r)
	}
}

func (d *Device) faultLocked(w *worker, r any) {
	d.mux.stats.Faults++
	d.failLocked(w, &FaultError{Value: r, Stack: debug.Stack()})
}
