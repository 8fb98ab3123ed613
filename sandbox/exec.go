package sandbox

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// StartError is why a command could not be started: the stage, the guest's errno and the path or user it failed on. errors.Is works with
// exec.ErrNotFound, fs.ErrNotExist and fs.ErrPermission.
type StartError = channel.StartError

// LimitError says that one more command, or more bytes of kept output, would be beyond a limit.
type LimitError = channel.LimitError

// VersionError says that the guest's image was built by another version of hutch, whose agent speaks another protocol.
type VersionError = channel.VersionError

// ErrWaitDelay is returned by Wait when a command exited with code 0 but other processes held its output open beyond WaitDelay.
var ErrWaitDelay = errors.New("sandbox: WaitDelay expired before the command's output was complete")

// An ExecOption changes one setting of a single Exec or Shell.
type ExecOption func(*Cmd) error

// WithExecCwd sets the working directory, an absolute path in the guest; the default is "/".
func WithExecCwd(dir string) ExecOption {
	return func(c *Cmd) error { c.Dir = dir; return nil }
}

// WithExecEnv adds variables to the sandbox's default environment.
func WithExecEnv(env map[string]string) ExecOption {
	return func(c *Cmd) error {
		for _, k := range slices.Sorted(maps.Keys(env)) {
			v := env[k]
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

// WithExecTimeout ends the command and everything it started after d: SIGTERM first, SIGKILL 500 ms later. The guest keeps the time, and the
// host as well. Exec then returns what was printed so far together with an error that is context.DeadlineExceeded. Zero is no timeout,
// which lifts a default of WithExecDefaults.
func WithExecTimeout(d time.Duration) ExecOption {
	return func(c *Cmd) error {
		if d < 0 {
			return &ConfigError{"WithExecTimeout", d.String(), "give a positive duration, or zero for none"}
		}
		c.Timeout = d
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
		c.Rlimits = setRlimit(c.Rlimits, l)
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
	if _, exited := err.(*ExitError); exited || err == ErrWaitDelay { //nolint:errorlint // what wraps one says that the command was cut short
		err = nil
	}
	return res, err
}

// Shell runs script through the sandbox's shell (WithShell, by default /bin/sh) as `sh -c script`. Otherwise it is Exec.
func (s *Sandbox) Shell(ctx context.Context, script string, opts ...ExecOption) (*Result, error) {
	return s.Exec(ctx, s.cfg.shell, []string{"-c", script}, opts...)
}

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
