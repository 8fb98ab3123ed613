// Package boot finds a Linux kernel, opens it and lays it into guest memory, ready for the first instruction.
//
// # Domain
//
// A distribution ships its kernel as a bzImage (/boot/vmlinuz-RELEASE): 16-bit set-up code, a decompressor and the packed kernel proper.
// Unpacked, that is an ELF file, vmlinux, whose program headers say which bytes go to which physical address. A hypervisor needs neither the
// set-up code nor the decompressor: this package unpacks once, on the host, keeps the result in the user's cache, and from then on copies
// segments straight into guest memory. The guest starts in 64-bit mode at the kernel's own entry.
//
// The kernel wants to be told a few things, in memory: the zero page (struct boot_params) holds the memory map and the addresses of the
// command line and the initramfs; processors, interrupt controller and devices are described by ACPI tables, or, for a kernel built without
// ACPI, by an MP table and arguments of the virtio_mmio driver. Load picks what the kernel understands from its build configuration.
//
// Stock kernels have virtio and vsock as modules. Kernel.Modules returns those of a given feature with everything they depend on, in loading
// order, for the initramfs.
//
// # Where kernels come from
//
// Resolve walks a ladder: the caller's option, $HUTCH_KERNEL, the cache (the kernel of our own, then packages fetched by Fetch), the host's.
// What a caller names must be usable; only the automatic steps pass over bad kernels. If nothing is left, NoKernelError tells what was tried.
//
// # Layout and invariants
//
// layout.go has the one memory map. Files are not trusted: every number in them is checked before use, output is capped by what the header
// declares and by a fixed limit, nothing is written outside the cache, and a cache entry appears by a rename, whole or not at all.
//
// # Testing
//
// The tests build small kernels, packages and modules themselves, compare tables with bytes written by hand from the specifications, and
// fuzz the parsers (FuzzBzImage, FuzzDeb, FuzzModinfo). TestDebianKernels opens the real ones that the cache holds.
//
// Sources: Documentation/arch/x86/boot.rst and zero-page.rst of Linux, ACPI 6.5 (package acpi), Intel MultiProcessor Specification 1.4,
// System V ABI for ELF, deb(5).
package boot
