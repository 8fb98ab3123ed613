package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// A Cmd is one command to run in the sandbox. It mirrors os/exec.Cmd: the fields and methods with those names behave as they do there,
// except that paths, users and the environment are the guest's.
//
// A Cmd cannot be used again after Start, Run, Output or CombinedOutput. Its methods may be called from one goroutine at a time; the pipes
// it returns may each be used by another one.
type Cmd struct {
	// Path is the program. Without a slash it is looked up in the command's PATH, in the guest, when the command starts.
	Path string

	// Args holds the arguments, the program's own name first. If nil, the command runs with {Path}.
	Args []string

	// Env is the environment, each entry "KEY=value"; of two entries with one key the last wins. If nil, the command gets the sandbox's
	// default environment. If not nil, the sandbox's defaults do not apply, as with os/exec.
	Env []string

	// Dir is the working directory, an absolute path in the guest. If empty, it is "/".
	Dir string

	// User is the user the command runs as: "name", "uid", "name:group" or "uid:gid". If empty, it is root.
	User string

	// TTY runs the command on a new terminal of the guest, which is its standard input, output and error: all it prints arrives on Stdout, and
	// the end of Stdin types the terminal's end-of-file character. If nil, the command has pipes.
	TTY *TTY

	// SessionID names the command, at most 128 bytes, unique among the running ones. If empty, it gets a random one.
	SessionID string

	// Stdin is the command's standard input. If nil, the command reads from the null device and sees end of file at once. Otherwise a
	// goroutine copies it; a command that exits without reading all of it is no error.
	Stdin io.Reader

	// Stdout and Stderr receive the command's output. If nil, the output is discarded. If both hold the same value, the command writes to
	// one pipe, so that the order of its writes is kept and at most one goroutine at a time calls Write.
	Stdout io.Writer
	Stderr io.Writer

	// WaitDelay bounds how long Wait goes on reading output after the process has exited while some other process holds the pipes open.
	// Zero is DefaultWaitDelay, a negative value is no bound. It also bounds how long Wait leaves the reader of StdoutPipe or StderrPipe time
	// to take what is left.
	WaitDelay time.Duration

	// Rlimits are the command's resource limits; of two with one name the last counts.
	Rlimits []Rlimit

	// Limits bound what the command and everything it starts use together. The zero value is no limit.
	Limits Limits

	// Timeout ends the command and everything it started after this time, as WithExecTimeout. Zero is no timeout.
	Timeout time.Duration

	// Cancel, if not nil, is called when the context ends before the command, instead of killing it: to send another signal, or to close its
	// input. A command that is still there WaitDelay later is killed with everything it started. If it then exits with code 0, Wait returns the
	// error of Cancel or else the context's; an error that is os.ErrProcessDone is ignored. All as in os/exec.
	Cancel func() error

	// Process is the running process; nil before Start.
	Process *Process

	// ProcessState is what is known of the process after it exited; nil before.
	ProcessState *ProcessState

	// Err is an error of the command's construction, returned by Start.
	Err error

	ctx       context.Context
	sb        *Sandbox
	baseEnv   []string // of WithExecDefaults
	extraEnv  []string
	stdinPipe bool // WithExecStdinPipe
	maxOutput int  // WithExecMaxOutput; 0 = not given

	detachable bool // the command can be left running, and its output is replayed to whoever comes back
	detached   bool // it is started for those who come later only
	replay     int  // bytes of each output stream to keep; 0 = default
	openStdin  bool // those who come back can write its standard input

	mu      sync.Mutex // guards what follows
	started bool
	waited  bool

	cancellation *cancellation // of Cancel; nil = the context kills

	proc    *process
	readers []*io.PipeReader // the caller's ends of output pipes
	closers []io.Closer      // all ends of all pipes, closed when the command is over or could not start
}

// A TTY describes the terminal of a command. Rows and Cols are in characters; zero is 24 and 80. Term is the value of TERM unless the
// command's environment sets it; empty is "xterm-256color".
type TTY struct {
	Rows, Cols uint16
	Term       string
}

// DefaultWaitDelay is how long output is still read after a command exited while other processes hold its pipes open.
const DefaultWaitDelay = 2 * time.Second

// Command returns a Cmd that runs name with arg in the sandbox when it is started. When ctx ends before the command has completed, the
// command and every process it started are killed, and Wait returns ctx's error.
func (s *Sandbox) Command(ctx context.Context, name string, arg ...string) *Cmd {
	c := &Cmd{Path: name, Args: append([]string{name}, arg...), ctx: ctx, sb: s}
	if ctx == nil {
		c.Err = &ConfigError{"Command", "nil", "the context is nil; give context.Background()"}
	}
	s.cfg.applyDefaults(c)
	return c
}

// String returns the command line in words, for messages.
func (c *Cmd) String() string {
	var b bytes.Buffer
	for i, a := range c.argv() {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(a)
	}
	return b.String()
}

func (c *Cmd) argv() []string {
	if len(c.Args) == 0 {
		return []string{c.Path}
	}
	return c.Args
}

// Start starts the command and does not wait for it. On success Wait must be called, or its context ended, to free what it holds.
//
// Errors: *StartError when the guest could not start it (errors.Is with exec.ErrNotFound, fs.ErrNotExist and fs.ErrPermission as in
// os/exec), *ConfigError for a field that cannot work, ErrClosed, *StoppedError, or ctx's error.
func (c *Cmd) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Err != nil {
		c.closePipes()
		return c.Err
	}
	if c.sb == nil || c.ctx == nil {
		c.closePipes()
		return &ConfigError{"Cmd", "zero", "it belongs to no sandbox; make it with Sandbox.Command"}
	}
	if c.started {
		return errors.New("sandbox: Cmd already started")
	}
	c.started = true
	proc, err := c.sb.start(c)
	if err != nil {
		c.closePipes()
		return err
	}
	c.proc = proc
	c.Process = &Process{Pid: proc.p.PID(), proc: proc}
	if c.Cancel != nil {
		go c.watchContext(proc.p) // it may use Process
	}
	return nil
}

// closePipes closes both ends of every pipe, so that nobody waits for data that cannot come.
func (c *Cmd) closePipes() {
	for _, p := range c.closers {
		p.Close()
	}
}

// closeReaders ends the output pipes of a process that has exited and whose reader is gone: as with os/exec, a caller of Wait who has not
// read to the end must not wait for itself.
func (c *Cmd) closeReaders() {
	for _, r := range c.readers {
		r.CloseWithError(channel.ErrReaderClosed)
	}
}

// Wait waits for the command to exit and for its output to have been copied.
//
// It returns nil when the exit code is 0, an *ExitError for any other, ctx's error when the context ended the command, ErrWaitDelay when
// the process exited with code 0 but its output was cut off after WaitDelay, or a *StoppedError when the virtual machine ended first. An
// error of Stdout's or Stderr's Write comes before any of the exit code; an error of Stdin's Read is returned only when that is 0. The error
// of a command that the context killed is an *ExitError as well, for errors.As.
//
// When a context or the machine's end cut the command short, a Write that hung at that moment may still be under way.
func (c *Cmd) Wait() error {
	c.mu.Lock()
	if c.proc == nil {
		c.mu.Unlock()
		return errors.New("sandbox: Cmd not started")
	}
	if c.waited {
		c.mu.Unlock()
		return errors.New("sandbox: Wait was already called")
	}
	c.waited = true
	c.mu.Unlock()
	if len(c.readers) > 0 {
		c.proc.awaitOutput(c.WaitDelay)
		c.closeReaders()
	}
	state, err := c.proc.wait()
	c.ProcessState = state
	c.closePipes()
	return c.result(state, err)
}

// Run starts the command and waits for it. Errors: those of Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output, at most DefaultMaxOutput bytes of it: beyond that the command is ended and the
// error is an *OutputLimitError. If Stderr was nil, an *ExitError carries the start and the end of it.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("sandbox: Stdout already set")
	}
	stdout := newCapture(c)
	c.Stdout = stdout
	var stderr *headTail
	if c.Stderr == nil {
		stderr = newHeadTail(stderrKept)
		c.Stderr = stderr
	}
	err := c.Run()
	if ee := (*ExitError)(nil); stderr != nil && errors.As(err, &ee) {
		ee.Stderr = stderr.Bytes()
	}
	return stdout.seal(), err
}

// stderrKept bounds, in bytes, the start and the end of standard error that an ExitError carries; each gets half.
const stderrKept = 64 << 10

// CombinedOutput runs the command and returns its standard output and standard error in the order they were written, with the limit of
// Output for both together.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("sandbox: Stdout already set")
	}
	if c.Stderr != nil {
		return nil, errors.New("sandbox: Stderr already set")
	}
	both := newCapture(c)
	c.Stdout, c.Stderr = both, both
	err := c.Run()
	return both.seal(), err
}

// StdinPipe returns a pipe connected to the command's standard input. Closing it is end of file for the command. Once the command takes no
// more, writes fail with syscall.EPIPE. Wait closes it.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil {
		return nil, errors.New("sandbox: Stdin already set")
	}
	if c.isStarted() {
		return nil, errors.New("sandbox: StdinPipe after process started")
	}
	r, w := io.Pipe()
	c.Stdin = &inputPipe{r}
	c.closers = append(c.closers, w, r)
	return w, nil
}

// StdoutPipe returns a pipe connected to the command's standard output. Wait closes it, so read it to the end first.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	if c.Stdout != nil {
		return nil, errors.New("sandbox: Stdout already set")
	}
	return c.outputPipe(&c.Stdout, "StdoutPipe")
}

// StderrPipe returns a pipe connected to the command's standard error. Wait closes it, so read it to the end first.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	if c.Stderr != nil {
		return nil, errors.New("sandbox: Stderr already set")
	}
	return c.outputPipe(&c.Stderr, "StderrPipe")
}

func (c *Cmd) outputPipe(field *io.Writer, name string) (io.ReadCloser, error) {
	if c.isStarted() {
		return nil, errors.New("sandbox: " + name + " after process started")
	}
	r, w := io.Pipe()
	*field = &outputPipe{w}
	c.readers = append(c.readers, r)
	c.closers = append(c.closers, r, w)
	return &outputReader{r}, nil
}

func (c *Cmd) isStarted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}
