package virtio

// Bits of the device status field (§2.1).
const (
	StatusAcknowledge uint32 = 1   // ACKNOWLEDGE: the guest noticed the device
	StatusDriver      uint32 = 2   // DRIVER: it has a driver for it
	StatusDriverOK    uint32 = 4   // DRIVER_OK: the driver is ready, the device may run
	StatusFeaturesOK  uint32 = 8   // FEATURES_OK: negotiation is complete
	StatusNeedsReset  uint32 = 64  // DEVICE_NEEDS_RESET: set by the device
	StatusFailed      uint32 = 128 // FAILED: the driver gave up

	driverStatusBits = StatusAcknowledge | StatusDriver | StatusDriverOK | StatusFeaturesOK | StatusFailed
)

// statusStep is the outcome of a non-zero write to Status.
type statusStep struct {
	next      uint32 // driver bits afterwards
	negotiate bool   // FEATURES_OK was newly asked for: set it if the features are fine
	activate  bool   // DRIVER_OK is new
	fail      bool   // FAILED is new
	violation bool   // the write broke the rules and changes nothing
}

// nextStatus is the status machine of §2.1 and §3.1.1 as a pure function of the
// driver's bits so far and the value written.
//
// Bits are only ever added, in the order ACKNOWLEDGE, DRIVER, FEATURES_OK,
// DRIVER_OK; several may come in one write, except that DRIVER_OK needs a
// FEATURES_OK which the driver could read back (§3.1.1 step 6). FAILED may come
// any time. After FAILED only a reset helps.
func nextStatus(old, written uint32) statusStep {
	// A driver that adds a bit writes back what it read, the device's own
	// DEVICE_NEEDS_RESET included.
	v := written &^ StatusNeedsReset
	bad := statusStep{next: old, violation: true}
	if v&^driverStatusBits != 0 || v&old != old || (old&StatusFailed != 0 && v != old) {
		return bad
	}
	if v&StatusDriver != 0 && v&StatusAcknowledge == 0 ||
		v&StatusFeaturesOK != 0 && v&StatusDriver == 0 ||
		v&StatusDriverOK != 0 && old&StatusFeaturesOK == 0 {
		return bad
	}
	added := v &^ old
	return statusStep{
		next:      v &^ (added & StatusFeaturesOK),
		negotiate: added&StatusFeaturesOK != 0,
		activate:  added&StatusDriverOK != 0 && v&StatusFailed == 0,
		fail:      added&StatusFailed != 0,
	}
}
