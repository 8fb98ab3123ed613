package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hutchvm/hutch/virtio"
)

// Queue indices (§5.10.2).
const (
	queueRx = iota
	queueTx
	queueEvent
	queueCount
)

var (
	_ virtio.Device       = (*Device)(nil)
	_ virtio.ChainLimiter = (*Device)(nil)
)

// Device is a virtio socket device with its host side. Put it behind a
// virtio.MMIO; use Listen and Dial.
//
// Concurrency: all methods are safe for any number of goroutines. One worker
// goroutine runs while the guest's driver has the device started. The
// transport's interrupt and fault functions are called with the device locked:
// they must return at once and not call back into it.
type Device struct {
	cfg  Config
	life sync.Mutex    // serialises Activate, Reset and Close; before mu
	kick chan struct{} // token: the worker shall look at everything

	mu        sync.Mutex
	mux       *mux
	run       *worker // nil: not started, or reset
	broken    error   // why nothing moves until the driver resets the device
	closed    bool
	eventOwed bool // a TRANSPORT_RESET waits for an event buffer
	starved   bool // rx had no buffer: its notifications are on
	rxHeader  [HeaderSize]byte
}

// worker is one activation of the device.
type worker struct {
	rx, tx, event *virtio.Queue
	irq           virtio.Interrupt
	stop, done    chan struct{}
	txRaw         [HeaderSize]byte // scratch of receive
	txHeader      Header
}

// New makes a device for one guest. It starts nothing: there is no goroutine
// before the guest's driver sets DRIVER_OK.
// Errors: *ConfigError.
func New(cfg Config) (*Device, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Device{cfg: cfg, kick: make(chan struct{}, 1), mux: newMux(cfg, time.Now)}, nil
}

// ID implements virtio.Device.
func (d *Device) ID() uint32 { return DeviceID }

// Features implements virtio.Device. No VIRTIO_VSOCK_F_SEQPACKET: "If no
// feature bit has been negotiated, the device SHOULD act as if
// VIRTIO_VSOCK_F_STREAM has been negotiated" (§5.10.3).
func (d *Device) Features() uint64 {
	return virtio.FeatureRingEventIdx | virtio.FeatureRingIndirectDesc
}

// QueueSizes implements virtio.Device: rx, tx, event (§5.10.2).
func (d *Device) QueueSizes() []uint16 { return []uint16{rxQueueSize, txQueueSize, eventQueueSize} }

// MaxChainBytes implements virtio.ChainLimiter.
func (d *Device) MaxChainBytes(queue int) uint32 {
	if queue == queueTx {
		return maxTxChain
	}
	return 0 // rx and event buffers may be as large as the driver likes
}

// ReadConfig implements virtio.Device: le64 guest_cid (§5.10.4).
func (d *Device) ReadConfig(off uint32, p []byte) {
	var cfg [8]byte
	binary.LittleEndian.PutUint64(cfg[:], d.cfg.GuestCID)
	if off < uint32(len(cfg)) {
		copy(p, cfg[off:])
	}
}

// Activate implements virtio.Device: it starts the worker.
// Errors: net.ErrClosed after Close.
func (d *Device) Activate(_ uint64, queues []*virtio.Queue, irq virtio.Interrupt) error {
	if len(queues) != queueCount {
		return fmt.Errorf("vsock: activated with %d queues, want %d", len(queues), queueCount)
	}
	d.life.Lock()
	defer d.life.Unlock()
	d.stopWorker(reasonDevice)
	w := &worker{
		rx: queues[queueRx], tx: queues[queueTx], event: queues[queueEvent], irq: irq,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("vsock: activate: %w", net.ErrClosed)
	}
	// Wanted only while a packet waits for a buffer. This touches guest memory: a
	// fault here must find no worker entered that Reset would wait for.
	w.rx.DisableNotifications()
	d.run = w
	go d.work(w)
	return nil
}

// Notify implements virtio.Device. It never blocks: a vCPU thread calls it.
func (d *Device) Notify(int) { wake(d.kick) }

// Reset implements virtio.Device. A driver that starts over knows none of the
// connections, so each ends with ErrReset. Listeners stay.
func (d *Device) Reset() {
	d.life.Lock()
	defer d.life.Unlock()
	d.stopWorker(reasonDevice)
}

// stopWorker ends every connection and joins the worker.
// Preconditions: d.life is held.
func (d *Device) stopWorker(why endReason) {
	d.mu.Lock()
	w := d.run
	d.run, d.broken, d.starved, d.eventOwed = nil, nil, false, false
	d.mux.dropAll(why)
	d.mu.Unlock()
	if w != nil {
		close(w.stop)
		<-w.done
	}
}

// Close ends the device: every blocked call returns net.ErrClosed, listeners are
// closed, and no goroutine is left. The guest is not told; it finds a device
// that does nothing. Idempotent; always nil.
func (d *Device) Close() error {
	d.life.Lock()
	defer d.life.Unlock()
	d.mu.Lock()
	d.closed = true
	for _, b := range d.mux.listen {
		d.mux.closeBacklog(b)
	}
	d.mu.Unlock()
	d.stopWorker(reasonClosed)
	return nil
}

// TransportReset ends every connection with ErrReset and tells the guest by the
// TRANSPORT_RESET event that it lost them too (§5.10.6.7). For a guest that
// continues from a snapshot, whose connections the host does not have. The event
// waits for a buffer; nothing else waits for it.
func (d *Device) TransportReset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mux.dropAll(reasonDevice)
	d.eventOwed = d.run != nil
	d.changedLocked()
}

// Stats returns the counters.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mux.stats
}

// Err says why the device stands still until the guest resets it, or nil. A
// *virtio.QueueError if the guest broke a ring.
func (d *Device) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broken
}

// work is the worker goroutine.
func (d *Device) work(w *worker) {
	defer close(w.done)
	debug.SetPanicOnFault(true) // a fault on guest memory breaks this device, not the process
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		again := d.pass(w)
		select {
		case <-w.stop:
			return
		default:
		}
		if again {
			runtime.Gosched() // a guest that always has work must not have it all
			continue
		}
		if at, ok := d.nextTimer(w); ok {
			timer.Reset(time.Until(at))
		} else {
			timer.Stop()
		}
		select {
		case <-w.stop:
			return
		case <-d.kick:
		case <-timer.C:
		}
	}
}

// nextTimer fires due timers and returns the next one.
func (d *Device) nextTimer(w *worker) (at time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != w || d.broken != nil {
		return at, false
	}
	defer d.catchLocked(w)
	d.mux.expire()
	d.flushLocked() // what expired has packets to send, which may arm timers
	return d.mux.expire()
}

// pass takes a bounded number of packets from the guest and gives it what waits
// for it; again is true if there is more to do now.
func (d *Device) pass(w *worker) (again bool) {
	defer d.catch(w)
	full := d.beginPass(w)
	w.tx.DisableNotifications()
	bytes := 0
	for n := 0; !full; n++ {
		if n == budgetPackets || bytes >= budgetBytes {
			again = true
			break
		}
		c, ok, err := w.tx.Pop()
		if err != nil {
			d.fail(w, err)
			return false
		}
		if !ok {
			again = w.tx.EnableNotifications()
			break
		}
		bytes += c.ReadableLen()
		full = d.receive(w, c)
		if err := w.tx.AddUsed(c.Head(), 0); err != nil {
			d.fail(w, err)
			return false
		}
	}
	w.irq.Used(w.tx)
	return d.endPass(w, full) || again
}

// beginPass says whether the reply store is full: then tx waits for rx.
func (d *Device) beginPass(w *worker) (full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != w || d.broken != nil {
		return true
	}
	d.mux.stats.Kicks++
	if d.mux.full() {
		d.flushLocked()
	}
	return d.mux.full()
}

// endPass sends what the pass brought about. It returns true if tx stopped at a
// full reply store that has room now.
func (d *Device) endPass(w *worker, full bool) (again bool) {
	d.mu.Lock()
	if d.run != w || d.broken != nil {
		d.mu.Unlock()
		return false
	}
	d.flushLocked()
	again = full && d.broken == nil && !d.mux.full()
	lines := d.mux.log.take()
	d.mu.Unlock()
	emit(d.cfg.Logger, lines)
	return again
}

// receive handles one chain of the tx queue.
func (d *Device) receive(w *worker, c *virtio.Chain) (full bool) {
	if c.WritableLen() != 0 || c.ReadableLen() < HeaderSize {
		d.badChain()
		return false
	}
	// Copied once: the guest may be changing it right now.
	if _, err := c.ReadAt(w.txRaw[:], 0); err != nil {
		return false // stopped: the next Pop says so
	}
	w.txHeader = DecodeHeader(w.txRaw[:])
	ep, n, full := d.dispatch(w, &w.txHeader, c.ReadableLen()-HeaderSize)
	if n == 0 {
		return full
	}
	// Without the lock: only this goroutine fills rings. A connection that ends
	// meanwhile just loses its ring.
	for off := HeaderSize; n > 0; {
		p := ep.rx.reserve(int(n))
		k, err := c.ReadAt(p, off)
		if err != nil || k == 0 {
			break // stopped: every connection ends
		}
		ep.rx.commit(k)
		off += k
		n -= uint32(k)
	}
	wake(ep.readable)
	return full
}

func (d *Device) dispatch(w *worker, h *Header, payload int) (ep *endpoint, n uint32, full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != w || d.broken != nil {
		return nil, 0, true
	}
	ep, n = d.mux.packet(h, payload)
	return ep, n, d.mux.full()
}

func (d *Device) badChain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mux.stats.Malformed++
	d.mux.log.record("tx buffer is shorter than a header or writable (§5.10.6.4)", nil)
}

var errRxBuffer = errors.New("vsock: rx buffer is shorter than a header or readable (§5.10.6.4)")

// changedLocked is for callers of the host side, after they gave the mux an
// event. Preconditions: d.mu is held.
func (d *Device) changedLocked() {
	d.flushLocked()
	if d.mux.early {
		wake(d.kick) // the worker's timer is set too late
	}
}

// flushLocked moves packets to the guest until there are none, no buffers, or
// the budget is used up (then the worker goes on). Called by whoever caused a
// packet, so that a Write needs no other goroutine.
// Preconditions: d.mu is held.
func (d *Device) flushLocked() {
	w := d.run
	if w == nil || d.broken != nil {
		return
	}
	if !d.eventOwed && !d.mux.pending() {
		return
	}
	defer d.catchLocked(w)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if d.eventOwed {
		d.sendEventLocked(w)
	}
	if d.starved {
		d.starved = false
		w.rx.DisableNotifications()
	}
	packets, bytes := 0, 0
	for tries := 0; d.broken == nil && d.mux.pending(); tries++ {
		if tries == budgetPackets || bytes >= budgetBytes {
			wake(d.kick)
			break
		}
		c, ok, err := w.rx.Pop()
		if err != nil {
			d.failLocked(w, err)
			break
		}
		if !ok {
			d.starved = true
			if w.rx.EnableNotifications() {
				continue
			}
			break
		}
		n, err := d.sendLocked(w, c)
		if err != nil {
			d.failLocked(w, err)
			break
		}
		packets++
		bytes += n
	}
	if packets > 0 {
		w.irq.Used(w.rx)
	}
}

// sendLocked fills one rx chain with the next packet.
func (d *Device) sendLocked(w *worker, c *virtio.Chain) (n int, err error) {
	if c.ReadableLen() != 0 || c.WritableLen() < HeaderSize {
		// Breaks the device, instead of trying the next: a driver could feed us
		// such buffers for ever.
		return 0, errRxBuffer
	}
	h, ep := d.mux.next(uint32(min(c.WritableLen()-HeaderSize, MaxPayload)))
	h.Encode(d.rxHeader[:])
	if _, err := c.WriteAt(d.rxHeader[:], 0); err != nil {
		return 0, err
	}
	off := HeaderSize
	for end := HeaderSize + int(h.Len); off < end; {
		p := ep.unsent(end - off)
		if len(p) == 0 {
			panic("vsock: fewer unsent bytes than counted") // caught: breaks the device
		}
		if _, err := c.WriteAt(p, off); err != nil {
			return 0, err
		}
		off += len(p)
		ep.dropUnsent(len(p))
	}
	return off, w.rx.AddUsed(c.Head(), uint32(off))
}

// sendEventLocked delivers TRANSPORT_RESET if the guest has an event buffer
// posted; its next notification of the event queue tries again.
func (d *Device) sendEventLocked(w *worker) {
	for {
		c, ok, err := w.event.Pop()
		if err != nil {
			if errors.Is(err, virtio.ErrBroken) {
				d.failLocked(w, err)
			}
			return
		}
		if !ok {
			if w.event.EnableNotifications() && w.event.Available() {
				continue
			}
			return
		}
		var ev [eventSize]byte
		binary.LittleEndian.PutUint32(ev[:], eventTransportReset)
		if c.ReadableLen() != 0 || c.WritableLen() < eventSize {
			d.failLocked(w, errEventBuffer)
			return
		}
		if _, err := c.WriteAt(ev[:], 0); err == nil {
			err = w.event.AddUsed(c.Head(), eventSize)
			if err == nil {
				d.eventOwed = false
				w.irq.Used(w.event)
			}
		}
		return
	}
}

var errEventBuffer = errors.New("vsock: event buffer is shorter than an event or readable (§5.10.6.7)")
