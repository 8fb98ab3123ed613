package virtio

import (
	"errors"
	"fmt"
)

// ErrBadState is wrapped by every error of MMIO.Restore.
var ErrBadState = errors.New("virtio: state does not fit the device")

// MMIOState is the serialisable state of a transport and its queues. The
// device's own state is the device's matter.
type MMIOState struct {
	Status            uint32 // the driver's bits of the status field
	NeedsReset        bool   // DEVICE_NEEDS_RESET
	InterruptStatus   uint32
	ConfigGeneration  uint32
	DeviceFeaturesSel uint32
	DriverFeaturesSel uint32
	QueueSel          uint32
	DriverFeatures    uint64
	Queues            []QueueState // one per queue of the device
}

// QueueState is the serialisable state of one queue. Indices are free-running,
// modulo 65536.
type QueueState struct {
	Size      uint32 // entries, 0: not set
	Desc      uint64 // guest address of the descriptor table
	Driver    uint64 // of the available ring
	Device    uint64 // of the used ring
	Ready     bool
	NextAvail uint16 // next head to take
	NextUsed  uint16 // used index with staged chains
	Published uint16 // used index that the driver sees
	Signalled uint16 // Published at the last interrupt decision
	NoNotify  bool
	InFlight  []ChainState // popped and not returned, by head
}

// ChainState is a chain that the device holds.
type ChainState struct {
	Head    uint16
	Written uint64 // bytes written from the start of the writable part
}

// State returns a copy of the state. Each queue is consistent in itself; for a
// snapshot, stop the vCPUs and the device's workers first.
func (m *MMIO) State() MMIOState {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := MMIOState{
		Status:            m.status.Load(),
		NeedsReset:        m.broken.Load(),
		InterruptStatus:   m.intStatus.Load(),
		ConfigGeneration:  m.generation.Load(),
		DeviceFeaturesSel: m.deviceSel,
		DriverFeaturesSel: m.driverSel,
		QueueSel:          m.queueSel,
		DriverFeatures:    m.driverFeatures,
	}
	for i := range m.queues {
		c := &m.queues[i]
		qs := QueueState{Size: c.size, Desc: c.addr.desc, Driver: c.addr.driver, Device: c.addr.device}
		if c.q != nil {
			c.q.save(&qs)
		}
		st.Queues = append(st.Queues, qs)
	}
	return st
}

func (q *Queue) save(qs *QueueState) {
	q.mu.Lock()
	defer q.mu.Unlock()
	qs.Ready = true
	qs.NextAvail, qs.NextUsed = q.nextAvail, q.nextUsed
	qs.Published, qs.Signalled = q.published, q.signalled
	qs.NoNotify = q.noNotify
	for i := range q.chains {
		if c := &q.chains[i]; c.inFlight {
			qs.InFlight = append(qs.InFlight, ChainState{Head: c.head, Written: c.written})
		}
	}
}

// Restore brings a fresh transport of the same device type into state st and,
// if the driver had set DRIVER_OK, activates the device. The guest memory must
// be restored before. Chains that were in flight are in flight again: the device
// finds them with Queue.Outstanding.
//
// Errors: ErrBadState, with the reason; the transport is as after a reset then.
func (m *MMIO) Restore(st MMIOState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.status.Load() != 0 || m.line != nil {
		return fmt.Errorf("%w: the transport is in use; restore into a new one", ErrBadState)
	}
	if err := m.checkState(st); err != nil {
		return err
	}
	for i, qs := range st.Queues {
		c := &m.queues[i]
		c.size = qs.Size
		c.addr = queueAddr{qs.Desc, qs.Driver, qs.Device}
		if !qs.Ready {
			continue
		}
		q, err := newQueue(m.mem, i, qs.Size, c.addr, st.DriverFeatures, c.maxBytes)
		if err == nil {
			err = q.restore(qs)
		}
		if err != nil {
			m.reset()
			return fmt.Errorf("%w: queue %d: %w", ErrBadState, i, err)
		}
		c.q = q
	}
	m.deviceSel, m.driverSel, m.queueSel = st.DeviceFeaturesSel, st.DriverFeaturesSel, st.QueueSel
	m.driverFeatures = st.DriverFeatures
	m.intStatus.Store(st.InterruptStatus)
	m.generation.Store(st.ConfigGeneration)
	m.status.Store(st.Status)
	if st.Status&StatusDriverOK != 0 && st.Status&StatusFailed == 0 && !st.NeedsReset {
		m.activate()
	}
	if st.NeedsReset {
		m.broken.Store(true)
		for i := range m.queues {
			if q := m.queues[i].q; q != nil {
				q.stop()
			}
		}
	}
	return nil
}

// checkState checks what does not depend on guest memory.
func (m *MMIO) checkState(st MMIOState) error {
	const all = driverStatusBits
	switch {
	case m.dev == nil:
		return fmt.Errorf("%w: the slot is empty", ErrBadState)
	case len(st.Queues) != len(m.queues):
		return fmt.Errorf("%w: it has %d queues, the device has %d", ErrBadState, len(st.Queues), len(m.queues))
	case st.Status&^all != 0:
		return fmt.Errorf("%w: status %#x", ErrBadState, st.Status)
	case st.InterruptStatus&^(intUsed|intConfig) != 0:
		return fmt.Errorf("%w: interrupt status %#x", ErrBadState, st.InterruptStatus)
	case st.Status&StatusDriverOK != 0 && st.Status&StatusFeaturesOK == 0:
		return fmt.Errorf("%w: status %#x has DRIVER_OK without FEATURES_OK", ErrBadState, st.Status)
	case st.Status&StatusFeaturesOK != 0 && (st.DriverFeatures&^m.offered != 0 || st.DriverFeatures&FeatureVersion1 == 0):
		return fmt.Errorf("%w: features %#x, the device offers %#x", ErrBadState, st.DriverFeatures, m.offered)
	}
	for i, qs := range st.Queues {
		if qs.Size > uint32(m.queues[i].max) || qs.Ready && st.Status&StatusFeaturesOK == 0 {
			return fmt.Errorf("%w: queue %d has size %d, ready %v", ErrBadState, i, qs.Size, qs.Ready)
		}
	}
	return nil
}

// restore sets the indices of a fresh queue and takes its chains in flight.
func (q *Queue) restore(qs QueueState) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.nextAvail, q.seenAvail = qs.NextAvail, qs.NextAvail
	q.nextUsed, q.published, q.signalled = qs.NextUsed, qs.Published, qs.Signalled
	q.noNotify = qs.NoNotify
	if n := qs.NextUsed - qs.Published; n > q.size || int(n)+len(qs.InFlight) > int(q.size) {
		return fmt.Errorf("%d staged and %d held chains in %d entries", n, len(qs.InFlight), q.size)
	}
	for _, cs := range qs.InFlight {
		if cs.Head >= q.size || q.chains[cs.Head].inFlight {
			return fmt.Errorf("chain in flight with head %d", cs.Head)
		}
		c := &q.chains[cs.Head]
		if err := c.walk(); err != nil {
			return err
		}
		if cs.Written > c.writable {
			return fmt.Errorf("chain %d has %d bytes written of %d", cs.Head, cs.Written, c.writable)
		}
		q.take(c)
		c.written = cs.Written
	}
	return nil
}

// Outstanding appends the chains in flight to dst, by head: what a restored
// device holds.
func (q *Queue) Outstanding(dst []*Chain) []*Chain {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.chains {
		if c := &q.chains[i]; c.inFlight {
			dst = append(dst, c)
		}
	}
	return dst
}
