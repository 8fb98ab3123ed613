package virtio

// DisableNotifications tells the driver that the device is polling and wants no
// notifications (§2.7.10). A hint: notifications may still come.
func (q *Queue) DisableNotifications() {
	q.mu.Lock()
	defer q.mu.Unlock()
	// With EVENT_IDX used.flags stays 0 (§2.7.10.2) and avail_event, left
	// behind, already keeps the driver quiet.
	if q.state != nil || q.eventIdx || q.noNotify {
		return
	}
	q.noNotify = true
	q.storeUsedWord()
}

// EnableNotifications asks the driver to notify the next buffer it makes
// available, then looks again: pending is true if buffers are there already, for
// which no notification may come. The device then must poll once more, or it
// sleeps on a full ring.
//
// A stopped or broken queue has nothing pending.
func (q *Queue) EnableNotifications() (pending bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state != nil {
		return false
	}
	if q.eventIdx {
		// The 16-bit store is plain, and the driver's check of it races with
		// our check of avail.idx: the atomic swap between them is the full
		// barrier that keeps one of the two from being missed (a store is
		// none under the race detector).
		store16(q.used, usedRing+usedElem*int(q.size), q.nextAvail)
		q.fence.Swap(1)
	} else if q.noNotify {
		q.noNotify = false
		q.storeUsedWord()
	}
	return q.loadAvail(availIdx) != q.nextAvail
}

// NeedInterrupt says whether the driver wants an interrupt for what was
// published since the last call (§2.7.7). Interrupt.Used calls it; a device
// does not call both.
func (q *Queue) NeedInterrupt() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	old, now := q.signalled, q.published
	if q.state != nil || old == now {
		return false
	}
	q.signalled = now
	if q.eventIdx {
		return needEvent(q.loadAvail(availRing+2*int(q.size)), now, old)
	}
	return q.loadAvail(availFlags)&availNoInterrupt == 0
}
