// Package agent is the guest end of hutch: it runs processes for a host that
// speaks package channel, and it is the first process of a microVM.
//
// # Primer
//
// [Serve] is the exec service alone. It works over any byte stream and in any
// Linux process, which is how the native tests and the lab use it. [Main] is
// process 1: it mounts what programs expect (proc, sysfs, devtmpfs, devpts,
// tmpfs, cgroup v2), brings up the loopback interface, loads kernel modules,
// connects to the host and serves; when the host is gone it stops the machine.
//
// Process 1 inherits every orphan and must reap it, or zombies fill the
// process table. Reaping with wait4(-1) can steal the exit status of a process
// that somebody else waits for, so there is exactly one place that reaps, and a
// process is registered there before it can exit (reaper_linux.go).
//
// # Invariants
//
//   - The exit record is sent when the process is reaped, with its real status.
//   - Output is read until every writer closed it, or for WaitDelay after the
//     exit if a descendant keeps it open; then what the pipe holds is still sent.
//   - One goroutine per direction of each exec; nothing blocks anything else.
//   - A failed start says at which stage and why, the same with and without TTY.
//   - An exec that nobody wants any more is killed with all its descendants: by
//     its cgroup where there is one, by its process group otherwise.
//
// Process 1 does not lower its own OOM score: the kernel never picks the global
// init, and children would inherit the value.
//
// # Testing
//
// go test ./agent runs the service natively, as the current user. Tests of
// Main run in the lab.
package agent
