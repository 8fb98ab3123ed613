package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// StartError is why a command could not be started: the stage, the guest's errno and the path or user it failed on. errors.Is works with
// exec.ErrNotFound, fs.ErrNotExist and fs.ErrPermission.
type StartError = channel.StartError

// ErrWaitDelay is returned by Wait when a command exited with code 0 but other processes held its output open beyond WaitDelay.
var ErrWaitDelay = errors.New("sandbox: WaitDelay expired before the command's output was complete")

// Usage is the CPU time, memory and so on that a process used.
type Usage = channel.Rusage

// ProcessState is what is known of a process that has exited.
type ProcessState struct {
	pid   int
	exit  channel.Exit
	total Totals
}

// Totals are the bytes that went through each stream of a command, as both ends counted them.
type Totals struct{ Stdin, Stdout, Stderr int64 }

// Pid returns the process's number in the guest.
func (p *ProcessState) Pid() int { return p.pid }

// ExitCode returns the exit code, or 128+n when signal n ended the process.
func (p *ProcessState) ExitCode() int {
	if p.exit.Signal != 0 {
		return 128 + int(p.exit.Signal)
	}
	return p.exit.Code
}

// Signal returns the signal that ended the process, or 0.
func (p *ProcessState) Signal() syscall.Signal { return syscall.Signal(p.exit.Signal) }

// Success says whether the process exited with code 0.
func (p *ProcessState) Success() bool { return p.ExitCode() == 0 }

// Usage returns what the process and its reaped children used.
func (p *ProcessState) Usage() Usage { return p.exit.Usage }

// WallTime returns the time from the process's start to its exit, by the guest's clock.
func (p *ProcessState) WallTime() time.Duration { return p.exit.Wall }

// Totals returns the bytes of each stream.
func (p *ProcessState) Totals() Totals { return p.total }

// String describes the state as os.ProcessState does: "exit status 2", "signal: killed".
func (p *ProcessState) String() string {
	if sig := p.Signal(); sig != 0 {
		s := "signal: " + sig.String()
		if p.exit.Core {
			s += " (core dumped)"
		}
		return s
	}
	return "exit status " + strconv.Itoa(p.exit.Code)
}

// err is what Wait returns for this state.
func (p *ProcessState) err() error {
	switch {
	case !p.Success():
		return &ExitError{Code: p.ExitCode(), Signal: p.Signal()}
	case p.exit.Orphaned:
		return ErrWaitDelay
	}
	return nil
}

// A Result is what a command left behind that Exec or Shell ran to its end.
type Result struct {
	state  *ProcessState
	stdout []byte
	stderr []byte

	droppedStdout, droppedStderr int64
}

// Stdout returns the standard output as a string; its bytes are exact, whether or not they are UTF-8.
func (r *Result) Stdout() string { return string(r.stdout) }

// Stderr returns the standard error as a string.
func (r *Result) Stderr() string { return string(r.stderr) }

// StdoutBytes returns the standard output. The caller may keep and change it.
func (r *Result) StdoutBytes() []byte { return r.stdout }

// StderrBytes returns the standard error. The caller may keep and change it.
func (r *Result) StderrBytes() []byte { return r.stderr }

// Dropped returns how many bytes of each stream WithExecMaxOutput left out between the start and the end that were kept.
func (r *Result) Dropped() (stdout, stderr int64) { return r.droppedStdout, r.droppedStderr }

// ExitCode returns the exit code, 128+n when signal n ended the command, or -1 when it is not known because the error that came with the
// Result ended the command.
func (r *Result) ExitCode() int {
	if r.state == nil {
		return -1
	}
	return r.state.ExitCode()
}

// Success says whether the command exited with code 0.
func (r *Result) Success() bool { return r.ExitCode() == 0 }

// State returns the details: signal, CPU time, byte totals. It is nil when the exit code is not known.
func (r *Result) State() *ProcessState { return r.state }

// Err returns nil when the exit code is 0, else an *ExitError.
func (r *Result) Err() error {
	if r.Success() {
		return nil
	}
	e := &ExitError{Code: r.ExitCode(), Stderr: r.stderr}
	if r.state != nil {
		e.Signal = r.state.Signal()
	}
	return e
}

// An ExecOption changes one setting of a single Exec or Shell.
type ExecOption func(*Cmd) error

// WithExecCwd sets the working directory, an absolute path in the guest; the default is "/".
func WithExecCwd(dir string) ExecOption {
	return func(c *Cmd) error { c.Dir = dir; return nil }
}

// WithExecEnv adds variables to the sandbox's default environment.
func WithExecEnv(env map[string]string) ExecOption {
	return func(c *Cmd) error {
		for k, v := range env {
			if err := c.AddEnv(k + "=" + v); err != nil {
				return err
			}
		}
		return nil
	}
}

// WithExecUser sets the user: "name", "uid", "name:group" or "uid:gid"; the default is root.
func WithExecUser(user string) ExecOption {
	return func(c *Cmd) error { c.User = user; return nil }
}

// WithExecStdin gives the command r as standard input; the default is the null device.
func WithExecStdin(r io.Reader) ExecOption {
	return func(c *Cmd) error { c.Stdin = r; return nil }
}

// WithExecTimeout ends the command and everything it started after d. Exec then returns what was printed so far together with an error
// that is context.DeadlineExceeded.
func WithExecTimeout(d time.Duration) ExecOption {
	return func(c *Cmd) error {
		if d <= 0 {
			return &ConfigError{"WithExecTimeout", d.String(), "give a positive duration, or leave the option out"}
		}
		c.timeout = d
		return nil
	}
}

// WithExecRlimit sets a resource limit by its POSIX name, such as "nofile"; soft and hard are in the unit of getrlimit(2).
func WithExecRlimit(name string, soft, hard uint64) ExecOption {
	return func(c *Cmd) error {
		l := Rlimit{Name: name, Soft: soft, Hard: hard}
		if err := l.check(); err != nil {
			return err
		}
		c.AddRlimit(l)
		return nil
	}
}

// Exec runs the program name with args, waits for it, and returns what it printed and its exit code. A non-zero exit code is not an error.
//
// Errors: those of Cmd.Start and Cmd.Wait, but for *ExitError and ErrWaitDelay, and *OutputLimitError beyond DefaultMaxOutput. When the context or the timeout ended the command, the
// Result holds what was printed until then. Safe for concurrent use.
func (s *Sandbox) Exec(ctx context.Context, name string, args []string, opts ...ExecOption) (*Result, error) {
	c := s.Command(ctx, name, args...)
	if err := c.apply("Exec", opts); err != nil {
		return nil, err
	}
	if c.stdinPipe {
		return nil, &ConfigError{"Exec", "WithExecStdinPipe", "nobody could write to the pipe; use ExecStream, or give WithExecStdin a reader"}
	}
	stdout, stderr := newCollector(c), newCollector(c)
	c.Stdout, c.Stderr = stdout, stderr
	err := c.Run()
	var res *Result
	if c.ProcessState != nil {
		res = newResult(c.ProcessState, stdout, stderr)
	}
	var ee *ExitError
	if errors.As(err, &ee) || errors.Is(err, ErrWaitDelay) {
		err = nil
	}
	return res, err
}

// Shell runs script through the sandbox's shell (WithShell, by default /bin/sh) as `sh -c script`. Otherwise it is Exec.
func (s *Sandbox) Shell(ctx context.Context, script string, opts ...ExecOption) (*Result, error) {
	return s.Exec(ctx, s.cfg.shell, []string{"-c", script}, opts...)
}

// RlimitInfinity is "no limit" in an Rlimit.
const RlimitInfinity = channel.RlimitInfinity

// An Rlimit is a resource limit of a command, as of setrlimit(2).
type Rlimit struct {
	Name string // as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending or stack
	Soft uint64
	Hard uint64
}

var rlimitNames = strings.Fields("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")

func (l Rlimit) check() error {
	known := false
	for _, n := range rlimitNames {
		known = known || n == l.Name
	}
	switch {
	case !known:
		return &ConfigError{"rlimit", l.Name, "unknown name; known are " + strings.Join(rlimitNames, ", ")}
	case l.Soft > l.Hard:
		return &ConfigError{"rlimit", fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard), "the soft limit is above the hard limit"}
	}
	return nil
}

// ParseRlimit reads NAME=SOFT[:HARD], such as "nofile=1024" or "core=0:unlimited". Without HARD both limits are SOFT.
func ParseRlimit(s string) (Rlimit, error) {
	name, val, ok := strings.Cut(s, "=")
	if !ok {
		return Rlimit{}, &ConfigError{"rlimit", fmt.Sprintf("%q", s), "not of the form NAME=SOFT[:HARD]"}
	}
	soft, hard, two := strings.Cut(val, ":")
	if !two {
		hard = soft
	}
	l := Rlimit{Name: name}
	for _, p := range []struct {
		text string
		to   *uint64
	}{{soft, &l.Soft}, {hard, &l.Hard}} {
		if p.text == "unlimited" || p.text == "infinity" {
			*p.to = RlimitInfinity
			continue
		}
		n, err := strconv.ParseUint(p.text, 10, 64)
		if err != nil {
			return Rlimit{}, &ConfigError{"rlimit", fmt.Sprintf("%q", s), fmt.Sprintf("%q is not a number and not \"unlimited\"", p.text)}
		}
		*p.to = n
	}
	return l, l.check()
}

// AddRlimit adds a resource limit for the command.
func (c *Cmd) AddRlimit(l Rlimit) { c.rlimits = append(c.rlimits, l) }

// AddEnv adds variables, each "KEY=value", to the command's environment; the last one of a key wins. Unlike setting Env it keeps the
// sandbox's defaults.
func (c *Cmd) AddEnv(kv ...string) error {
	for _, e := range kv {
		if err := checkEnv("Env", e); err != nil {
			return err
		}
	}
	c.extraEnv = append(c.extraEnv, kv...)
	return nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
