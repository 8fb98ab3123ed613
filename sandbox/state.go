package sandbox

import (
	"encoding/json"
	"strconv"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// Usage is the CPU time, memory and so on that a process used.
type Usage = channel.Rusage

// ProcessState is what is known of a process that has exited.
type ProcessState struct {
	pid   int
	exit  channel.Exit
	total Totals
}

// MarshalJSON returns the exit code, the signal's number, what String says, and the rest in nanoseconds and bytes.
func (p *ProcessState) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ExitCode   int           `json:"exitCode"`
		Signal     int           `json:"signal,omitempty"`
		CoreDump   bool          `json:"coreDump,omitempty"`
		OOMKilled  bool          `json:"oomKilled,omitempty"`
		Text       string        `json:"text"`
		WallTime   time.Duration `json:"wallTime"`
		UserTime   time.Duration `json:"userTime"`
		SystemTime time.Duration `json:"systemTime"`
		Totals     Totals        `json:"totals"`
	}{p.ExitCode(), int(p.exit.Signal), p.exit.Core, p.exit.OOM, p.String(), p.exit.Wall, p.exit.Usage.User, p.exit.Usage.System, p.total})
}

func newProcessState(pid int, e *channel.Exit) *ProcessState {
	return &ProcessState{pid: pid, exit: *e, total: Totals{e.Stdin, e.Stdout, e.Stderr}}
}

// Totals are the bytes that went through each stream of a command, as both ends counted them.
type Totals struct {
	Stdin  int64 `json:"stdin"`
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
}

// Pid returns the process's number in the guest.
func (p *ProcessState) Pid() int { return p.pid }

// Exited says whether the process ended by itself rather than by a signal.
func (p *ProcessState) Exited() bool { return p.exit.Signal == 0 }

// ExitCode returns the exit code, or -1 when a signal ended the process, as in os.
func (p *ProcessState) ExitCode() int {
	if p.exit.Signal != 0 {
		return -1
	}
	return p.exit.Code
}

// ShellExitCode returns the code that a shell would show: the exit code, or 128+n when signal n ended the process.
func (p *ProcessState) ShellExitCode() int { return p.exit.ShellExitCode() }

// Signal returns the signal that ended the process, or 0.
func (p *ProcessState) Signal() syscall.Signal { return syscall.Signal(p.exit.Signal) }

// CoreDump says whether the process dumped core.
func (p *ProcessState) CoreDump() bool { return p.exit.Core }

// OOMKilled says whether the guest's kernel killed a process of the command for want of memory, which a SIGKILL alone does not tell. It needs
// a guest kernel with memory cgroups.
func (p *ProcessState) OOMKilled() bool { return p.exit.OOM }

// Success says whether the process exited with code 0.
func (p *ProcessState) Success() bool { return p.ExitCode() == 0 }

// Usage returns what the process and its reaped children used.
func (p *ProcessState) Usage() Usage { return p.exit.Usage }

// UserTime returns the CPU time that the process and its reaped children spent in their own code.
func (p *ProcessState) UserTime() time.Duration { return p.exit.Usage.User }

// SystemTime returns the CPU time that the process and its reaped children spent in the kernel.
func (p *ProcessState) SystemTime() time.Duration { return p.exit.Usage.System }

// WallTime returns the time from the process's start to its exit, by the guest's clock.
func (p *ProcessState) WallTime() time.Duration { return p.exit.Wall }

// Totals returns the bytes of each stream.
func (p *ProcessState) Totals() Totals { return p.total }

// String describes the state as os.ProcessState does: "exit status 2", "signal: killed"; of a process that was killed for want of memory it says so.
func (p *ProcessState) String() string {
	if sig := p.Signal(); sig != 0 {
		s := "signal: " + sig.String()
		if p.exit.Core {
			s += " (core dumped)"
		}
		if p.exit.OOM {
			s += " (out of memory)"
		}
		return s
	}
	return "exit status " + strconv.Itoa(p.exit.Code)
}

// err is what Wait returns for this state.
func (p *ProcessState) err() error {
	switch {
	case !p.Success():
		return &ExitError{ProcessState: p}
	case p.exit.Orphaned:
		return ErrWaitDelay
	}
	return nil
}

// An ExitError is the error of a command that ran and did not exit with code 0, as in os/exec. Stderr holds the start and the end of the
// command's standard error when Output collected it. Only the os/exec style methods of Cmd return it; Exec and Shell report the code in their
// Result.
type ExitError struct {
	*ProcessState
	Stderr []byte
}

func (e *ExitError) Error() string { return e.ProcessState.String() }
