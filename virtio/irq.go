package virtio

import "sync"

// line is the Interrupt of one activation. It dies with the reset, so that a
// goroutine which outlives it cannot signal the next driver.
//
// Lock order: line.mu, then Queue.mu. Neither is taken under MMIO.faultMu.
type line struct {
	m      *MMIO
	queues []*Queue // not yet stopped ones; set before the line is used

	mu   sync.Mutex
	live bool
}

func (l *line) Used(q *Queue) {
	if q.NeedInterrupt() {
		l.signal(intUsed)
	}
}

func (l *line) Config() {
	l.mu.Lock()
	live := l.live
	if live {
		l.m.generation.Add(1)
	}
	l.mu.Unlock()
	l.signal(intConfig)
}

// signal sets the status bit, then raises: the bit is there when the guest's
// handler reads it (§4.2.3.4). It raises on every event, not only when the bit
// was clear: an acknowledgement may be under way that clears it.
func (l *line) signal(bit uint32) {
	l.mu.Lock()
	var err error
	if l.live {
		err = l.raiseLocked(bit)
	}
	l.mu.Unlock()
	if err != nil {
		l.m.fault(err)
	}
}

func (l *line) raiseLocked(bit uint32) error {
	l.m.intStatus.Or(bit)
	return l.m.raise()
}

func (l *line) NeedsReset(err error) {
	l.mu.Lock()
	if !l.live || l.m.broken.Load() {
		l.mu.Unlock()
		return
	}
	for _, q := range l.queues {
		q.stop()
	}
	l.m.broken.Store(true)
	// §2.1.2: "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device
	// MUST send a device configuration change notification to the driver."
	var raiseErr error
	if l.m.status.Load()&StatusDriverOK != 0 {
		raiseErr = l.raiseLocked(intConfig)
	}
	l.mu.Unlock()
	l.m.fault(err)
	if raiseErr != nil {
		l.m.fault(raiseErr)
	}
}

// kill ends all signalling. When it returns, no raise is running.
func (l *line) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = false
}
