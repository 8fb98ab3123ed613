// Command kvmlab runs a command in the lab: an emulated machine that has a real, nested /dev/kvm and this machine's files.
//
// # Primer
//
// QEMU's translator (TCG) emulates an AMD processor with virtualisation and nested paging, so an ordinary Debian kernel inside it loads
// kvm_amd and offers a /dev/kvm in which a virtual machine runs like on hardware, only slower. The machine's root is the host's root,
// shared read-only over the 9p protocol, with an overlay in memory above it.
//
// On a machine with hardware virtualisation (svm or vmx in /proc/cpuinfo, and a /dev/kvm that this user may open) there is nothing to emulate:
// kvmlab runs the command directly, unless -force is given.
//
// # Contract
//
// See the usage text (kvmlab -help). In addition:
//
//   - Every command gets a mount of its own, made when it starts: it sees the files as they are then, whatever ran before. What it writes goes
//     to its own overlay and is gone when it ends.
//   - Commands run as root, in a PID namespace of their own; what is left of it when the command ends is killed. /dev, the network (loopback
//     only) and the kernel are shared by all commands.
//   - KVMLAB=1 is added to the environment.
//   - At most slots commands run at once; more wait.
//
// # How a command gets in
//
//  1. The client asks the broker on a unix socket in the cache's lab folder. With no broker it takes a lock, fetches and builds what is
//     missing (package boot/debpkg; an initramfs with this program as /init) and starts a broker: this program again, in a session of its own.
//  2. The broker owns the emulator and one yamux session over a virtio-serial port. It opens a stream per client and splices.
//  3. In the lab, /init (guest_init_linux.go) loads modules and starts the server (guest_server_linux.go), which takes a free 9p device and starts
//     the session (guest_session_linux.go) in new namespaces. That mounts, changes root and starts the agent, which serves package
//     channel's protocol on the stream, spliced once more over a socket pair.
//
// The agent is the program of the client: /init itself when it is of the same build, else the client's executable, which the lab sees at the
// same path. So both ends of the exec protocol are always of one build, and a lab that an older kvmlab started stays usable; only the lines
// of wire.go and the steps above must fit, and wireVersion tells.
//
// # Lifetimes
//
// The emulator dies with the broker (parent-death signal, and /init restarts the machine, which ends it, when the port closes). The broker ends
// with the emulator, at kvmlab -stop, at SIGTERM, and after the idle time. Its socket is removed before it tells any client that it ends, so
// that the client can start another lab at once. A client that goes away ends its session: the agent kills what it runs, and after abandonGrace
// the server kills the namespace.
//
// # Files in the cache's lab folder
//
//	socket, start.lock, image.lock   console.log (.old: the lab before)   broker.log   init-*.cpio   vmlinux-*
//
// # Testing
//
// The unit tests need nothing. The lab tests (lab_linux_test.go) use a lab of their own in a folder of their own only where they must; they skip with
// the reason when there can be no lab, or fail when HUTCH_REQUIRE_KVM=1.
package main
