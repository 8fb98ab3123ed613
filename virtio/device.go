package virtio

// Device is a virtio device type behind a transport.
//
// Concurrency: the transport calls ID, Features, QueueSizes and ReadConfig at
// any time and from any vCPU thread; they must not block and must not call
// back into the transport. Activate, Notify and Reset are called one at a time,
// under the transport's lock.
type Device interface {
	// ID is the device type number of §5 (19 is the socket device).
	ID() uint32

	// Features is the constant set of feature bits the device type offers:
	// its own bits plus, if it wants them, FeatureRingEventIdx and
	// FeatureRingIndirectDesc. The transport adds FeatureVersion1 and drops any
	// other reserved bit (24..49), because the ring code does not implement it.
	Features() uint64

	// QueueSizes gives the greatest size of each queue: one entry per queue,
	// each a power of two in 1..MaxQueueSize.
	QueueSizes() []uint16

	// ReadConfig fills p from the configuration space at off. p arrives
	// zeroed, so bytes beyond the device's structure are left alone and read
	// as zero. It must work before feature negotiation (§2.5.2) and for any
	// width: 0 <= off < 0xf00, len(p) is 1, 2, 4 or 8.
	ReadConfig(off uint32, p []byte)

	// Activate is called when the driver sets DRIVER_OK. features is the
	// negotiated set. queues has one entry per QueueSizes entry, never nil; a
	// queue that the driver did not set up has Size 0 and never yields a chain.
	// An error puts the device into DEVICE_NEEDS_RESET.
	Activate(features uint64, queues []*Queue, irq Interrupt) error

	// Notify says that the driver made buffers available in queue, an index
	// into QueueSizes. Called on a vCPU thread or the eventfd reader: it must
	// return at once (wake a worker). Only called between Activate and Reset.
	Notify(queue int)

	// Reset stops the device: when it returns, no goroutine of the device uses
	// the queues, the chains or the Interrupt of the last Activate. Called once
	// after each Activate, also after one that failed. A worker that it waits
	// for must not wait for the guest, nor call a method of the transport other
	// than those of Interrupt.
	Reset()
}

// ChainLimiter is an optional interface of a Device which accepts only small
// chains.
type ChainLimiter interface {
	// MaxChainBytes is the greatest sum of the buffer lengths of one chain of
	// the queue. A longer chain breaks the queue. 0 means DefaultMaxChainBytes.
	MaxChainBytes(queue int) uint32
}

// Interrupt is how a device signals its driver. All methods may be called from
// any goroutine, with no lock of the transport held or with it held; they never
// block on the guest and do nothing once the device was reset.
type Interrupt interface {
	// Used announces published used buffers of q. It raises the interrupt only
	// if the driver wants one (Queue.NeedInterrupt). Call it once per batch.
	Used(q *Queue)

	// Config announces a change of the configuration space: the generation
	// counter moves on and the configuration interrupt is raised.
	Config()

	// NeedsReset puts the device into DEVICE_NEEDS_RESET (§2.1.2): every queue
	// stops until the driver resets the device. A broken queue does this by
	// itself; a device calls it for errors of its own protocol. err says why
	// and reaches the host through MMIO.Err and the fault handler.
	NeedsReset(err error)
}
