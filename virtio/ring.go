package virtio

// Sizes and offsets of the split virtqueue (§2.7). n is the queue size.
const (
	// MaxQueueSize is our limit; the specification's is 32768 (§2.7). 256
	// entries keep the worst work per kick small.
	MaxQueueSize = 256

	// DefaultMaxChainBytes bounds the summed buffer lengths of a chain of a
	// device that is no ChainLimiter: "Drivers MUST NOT add a descriptor chain
	// longer than 2^32 bytes in total" (§2.7.5).
	DefaultMaxChainBytes = 1<<32 - 1

	descSize  = 16 // addr 8 + len 4 + flags 2 + next 2, §2.7.5
	descAlign = 16 // §2.7, table of alignments

	availFlags = 0 // u16
	availIdx   = 2 // u16
	availRing  = 4 // u16[n]; used_event u16 follows
	availAlign = 2

	usedFlags = 0 // u16
	usedIdx   = 2 // u16; read and written together with usedFlags
	usedRing  = 4 // {id u32, len u32}[n]; avail_event u16 follows
	usedElem  = 8
	usedAlign = 4
)

// Flags of a descriptor (§2.7.5).
const (
	descNext     = 1 // VIRTQ_DESC_F_NEXT
	descWrite    = 2 // VIRTQ_DESC_F_WRITE
	descIndirect = 4 // VIRTQ_DESC_F_INDIRECT
)

const (
	availNoInterrupt = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT, §2.7.7
	usedNoNotify     = 1 // VIRTQ_USED_F_NO_NOTIFY, §2.7.10
)

// descBytes, availBytes and usedBytes are the sizes of the three areas of a
// queue of n entries. The event fields are part of the areas even when they are
// not negotiated (§2.7).
func descBytes(n uint16) uint64  { return descSize * uint64(n) }
func availBytes(n uint16) uint64 { return 6 + 2*uint64(n) }
func usedBytes(n uint16) uint64  { return 6 + usedElem*uint64(n) }

// needEvent says whether moving an index from old to now crosses event
// (§2.7.7.1: "vring_need_event"), in 16-bit wrap-around arithmetic.
func needEvent(event, now, old uint16) bool {
	return now-event-1 < now-old
}
