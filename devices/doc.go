// Package devices has the bus that guest accesses arrive on and the legacy PC
// devices a Linux guest needs to boot quickly: a serial port, a reset
// controller and a few ports that must answer something harmless. Virtio devices
// are in its sub-packages and reach the bus through virtio.MMIO.
//
// # Primer
//
// A vCPU that executes IN or OUT, or touches a guest address without RAM, leaves
// guest mode; the run loop hands the access to a Bus, one for ports and one for
// memory-mapped registers. The Bus finds the device whose range holds the whole
// access. What no device claims floats: reads give all ones, writes vanish, and
// both are counted but never logged, because a guest can do 80,000 per second.
//
// # Layout
//
//	Bus      sorted, disjoint address ranges         bus.go
//	Serial   16550A UART, the guest's console        serial.go, uart.go
//	I8042    keyboard controller, reset line only    i8042.go
//	stubs    ports that Linux probes or waits for    ports.go
//
// # Invariants
//
//   - Read fills all of p; Write does not keep p.
//   - No method waits for the guest or for a slow host reader: they run on vCPU
//     threads.
//   - No access, of any width at any offset, panics.
//   - All state is in plain structs (SerialState, ...) that can be serialised.
//
// # Testing
//
// Everything is driven through Read and Write, as a guest does. Serial is
// tested with the access sequence that Linux's 8250 driver uses to recognise a
// 16550A, and fuzzed with register scripts.
package devices
