package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/kvm"
)

// Sentinels for errors.Is. The errors that wrap them name the path or value and the command that fixes the matter.
var (
	// ErrUnsupported: this operating system or processor cannot run a sandbox (today: anything but linux/amd64).
	ErrUnsupported = errors.New("sandboxes need Linux on amd64 with KVM; on this platform the package only compiles")
	// ErrNoKVM: there is no KVM device to open.
	ErrNoKVM = kvm.ErrNoKVM
	// ErrKVMPermission: the KVM device exists but this user may not open it.
	ErrKVMPermission = kvm.ErrPermission
	// ErrSoftwareKVM: KVM answers, but guest kernels are interpreted in software there and ordinary ones do not run.
	ErrSoftwareKVM = errors.New("KVM without hardware virtualisation")
	// ErrNoKernel: no kernel was found; the error lists what was tried.
	ErrNoKernel = boot.ErrNoKernel
	// ErrNoAgent: the initial file system has no agent to start.
	ErrNoAgent = errors.New("no guest agent in the initial file system")
	// ErrClosed: the sandbox was closed by its owner, before or during the call.
	ErrClosed = errors.New("sandbox closed")
	// ErrStopped: the virtual machine ended by itself; a *StoppedError says how.
	ErrStopped = errors.New("sandbox stopped")
	// ErrBootTimeout: the agent did not answer within the boot timeout.
	ErrBootTimeout = errors.New("the guest agent did not answer in time")
)

// labHint is the way out for a machine without hardware virtualisation.
const labHint = "hutch's lab, which emulates one: bin/kvmlab -- COMMAND, in a checkout of hutch after make build"

// A ConfigError is an option of New, or a field of a command, that cannot work.
type ConfigError struct {
	Option string // name of the option, such as "WithMemory"
	Value  string // the value as given
	Reason string // what is wrong and what to do
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s(%s): %s", e.Option, e.Value, e.Reason)
}

// A BootError is a failure of New after its options were found to be sound.
//
// Stage is the last stage that there is evidence of, Console the last output of the guest's serial console (at most 4 KiB), Err the cause.
type BootError struct {
	Stage   Stage
	Console []byte
	Err     error
}

func (e *BootError) Error() string {
	cause := fmt.Sprint(e.Err)
	if stopped, ok := e.Err.(*StoppedError); ok { //nolint:errorlint // what wraps one has more to say
		cause = stopped.brief() // its console would stand here twice
	}
	if e.Stage < StageRunning {
		return fmt.Sprintf("boot: %s: %s", e.Stage.doing(), cause) // no guest has run: there is no console to show
	}
	msg := fmt.Sprintf("boot: stage %q: %s: %s", e.Stage, e.Stage.doing(), cause)
	if errors.Is(e.Err, ErrBootTimeout) && e.Stage < StageAgent {
		msg += `, and WithCmdline("loglevel=7") makes the kernel say what it does`
	}
	return withConsole(msg, e.Console)
}

func (e *BootError) Unwrap() error { return e.Err }

// Reason says how a virtual machine ended.
type Reason string

// The ways in which a virtual machine ends by itself.
const (
	ReasonPanic  Reason = "guest kernel panic"
	ReasonReboot Reason = "guest rebooted"
	// ReasonTripleFault: an exception that the guest could not handle, where a real processor resets the machine.
	ReasonTripleFault Reason = "guest crashed with a triple fault"
	ReasonPowerOff    Reason = "guest powered off"
	ReasonAgent       Reason = "guest agent lost"
	ReasonVCPU        Reason = "virtual CPU failed"
)

// A StoppedError is what every call gets once the virtual machine has ended by itself, with errors.Is(err, ErrStopped).
//
// Message is the kernel's panic line for ReasonPanic. Console is the end of the serial console. Err, where there is one, is the cause
// seen from the host.
type StoppedError struct {
	Reason  Reason
	Message string
	Console []byte
	Err     error
}

func (e *StoppedError) Error() string { return withConsole(e.brief(), e.Console) }

// brief is the message without the console.
func (e *StoppedError) brief() string {
	msg := "sandbox stopped: " + string(e.Reason)
	if e.Message != "" {
		msg += ": " + e.Message
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// Is makes errors.Is(err, ErrStopped) true.
func (e *StoppedError) Is(target error) bool { return target == ErrStopped }

func (e *StoppedError) Unwrap() error { return e.Err }

// consoleLines is how many console lines an error message shows; the Console fields hold more.
const consoleLines = 20

// withConsole appends the last console lines to an error message. Control characters come from the guest and could rewrite the reader's
// terminal, so anything but printable text and tabs is shown as a dot.
func withConsole(msg string, console []byte) string {
	text := strings.TrimRight(sanitize(console), "\n ")
	if text == "" {
		return msg + " (the guest's console is empty)"
	}
	lines := strings.Split(text, "\n")
	if len(lines) > consoleLines {
		lines = lines[len(lines)-consoleLines:]
	}
	return msg + "; last console lines:\n  " + strings.Join(lines, "\n  ")
}

// sanitize shows guest text: everything that is not printable, direction marks included, is a dot.
func sanitize(b []byte) string {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || (unicode.IsPrint(r) && r != utf8.RuneError) {
			return r
		}
		return '.'
	}, string(b))
}

// maxGuestWord bounds, in bytes, a word that the guest says of itself. Linux's uname(2) gives 64.
const maxGuestWord = 256

// guestWord shows what the guest says of itself, such as its kernel's release, in messages and tables: a part of one line.
func guestWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return '.'
		}
		return r
	}, sanitize([]byte(s[:min(len(s), maxGuestWord)])))
}
