// Package initramfs makes and inspects the root file system a hutch guest starts with: a u-root userland, hutch's agent as /init, and
// whatever files a caller adds.
//
// # Primer
//
// Linux unpacks an initramfs into its first root file system (a tmpfs) before it starts /init. The image is a cpio archive in the "newc"
// format: per file a header of 110 ASCII characters (magic "070701" and thirteen numbers of eight hexadecimal digits), the name with a NUL,
// the content, each padded to four bytes; the entry "TRAILER!!!" ends an archive. Archives may follow one another, each at a multiple of four
// with zero bytes between; a later entry replaces an earlier one of the same name. So the base image is built once, and per-sandbox files
// (kernel modules, configuration) are a second small archive behind it: no repacking. Source: Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst, and init/initramfs.c.
//
// # The base image
//
// Base builds it with the Go toolchain of the machine and caches it. Two programs are in it:
//
//   - /bin/bb, a single binary of some 80 commands in the manner of busybox: u-root's commands and a few of our own (sh, env, …), rewritten
//     into one program by gobusybox. The recipe (_userland, pinned versions with checksums) is a module of its own and runs in the
//     cache, so that it adds nothing to the dependencies of programs that import hutch. Every command pays for the package initialisation
//     of all commands in the binary: what keeps the list free of programs with heavy dependencies is a measured cost, see tools.go there.
//   - /init, hutch's agent (cmd/agent).
//
// A program without a toolchain at run time ships a finished image: Base on the developer's machine, the file embedded or installed.
//
// # Layout and invariants
//
// The image is reproducible: the same recipe, agent source, toolchain and architecture give the same bytes. Entries are sorted, inode
// numbers count up from one, owner is root unless said otherwise, and every time stamp is zero.
// In the cache folder "initramfs": userland/KEY/bb, images/KEY/{initramfs.cpio,image.json}, stamps (what tells an unchanged source tree
// without starting the toolchain), lock. Folders appear by rename, whole or not at all.
// The reader (NewArchive) trusts nothing in an archive and never reads file content it was not asked for.
//
// # Testing
//
// Writer and reader are checked against u-root's cpio package and fuzzed (FuzzCpio). TestBase… build the real userland twice from nothing,
// compare, and run its commands on the host.
package initramfs
