package virtio

// Register offsets of the virtio-mmio transport, in order (§4.2.2, table 4.1).
const (
	regMagicValue        = 0x000 // MagicValue         R   "virt"
	regVersion           = 0x004 // Version            R   2: not legacy
	regDeviceID          = 0x008 // DeviceID           R   §5; 0: no device
	regVendorID          = 0x00c // VendorID           R
	regDeviceFeatures    = 0x010 // DeviceFeatures     R   word DeviceFeaturesSel
	regDeviceFeaturesSel = 0x014 // DeviceFeaturesSel  W
	regDriverFeatures    = 0x020 // DriverFeatures     W   word DriverFeaturesSel
	regDriverFeaturesSel = 0x024 // DriverFeaturesSel  W
	regQueueSel          = 0x030 // QueueSel           W
	regQueueSizeMax      = 0x034 // QueueSizeMax       R   0: no such queue
	regQueueSize         = 0x038 // QueueSize          W
	regQueueReady        = 0x044 // QueueReady         RW
	regQueueNotify       = 0x050 // QueueNotify        W   queue index
	regInterruptStatus   = 0x060 // InterruptStatus    R
	regInterruptACK      = 0x064 // InterruptACK       W
	regStatus            = 0x070 // Status             RW  0: reset
	regQueueDescLow      = 0x080 // QueueDescLow       W   descriptor table
	regQueueDescHigh     = 0x084 // QueueDescHigh      W
	regQueueDriverLow    = 0x090 // QueueDriverLow     W   available ring
	regQueueDriverHigh   = 0x094 // QueueDriverHigh    W
	regQueueDeviceLow    = 0x0a0 // QueueDeviceLow     W   used ring
	regQueueDeviceHigh   = 0x0a4 // QueueDeviceHigh    W
	regSHMSel            = 0x0ac // SHMSel             W   no regions here
	regSHMLenLow         = 0x0b0 // SHMLenLow          R   all ones: no region
	regSHMLenHigh        = 0x0b4 // SHMLenHigh         R
	regSHMBaseLow        = 0x0b8 // SHMBaseLow         R
	regSHMBaseHigh       = 0x0bc // SHMBaseHigh        R
	regQueueReset        = 0x0c0 // QueueReset         RW  RING_RESET not offered
	regConfigGeneration  = 0x0fc // ConfigGeneration   R
	regConfig            = 0x100 // Config             RW  device specific
)

const (
	magicValue  = 0x74726976 // "virt", little-endian
	mmioVersion = 2
	vendorID    = 0x48435448 // "HTCH"

	// MMIOSize is the size of the register window of one device, in bytes.
	MMIOSize = 0x1000
)

// NotifyOffset is the offset of the QueueNotify register, which takes the queue
// index as a 32-bit value: what an ioeventfd is bound to.
const NotifyOffset = regQueueNotify

// Bits of InterruptStatus (§4.2.2).
const (
	intUsed   = 1 << 0 // used buffer notification
	intConfig = 1 << 1 // configuration change notification
)
