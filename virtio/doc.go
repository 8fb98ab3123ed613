// Package virtio is the device side of virtio: a checked view of guest memory,
// the split virtqueue and the MMIO transport, for any device type.
//
// # Primer
//
// A virtio device and its driver share memory. The driver (in the guest) owns
// buffers; it describes them in a descriptor table, links them into chains and
// puts the index of each chain's first descriptor, the head, into the available
// ring. The device takes heads from there, reads and writes the buffers and puts
// the head, with the number of bytes written, into the used ring. Each ring has
// an index that only ever grows, modulo 65536. A notification (a write to
// QueueNotify, usually an ioeventfd) says "there is something available", an
// interrupt says "there is something used"; both can be suppressed, either with
// a flag or, with EVENT_IDX, by naming the index at which one is wanted.
//
//	driver writes                         device writes
//	descriptor table   available ring     used ring
//	16 B: addr len     flags idx          flags idx
//	      flags next   ring[n]            {head, len}[n]
//	                   used_event         avail_event
//
// The transport is a page of registers (MMIO). The driver negotiates features,
// gives the addresses of each queue's areas and sets DRIVER_OK; from then on the
// device runs until the driver writes 0 to Status.
//
// # Layout
//
//	Memory   guest RAM: bounds, atomics            memory.go, memory_unsafe.go
//	Queue    the rings: Pop, AddUsed, suppression  queue.go, notify.go, ring.go
//	Chain    one popped chain as two byte runs     chain.go
//	MMIO     registers, status machine, interrupt  mmio.go, regs.go, status.go, irq.go
//	Device   what a device type implements         device.go
//	State    all of it as plain structs            state.go
//
// # Invariants
//
//   - The guest is hostile. Every number it writes is fetched once into a private
//     copy, checked without overflow, and used from the copy.
//   - A violation of the ring rules breaks the queue (ErrBroken): the device
//     goes to DEVICE_NEEDS_RESET and touches no ring until the driver resets it.
//   - The device never writes the descriptor table or the available ring.
//   - Each popped head is returned at most once, and used.len never covers a byte
//     that the device did not write.
//   - After a reset returned there is no ring access, no interrupt and no worker.
//   - Pop and AddUsed do not allocate.
//
// Lock order: MMIO.mu, then line.mu, then Queue.mu. A device's own lock may be
// held while calling Queue, Chain and Interrupt methods, except for a lock that
// its Activate, Notify or Reset takes while waiting for the caller.
//
// # Testing
//
// Package virtiotest is the driver. FuzzQueue and FuzzMMIO feed descriptor soup
// and register scripts; the tests named after a rule cite its section.
//
// # Specification
//
// VIRTIO 1.2, committee specification 01 (virtio-v1.2-cs01), cited as §2.7.8
// throughout. Only split virtqueues (§2.7) and the non-legacy MMIO transport
// (§4.2) are implemented; of the optional ring features EVENT_IDX and
// INDIRECT_DESC, which a device asks for in Features.
package virtio
