//go:build unix

package virtiotest

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutchvm/hutch/virtio"
)

// Register offsets, typed from VIRTIO 1.2 §4.2.2 table 4.1 and not taken from
// the package under test.
const (
	MagicValue        = 0x000
	Version           = 0x004
	DeviceID          = 0x008
	VendorID          = 0x00c
	DeviceFeatures    = 0x010
	DeviceFeaturesSel = 0x014
	DriverFeatures    = 0x020
	DriverFeaturesSel = 0x024
	QueueSel          = 0x030
	QueueSizeMax      = 0x034
	QueueSize         = 0x038
	QueueReady        = 0x044
	QueueNotify       = 0x050
	InterruptStatus   = 0x060
	InterruptACK      = 0x064
	Status            = 0x070
	QueueDescLow      = 0x080
	QueueDescHigh     = 0x084
	QueueDriverLow    = 0x090
	QueueDriverHigh   = 0x094
	QueueDeviceLow    = 0x0a0
	QueueDeviceHigh   = 0x0a4
	SHMSel            = 0x0ac
	SHMLenLow         = 0x0b0
	SHMLenHigh        = 0x0b4
	SHMBaseLow        = 0x0b8
	SHMBaseHigh       = 0x0bc
	QueueReset        = 0x0c0
	ConfigGeneration  = 0x0fc
	Config            = 0x100
)

// Patience is how long the waiting methods wait before they fail the test.
const Patience = 30 * time.Second

const (
	ramBase = 0x10000 // not 0, so that a zero address is a mistake
	ramSize = 16 << 20
)

// Driver is a guest's driver for one device.
//
// Concurrency: one goroutine, except Interrupts and WaitInterrupt.
type Driver struct {
	TB       testing.TB
	MMIO     *virtio.MMIO
	Mem      *virtio.Memory
	Features uint64 // negotiated, after Negotiate

	queues []*Queue
	next   uint64 // next free guest address
	irqs   atomic.Uint64
	irq    chan struct{}
}

// New makes a driver, 16 MiB of guest RAM and an MMIO transport for dev. The
// transport is closed when the test is over.
func New(tb testing.TB, dev virtio.Device) *Driver {
	tb.Helper()
	return NewWithMemory(tb, dev, Memory(tb, ramBase, ramSize), ramBase)
}

// NewWithMemory is New over a memory of the caller's; allocations start at gpa.
func NewWithMemory(tb testing.TB, dev virtio.Device, mem *virtio.Memory, gpa uint64) *Driver {
	tb.Helper()
	d := &Driver{TB: tb, Mem: mem, next: gpa, irq: make(chan struct{}, 1)}
	d.MMIO = virtio.NewMMIO(mem, dev, d.raise)
	tb.Cleanup(func() { _ = d.MMIO.Close() })
	return d
}

func (d *Driver) raise() error {
	d.irqs.Add(1)
	select {
	case d.irq <- struct{}{}:
	default:
	}
	return nil
}

// Interrupts counts the interrupts raised so far.
func (d *Driver) Interrupts() uint64 { return d.irqs.Load() }

// WaitInterrupt waits until an interrupt was raised since it last returned, and
// acknowledges it. It returns InterruptStatus.
func (d *Driver) WaitInterrupt() uint32 {
	d.TB.Helper()
	select {
	case <-d.irq:
	case <-time.After(Patience):
		d.TB.Fatalf("virtiotest: no interrupt within %v", Patience)
	}
	return d.Ack()
}

// Ack reads InterruptStatus and acknowledges what it shows.
func (d *Driver) Ack() uint32 {
	s := d.Read32(InterruptStatus)
	if s != 0 {
		d.Write32(InterruptACK, s)
	}
	return s
}

// Read32 reads a register.
func (d *Driver) Read32(off uint64) uint32 {
	var b [4]byte
	d.MMIO.Read(off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// Write32 writes a register.
func (d *Driver) Write32(off uint64, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	d.MMIO.Write(off, b[:])
}

// Status reads the device status field.
func (d *Driver) Status() uint32 { return d.Read32(Status) }

// Reset writes 0 to Status and forgets the queues.
func (d *Driver) Reset() {
	d.TB.Helper()
	d.Write32(Status, 0)
	if s := d.Status(); s != 0 {
		d.TB.Fatalf("virtiotest: Status is %#x after a reset", s)
	}
	d.queues, d.Features = nil, 0
}

// DeviceFeatures reads the offered feature bits.
func (d *Driver) DeviceFeatures() uint64 {
	d.Write32(DeviceFeaturesSel, 0)
	lo := d.Read32(DeviceFeatures)
	d.Write32(DeviceFeaturesSel, 1)
	return uint64(d.Read32(DeviceFeatures))<<32 | uint64(lo)
}

// Negotiate resets the device and takes it to FEATURES_OK with the offered
// features among want, and VERSION_1 (§3.1.1 steps 1 to 6).
func (d *Driver) Negotiate(want uint64) {
	d.TB.Helper()
	d.Reset()
	d.Write32(Status, virtio.StatusAcknowledge)
	d.Write32(Status, virtio.StatusAcknowledge|virtio.StatusDriver)
	if err := d.AcceptFeatures(d.DeviceFeatures() & (want | virtio.FeatureVersion1)); err != nil {
		d.TB.Fatal(err)
	}
}

// AcceptFeatures writes exactly these features and sets FEATURES_OK, which the
// device may refuse.
func (d *Driver) AcceptFeatures(features uint64) error {
	d.Write32(DriverFeaturesSel, 0)
	d.Write32(DriverFeatures, uint32(features))
	d.Write32(DriverFeaturesSel, 1)
	d.Write32(DriverFeatures, uint32(features>>32))
	d.Write32(Status, d.Status()|virtio.StatusFeaturesOK)
	if d.Status()&virtio.StatusFeaturesOK == 0 {
		return fmt.Errorf("virtiotest: the device refuses features %#x", features)
	}
	d.Features = features
	return nil
}

// SetupQueue sets queue i up with size entries (0: as many as the device takes).
func (d *Driver) SetupQueue(i int, size uint16) *Queue {
	d.TB.Helper()
	d.Write32(QueueSel, uint32(i))
	most := uint16(d.Read32(QueueSizeMax))
	if size == 0 {
		size = most
	}
	if most == 0 || size > most || d.Read32(QueueReady) != 0 {
		d.TB.Fatalf("virtiotest: cannot set up queue %d of %d entries: the device takes %d", i, size, most)
	}
	q := newQueue(d, i, size)
	d.ProgramQueue(i, uint32(size), q.Desc, q.Avail, q.Used)
	if d.Read32(QueueReady) != 1 {
		d.TB.Fatalf("virtiotest: queue %d did not become ready", i)
	}
	for len(d.queues) <= i {
		d.queues = append(d.queues, nil)
	}
	d.queues[i] = q
	return q
}

// ProgramQueue writes the registers of queue i, and QueueReady last, whatever
// the values are.
func (d *Driver) ProgramQueue(i int, size uint32, desc, avail, used uint64) {
	d.Write32(QueueSel, uint32(i))
	d.Write32(QueueSize, size)
	d.Write32(QueueDescLow, uint32(desc))
	d.Write32(QueueDescHigh, uint32(desc>>32))
	d.Write32(QueueDriverLow, uint32(avail))
	d.Write32(QueueDriverHigh, uint32(avail>>32))
	d.Write32(QueueDeviceLow, uint32(used))
	d.Write32(QueueDeviceHigh, uint32(used>>32))
	d.Write32(QueueReady, 1)
}

// DriverOK sets DRIVER_OK: the device runs.
func (d *Driver) DriverOK() {
	d.Write32(Status, d.Status()|virtio.StatusDriverOK)
}

// Start takes the device from anywhere to running: Negotiate, every queue at its
// greatest size, DriverOK.
func (d *Driver) Start(want uint64) {
	d.TB.Helper()
	d.StartSized(want, 0)
}

// StartSized is Start with queues of at most size entries (0: the greatest).
func (d *Driver) StartSized(want uint64, size uint16) {
	d.TB.Helper()
	d.Negotiate(want)
	for i := 0; ; i++ {
		d.Write32(QueueSel, uint32(i))
		most := uint16(d.Read32(QueueSizeMax))
		if most == 0 {
			break
		}
		n := most
		if size != 0 {
			n = min(n, size)
		}
		d.SetupQueue(i, n)
	}
	d.DriverOK()
}

// Queue is the driver side of queue i, after SetupQueue or Start.
func (d *Driver) Queue(i int) *Queue { return d.queues[i] }

// Alloc takes n bytes of guest RAM at a multiple of align (a power of two) and
// zeroes them. There is no Free: a test has 16 MiB; see Mark and Release.
func (d *Driver) Alloc(n, align int) uint64 {
	d.TB.Helper()
	gpa := (d.next + uint64(align) - 1) &^ (uint64(align) - 1)
	if !d.Mem.Contains(gpa, uint64(n)) {
		d.TB.Fatalf("virtiotest: out of guest RAM: %d bytes at %#x", n, gpa)
	}
	d.next = gpa + uint64(n)
	d.Put(gpa, make([]byte, n))
	return gpa
}

// Mark and Release give back everything allocated since the mark.
func (d *Driver) Mark() uint64 { return d.next }

// Release frees what was allocated since Mark returned mark.
func (d *Driver) Release(mark uint64) { d.next = mark }

// Put writes p to guest RAM.
func (d *Driver) Put(gpa uint64, p []byte) {
	d.TB.Helper()
	if err := d.Mem.WriteAt(p, gpa); err != nil {
		d.TB.Fatal(err)
	}
}

// AllocPut puts p into fresh guest RAM and returns a device-readable buffer.
func (d *Driver) AllocPut(p []byte) Buf {
	d.TB.Helper()
	gpa := d.Alloc(len(p), 8)
	d.Put(gpa, p)
	return Out(gpa, len(p))
}

// Bytes reads n bytes of guest RAM.
func (d *Driver) Bytes(gpa uint64, n int) []byte {
	d.TB.Helper()
	p := make([]byte, n)
	if err := d.Mem.ReadAt(p, gpa); err != nil {
		d.TB.Fatal(err)
	}
	return p
}
