package channel

import "fmt"

// Signal is a Linux signal number. The guest is always Linux, whatever the
// host is, so the host's own syscall.Signal numbers must not be used.
type Signal int

// The signals that have a name here; any number from 1 to 64 may be sent.
// Source: signal(7), the x86 and ARM column.
const (
	SIGHUP   Signal = 1
	SIGINT   Signal = 2
	SIGQUIT  Signal = 3
	SIGILL   Signal = 4
	SIGTRAP  Signal = 5
	SIGABRT  Signal = 6
	SIGBUS   Signal = 7
	SIGFPE   Signal = 8
	SIGKILL  Signal = 9
	SIGUSR1  Signal = 10
	SIGSEGV  Signal = 11
	SIGUSR2  Signal = 12
	SIGPIPE  Signal = 13
	SIGALRM  Signal = 14
	SIGTERM  Signal = 15
	SIGCHLD  Signal = 17
	SIGCONT  Signal = 18
	SIGSTOP  Signal = 19
	SIGTSTP  Signal = 20
	SIGTTIN  Signal = 21
	SIGTTOU  Signal = 22
	SIGURG   Signal = 23
	SIGXCPU  Signal = 24
	SIGXFSZ  Signal = 25
	SIGWINCH Signal = 28
	SIGSYS   Signal = 31
)

// maxSignal is _NSIG of Linux on the architectures that hutch runs.
const maxSignal Signal = 64

var signalNames = map[Signal]string{
	SIGHUP: "SIGHUP", SIGINT: "SIGINT", SIGQUIT: "SIGQUIT", SIGILL: "SIGILL", SIGTRAP: "SIGTRAP", SIGABRT: "SIGABRT",
	SIGBUS: "SIGBUS", SIGFPE: "SIGFPE", SIGKILL: "SIGKILL", SIGUSR1: "SIGUSR1", SIGSEGV: "SIGSEGV", SIGUSR2: "SIGUSR2",
	SIGPIPE: "SIGPIPE", SIGALRM: "SIGALRM", SIGTERM: "SIGTERM", SIGCHLD: "SIGCHLD", SIGCONT: "SIGCONT", SIGSTOP: "SIGSTOP",
	SIGTSTP: "SIGTSTP", SIGTTIN: "SIGTTIN", SIGTTOU: "SIGTTOU", SIGURG: "SIGURG", SIGXCPU: "SIGXCPU", SIGXFSZ: "SIGXFSZ",
	SIGWINCH: "SIGWINCH", SIGSYS: "SIGSYS",
}

// String returns the name ("SIGTERM"), or "signal 40" for a number without one.
func (s Signal) String() string {
	if n, ok := signalNames[s]; ok {
		return n
	}
	return fmt.Sprintf("signal %d", int(s))
}
