package virtio

// Feature bits of the ring and the transport (§6). Bits 0..23 and 50..63
// belong to the device type.
const (
	FeatureRingIndirectDesc uint64 = 1 << 28 // VIRTIO_F_INDIRECT_DESC, §2.7.5.3
	FeatureRingEventIdx     uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX, §2.7.7, §2.7.10
	FeatureVersion1         uint64 = 1 << 32 // VIRTIO_F_VERSION_1, §6.1

	// reservedFeatures are the bits 24..49 that §2.2 reserves for the queue and
	// negotiation mechanisms.
	reservedFeatures uint64 = (1<<50 - 1) &^ (1<<24 - 1)
	// ringFeatures are those of them that a device may ask for.
	ringFeatures = FeatureRingIndirectDesc | FeatureRingEventIdx
)

// offeredFeatures is the bitmap that the driver sees for a device's own set.
//
// Offering a bit that is not implemented makes a driver use it, so reserved
// bits the ring code does not know are dropped here, whatever the device says.
func offeredFeatures(device uint64) uint64 {
	return device&(^reservedFeatures|ringFeatures) | FeatureVersion1
}
