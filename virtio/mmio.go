package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Errors that MMIO.Err and the fault handler report.
var (
	// ErrDriverFailed says that the guest's driver set FAILED (§2.1.1).
	ErrDriverFailed = errors.New("virtio: the guest's driver gave up the device (FAILED)")
	// ErrActivate wraps the error of Device.Activate.
	ErrActivate = errors.New("virtio: the device could not start")
)

// MMIO is the virtio-mmio transport of one device (§4.2): the register window,
// the status machine and the queues.
//
// Read and Write make it a device on an address bus. Nothing the guest does
// here makes them fail or panic; what is against the rules is ignored and
// counted (Violations).
//
// Concurrency: all methods may be called from any goroutine; vCPU threads call
// Read and Write in parallel. A write of 0 to Status returns when the device's
// workers have stopped.
type MMIO struct {
	mem     *Memory
	dev     Device // nil: an empty slot
	raiseFn func() error
	offered uint64

	// mu guards the fields below it and is held during Activate, Notify and
	// Reset. Workers never take it, so that Reset can wait for them.
	mu             sync.Mutex
	closed         bool
	deviceSel      uint32
	driverSel      uint32
	queueSel       uint32
	driverFeatures uint64
	queues         []queueConfig
	line           *line // nil: the device is not activated

	// Written under mu (status) or line.mu (broken, intStatus, generation).
	status     atomic.Uint32 // driver's bits
	broken     atomic.Bool   // DEVICE_NEEDS_RESET
	intStatus  atomic.Uint32
	generation atomic.Uint32
	violations atomic.Uint64

	faultMu sync.Mutex
	err     error
	onFault func(error)
}

// queueConfig is what the driver wrote for one queue.
type queueConfig struct {
	max      uint16
	maxBytes uint32
	size     uint32 // 0: not set, or not acceptable
	addr     queueAddr
	q        *Queue // non-nil: QueueReady reads 1
}

// NewMMIO makes the transport of dev over mem. raise injects the device's
// interrupt and must not block (an eventfd write); nil means that nobody
// listens. A nil dev is an empty slot: DeviceID 0, takes no writes (§4.2.3.1.1).
//
// It panics if dev.QueueSizes breaks the Device contract: that is a constant of
// the device type, not input.
func NewMMIO(mem *Memory, dev Device, raise func() error) *MMIO {
	m := &MMIO{mem: mem, dev: dev, raiseFn: raise}
	if dev == nil {
		return m
	}
	m.offered = offeredFeatures(dev.Features())
	limiter, _ := dev.(ChainLimiter)
	for i, n := range dev.QueueSizes() {
		if n == 0 || n > MaxQueueSize || n&(n-1) != 0 {
			panic(fmt.Sprintf("virtio: device %d: size %d of queue %d is no power of two in 1..%d", dev.ID(), n, i, MaxQueueSize))
		}
		c := queueConfig{max: n}
		if limiter != nil {
			c.maxBytes = limiter.MaxChainBytes(i)
		}
		m.queues = append(m.queues, c)
	}
	return m
}

// SetFaultHandler has h called with every error that Err would return: at most
// one per reset, except for errors of raise. It is called on a vCPU thread or a
// device's goroutine, perhaps in the middle of a register write: it must return
// at once and must not call State, Restore, ConfigChanged, NotifyQueue or Close.
// Set it before the guest runs.
func (m *MMIO) SetFaultHandler(h func(error)) {
	m.faultMu.Lock()
	defer m.faultMu.Unlock()
	m.onFault = h
}

// Err is the last fault of this device since its last reset: a *QueueError, an
// error the device gave to NeedsReset, ErrActivate, ErrDriverFailed or an error
// of raise. nil means that all is well.
func (m *MMIO) Err() error {
	m.faultMu.Lock()
	defer m.faultMu.Unlock()
	return m.err
}

// Violations counts the driver's writes that were against the rules and ignored.
func (m *MMIO) Violations() uint64 { return m.violations.Load() }

// Status is the device status field as the driver reads it.
func (m *MMIO) Status() uint32 {
	s := m.status.Load()
	if m.broken.Load() {
		s |= StatusNeedsReset
	}
	return s
}

func (m *MMIO) fault(err error) {
	m.faultMu.Lock()
	m.err = err
	h := m.onFault
	m.faultMu.Unlock()
	if h != nil {
		h(err)
	}
}

func (m *MMIO) raise() error {
	if m.raiseFn == nil {
		return nil
	}
	return m.raiseFn()
}

func (m *MMIO) violation() { m.violations.Add(1) }

// Read fills p from the registers at off. Control registers answer to aligned
// 32-bit reads (§4.2.2.2); anything else reads as zero. The configuration space
// may be read in any width.
func (m *MMIO) Read(off uint64, p []byte) {
	clear(p)
	if off >= regConfig {
		if m.dev != nil && off < MMIOSize && len(p) <= 8 && uint64(len(p)) <= MMIOSize-off {
			m.dev.ReadConfig(uint32(off-regConfig), p)
		}
		return
	}
	if len(p) != 4 || off%4 != 0 {
		return
	}
	binary.LittleEndian.PutUint32(p, m.readRegister(uint32(off)))
}

func (m *MMIO) readRegister(off uint32) uint32 {
	// Registers that need no lock: the interrupt handler's path stays free of
	// a vCPU that waits in a reset.
	switch off {
	case regMagicValue:
		return magicValue
	case regVersion:
		return mmioVersion
	case regVendorID:
		return vendorID
	case regDeviceID:
		if m.dev == nil {
			return 0
		}
		return m.dev.ID()
	case regInterruptStatus:
		return m.intStatus.Load()
	case regConfigGeneration:
		return m.generation.Load()
	case regSHMLenLow, regSHMLenHigh, regSHMBaseLow, regSHMBaseHigh:
		// §4.2.2: a region that does not exist has length -1 (and, for want of
		// a place, base -1).
		return 0xffffffff
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch off {
	case regDeviceFeatures:
		switch m.deviceSel {
		case 0:
			return uint32(m.offered)
		case 1:
			return uint32(m.offered >> 32)
		}
	case regQueueSizeMax:
		if c := m.selected(); c != nil {
			return uint32(c.max)
		}
	case regQueueReady:
		if c := m.selected(); c != nil && c.q != nil {
			return 1
		}
	case regStatus:
		return m.Status()
	}
	return 0
}

// selected is the queue that QueueSel names, compared in full width, or nil.
func (m *MMIO) selected() *queueConfig {
	if uint64(m.queueSel) >= uint64(len(m.queues)) {
		return nil
	}
	return &m.queues[m.queueSel]
}

// Write stores p into the registers at off: aligned 32-bit writes of writable
// registers only, everything else is ignored and counted.
func (m *MMIO) Write(off uint64, p []byte) {
	if m.dev == nil || off >= regConfig || len(p) != 4 || off%4 != 0 {
		m.violation()
		return
	}
	v := binary.LittleEndian.Uint32(p)
	if off == regInterruptACK {
		// Without mu, like InterruptStatus. Undefined bits are never set.
		m.intStatus.And(^v)
		return
	}
	if off == regQueueNotify {
		m.notify(v)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.writeRegister(uint32(off), v)
	}
}

// writeRegister handles the registers behind mu. Preconditions: mu held.
func (m *MMIO) writeRegister(off, v uint32) {
	switch off {
	case regDeviceFeaturesSel:
		m.deviceSel = v
	case regDriverFeaturesSel:
		m.driverSel = v
	case regDriverFeatures:
		m.writeDriverFeatures(v)
	case regQueueSel:
		m.queueSel = v
	case regStatus:
		m.writeStatus(v)
	case regQueueReady:
		m.writeQueueReady(v)
	case regQueueSize:
		if c := m.configurable(); c != nil {
			// Compared before any truncation. An unacceptable size leaves the
			// queue without one, so that it cannot become ready.
			c.size = v
			if v > uint32(c.max) || v&(v-1) != 0 {
				c.size = 0
				m.violation()
			}
		}
	case regQueueDescLow, regQueueDescHigh, regQueueDriverLow, regQueueDriverHigh,
		regQueueDeviceLow, regQueueDeviceHigh:
		m.writeQueueAddr(off, v)
	case regSHMSel:
		// No shared memory regions: nothing to select.
	default:
		m.violation() // read-only, reserved, or QueueReset without RING_RESET
	}
}

// writeDriverFeatures ignores writes once FEATURES_OK stands (§3.1.1 step 5:
// "The driver MUST NOT accept new feature bits after this step").
func (m *MMIO) writeDriverFeatures(v uint32) {
	if m.status.Load()&(StatusFeaturesOK|StatusFailed) != 0 || m.driverSel > 1 {
		m.violation()
		return
	}
	shift := 32 * m.driverSel
	m.driverFeatures = m.driverFeatures&^(0xffffffff<<shift) | uint64(v)<<shift
}

// configurable is the selected queue if the driver may set it up now: after
// FEATURES_OK, before DRIVER_OK (§3.1.1), and not while it is ready.
func (m *MMIO) configurable() *queueConfig {
	c := m.selected()
	s := m.status.Load()
	if c == nil || c.q != nil || s&StatusFeaturesOK == 0 || s&(StatusDriverOK|StatusFailed) != 0 {
		m.violation()
		return nil
	}
	return c
}

func (m *MMIO) writeQueueAddr(off, v uint32) {
	c := m.configurable()
	if c == nil {
		return
	}
	low := func(a *uint64) { *a = *a&^0xffffffff | uint64(v) }
	high := func(a *uint64) { *a = *a&0xffffffff | uint64(v)<<32 }
	switch off {
	case regQueueDescLow:
		low(&c.addr.desc)
	case regQueueDescHigh:
		high(&c.addr.desc)
	case regQueueDriverLow:
		low(&c.addr.driver)
	case regQueueDriverHigh:
		high(&c.addr.driver)
	case regQueueDeviceLow:
		low(&c.addr.device)
	case regQueueDeviceHigh:
		high(&c.addr.device)
	}
}

func (m *MMIO) writeQueueReady(v uint32) {
	if v == 0 {
		// §4.2.2.2: the driver reads the 0 back "to ensure synchronization":
		// stop waits for a call in progress on the ring.
		if c := m.selected(); c != nil && c.q != nil {
			c.q.stop()
			c.q = nil
		}
		return
	}
	c := m.configurable()
	if c == nil {
		return
	}
	if v != 1 {
		m.violation()
		return
	}
	q, err := newQueue(m.mem, int(m.queueSel), c.size, c.addr, m.driverFeatures, c.maxBytes)
	if err != nil {
		m.violation() // QueueReady reads back 0
		return
	}
	c.q = q
}

// writeStatus drives the status machine. Preconditions: mu held.
func (m *MMIO) writeStatus(v uint32) {
	if v == 0 {
		m.reset()
		return
	}
	step := nextStatus(m.status.Load(), v)
	if step.violation {
		m.violation()
		return
	}
	if step.negotiate {
		// §2.2.2, §6.2: an unoffered bit or a missing VERSION_1 is refused by
		// leaving FEATURES_OK clear.
		if m.driverFeatures&^m.offered == 0 && m.driverFeatures&FeatureVersion1 != 0 {
			step.next |= StatusFeaturesOK
		}
	}
	m.status.Store(step.next)
	if step.fail {
		m.quiesce()
		m.fault(ErrDriverFailed)
		return
	}
	if step.activate {
		m.activate()
	}
}

// activate starts the device with the queues as they are. Preconditions: mu held.
func (m *MMIO) activate() {
	l := &line{m: m, live: true}
	m.line = l
	queues := make([]*Queue, len(m.queues))
	for i := range m.queues {
		if q := m.queues[i].q; q != nil {
			queues[i] = q
			l.queues = append(l.queues, q)
		} else {
			queues[i] = newStoppedQueue(i)
		}
	}
	for _, q := range l.queues {
		q.onBroken = l.NeedsReset
	}
	if err := m.dev.Activate(m.driverFeatures, queues, l); err != nil {
		l.NeedsReset(fmt.Errorf("%w: %w", ErrActivate, err))
	}
}

// quiesce ends an activation: afterwards there are no interrupts, no ring
// access and no workers. Preconditions: mu held.
func (m *MMIO) quiesce() {
	if m.line != nil {
		m.line.kill()
	}
	for i := range m.queues {
		if q := m.queues[i].q; q != nil {
			q.stop()
		}
	}
	if m.line != nil {
		m.dev.Reset() // joins the workers
		m.line = nil
	}
}

// reset brings everything back to the power-on state (§2.4). Preconditions: mu held.
func (m *MMIO) reset() {
	m.quiesce()
	for i := range m.queues {
		m.queues[i] = queueConfig{max: m.queues[i].max, maxBytes: m.queues[i].maxBytes}
	}
	m.deviceSel, m.driverSel, m.queueSel, m.driverFeatures = 0, 0, 0, 0
	m.broken.Store(false)
	m.intStatus.Store(0)
	m.faultMu.Lock()
	m.err = nil
	m.faultMu.Unlock()
	m.status.Store(0)
}

// NotifyQueue is a write of i to QueueNotify that came by ioeventfd.
// Indices that do not exist, and notifications while the device is not running,
// are ignored.
func (m *MMIO) NotifyQueue(i int) {
	if i < 0 || i >= len(m.queues) {
		m.violation()
		return
	}
	m.notify(uint32(i))
}

func (m *MMIO) notify(i uint32) {
	if uint64(i) >= uint64(len(m.queues)) {
		m.violation()
		return
	}
	if m.broken.Load() {
		return // §2.1.2: until the reset, a kick costs nothing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.line == nil || m.broken.Load() || m.queues[i].q == nil {
		return
	}
	m.dev.Notify(int(i))
}

// ConfigChanged announces that the device's configuration space changed: the
// generation counter moves on and, if the driver runs, it is interrupted. For the
// host's side; a device's worker uses Interrupt.Config, which takes no lock that
// a reset holds.
func (m *MMIO) ConfigChanged() {
	m.mu.Lock()
	l := m.line
	m.mu.Unlock()
	if l != nil {
		l.Config()
	} else {
		m.generation.Add(1)
	}
}

// Close stops the device as a reset does, for good: later writes are ignored.
// Idempotent; always nil.
func (m *MMIO) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.dev != nil {
		m.quiesce()
	}
	return nil
}
