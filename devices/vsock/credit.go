package vsock

// packetOverhead is how many bytes of the guest's buffer one packet may cost
// whatever its size. Linux guests since 6.12.92 reset a connection whose queued
// packets' bookkeeping exceeds the buffer, though the specification counts
// payload bytes only; 1 KiB is above what any supported guest charges.
const packetOverhead = 1 << 10

// creditQuantum is the least amount of freed space worth a packet of its own.
const creditQuantum = 4 << 10

// rxCredit is the credit we give: guest to host bytes. All counters are payload
// bytes mod 2^32 (§5.10.6.3).
type rxCredit struct {
	BufAlloc uint32 // what we advertise, constant for the connection
	Received uint32 // taken from the guest
	Consumed uint32 // taken by the host program: our fwd_cnt
	Told     uint32 // the last Consumed value the guest has been sent
}

// unread is how many bytes wait for the host program.
func (r *rxCredit) unread() uint32 { return r.Received - r.Consumed }

// accept takes n bytes into account, or refuses them because the guest
// overran what we advertised (§5.10.6.3.1). Measured against Told, not
// Consumed: the guest cannot know of space it was not told of, and so at most
// BufAlloc bytes are ever unread.
func (r *rxCredit) accept(n uint32) bool {
	if n > r.BufAlloc-(r.Received-r.Told) {
		return false
	}
	r.Received += n
	return true
}

// updateDue says whether the freed space is worth telling: a quarter of the
// window, or less when the guest is about to run dry.
func (r *rxCredit) updateDue() bool {
	freed := r.Consumed - r.Told
	if freed == 0 {
		return false
	}
	if freed >= r.BufAlloc/4 {
		return true
	}
	left := r.BufAlloc - (r.Received - r.Told) // what the guest still believes it has
	return left < r.BufAlloc/4 && (freed >= creditQuantum || r.unread() == 0)
}

// txCredit is the credit we use: host to guest bytes.
type txCredit struct {
	Cap      uint32   // our own limit on the guest's buf_alloc
	BufAlloc uint32   // what the guest advertises
	Sent     uint32   // bytes put into guest buffers
	Taken    uint32   // the guest's fwd_cnt
	Ends     []uint32 // value of Sent after each packet not yet fully taken, oldest first
}

// window is the greatest number of bytes in flight. The guest's number alone
// must not decide what it costs us to track them.
func (t *txCredit) window() uint32 { return min(t.BufAlloc, t.Cap) }

// maxPackets is how many packets may be in flight.
func (t *txCredit) maxPackets() int { return max(1, int(t.window()/packetOverhead)) }

// available is how many bytes the next packet may carry.
//
// The guest may shrink buf_alloc below what is in flight: that gives 0, not a
// wrapped-around huge number.
func (t *txCredit) available() uint32 {
	inFlight := t.Sent - t.Taken
	w := t.window()
	if inFlight >= w || len(t.Ends) >= t.maxPackets() {
		return 0
	}
	return w - inFlight
}

// sent records a packet of n bytes.
func (t *txCredit) sent(n uint32) {
	t.Sent += n
	t.Ends = append(t.Ends, t.Sent)
}

// peer takes the credit fields of a packet from the guest. ok is false if
// fwd_cnt goes back or beyond what was sent; both are a distance greater than
// what is in flight, which never exceeds Cap.
func (t *txCredit) peer(bufAlloc, fwdCnt uint32) (ok bool) {
	if fwdCnt-t.Taken > t.Sent-t.Taken {
		return false
	}
	t.BufAlloc, t.Taken = bufAlloc, fwdCnt
	n := 0
	for n < len(t.Ends) && t.Sent-t.Ends[n] >= t.Sent-t.Taken {
		n++
	}
	if n > 0 {
		// Shifted down rather than re-sliced, so that the array is reused.
		t.Ends = t.Ends[:copy(t.Ends, t.Ends[n:])]
	}
	return true
}
