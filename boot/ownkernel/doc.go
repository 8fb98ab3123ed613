// Package ownkernel builds the guest kernel of hutch's own configuration from the distribution's kernel source.
//
// # Primer
//
// A distribution's kernel is made for every machine: it probes buses a microVM does not have, loads drivers from modules and prints pages of
// messages. A kernel that has just what a guest of hutch needs reaches /init in fewer instructions. Linux is configured by
// options (Kconfig); "make allnoconfig" with a list of wanted values turns everything else off. Options depend on each other, so a wanted one
// can silently stay off: Build compares the result with the list and fails when they differ.
//
// The result is vmlinux, the uncompressed ELF file, which hutch loads directly (no boot loader, no decompression in the guest).
//
// # How Build works
//
// The source package (linux-source-6.12) and any missing build tool come through package debpkg: unpacked in the cache, nothing
// installed, no privileges. Tools that are on PATH are used as they are. A compiler from the cache is not where it was built for; a wrapper
// for programs of the build itself (HOSTCC) tells it where headers and start-up files are. The kernel proper uses neither.
//
// The options are in hutch-GOARCH.config, each with its reason where it is not plain. Time stamp, user and host of the build are fixed,
// so one compiler gives one file.
//
// # Layout and invariants
//
// In the cache folder kernels/own: KEY/{vmlinux,config,release,build.json}, where KEY is a hash of options, source version and this builder's
// version; current, a symbolic link to the newest; lock; tmp-*, a build in progress or the rest of a killed one. A folder appears complete,
// by rename; the link is replaced by rename.
//
// # Testing
//
// The configuration rules, the unpacker and the publishing are tested with small stand-ins. TestBuildRealKernel builds the real one; it takes
// minutes and runs only with HUTCH_TEST_KERNEL_BUILD=1.
package ownkernel
