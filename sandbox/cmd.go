package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"
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

	// Stdin is the command's standard input. If nil, the command reads from the null device and sees end of file at once. Otherwise a
	// goroutine copies it; a command that exits without reading all of it is no error.
	Stdin io.Reader

	// Stdout and Stderr receive the command's output. If nil, the output is discarded. If both hold the same value, the command writes to
	// one pipe, so that the order of its writes is kept and at most one goroutine at a time calls Write.
	Stdout io.Writer
	Stderr io.Writer

	// WaitDelay bounds how long Wait goes on reading output after the process has exited while some other process holds the pipes open.
	// Zero is DefaultWaitDelay.
	WaitDelay time.Duration

	// ProcessState is what is known of the process after it exited; nil before.
	ProcessState *ProcessState

	// Err is an error of the command's construction, returned by Start.
	Err error

	ctx      context.Context
	sb       *Sandbox
	rlimits  []Rlimit
	extraEnv []string
	timeout  time.Duration

	mu       sync.Mutex // guards what follows
	started  bool
	waited   bool
	proc     *process
	closers  []io.Closer // our ends of the pipes, closed once the process has exited
	childEnd []io.Closer // the copying ends, closed when the copy has ended
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
	return nil
}

// closePipes closes both ends of every pipe after a failed start, so that nobody waits for data that cannot come.
func (c *Cmd) closePipes() {
	for _, p := range append(c.closers, c.childEnd...) {
		p.Close()
	}
}

// Wait waits for the command to exit and for its output to have been copied.
//
// It returns nil when the exit code is 0, an *ExitError for any other, ctx's error when the context ended the command, ErrWaitDelay when
// the process exited with code 0 but its output was cut off after WaitDelay, or a *StoppedError when the virtual machine ended first.
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
	state, err := c.proc.wait()
	c.ProcessState = state
	for _, p := range c.closers {
		p.Close()
	}
	for _, p := range c.childEnd {
		p.Close()
	}
	if err != nil {
		return err
	}
	return state.err()
}

// Run starts the command and waits for it. Errors: those of Start and Wait.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. If Stderr was nil, an *ExitError carries the start and the end of it.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("sandbox: Stdout already set")
	}
	var stdout bytes.Buffer
	c.Stdout = &stdout
	var stderr *headTail
	if c.Stderr == nil {
		stderr = newHeadTail(stderrKept)
		c.Stderr = stderr
	}
	err := c.Run()
	if ee := (*ExitError)(nil); stderr != nil && errors.As(err, &ee) {
		ee.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// stderrKept bounds, in bytes, the start and the end of standard error that an ExitError carries; each gets half.
const stderrKept = 64 << 10

// CombinedOutput runs the command and returns its standard output and standard error in the order they were written.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("sandbox: Stdout already set")
	}
	if c.Stderr != nil {
		return nil, errors.New("sandbox: Stderr already set")
	}
	var both bytes.Buffer
	c.Stdout, c.Stderr = &both, &both
	err := c.Run()
	return both.Bytes(), err
}

// StdinPipe returns a pipe connected to the command's standard input. Closing it is end of file for the command. Wait closes it.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil {
		return nil, errors.New("sandbox: Stdin already set")
	}
	if c.isStarted() {
		return nil, errors.New("sandbox: StdinPipe after process started")
	}
	r, w := io.Pipe()
	c.Stdin = r
	c.closers = append(c.closers, w)
	c.childEnd = append(c.childEnd, r)
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
	*field = &eofWriter{w}
	c.closers = append(c.closers, r)
	c.childEnd = append(c.childEnd, w)
	return r, nil
}

func (c *Cmd) isStarted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

// eofWriter is the copying end of an output pipe; the copy closes it when the stream ends, which is end of file for the reader.
type eofWriter struct{ w *io.PipeWriter }

func (e *eofWriter) Write(p []byte) (int, error) { return e.w.Write(p) }

// EndOfStream is called by package channel when the command's stream has ended.
func (e *eofWriter) EndOfStream() { e.w.Close() }

// headTail keeps the first and the last bytes written to it, each up to half of its size.
type headTail struct {
	half    int
	head    []byte
	tail    []byte // a ring of half bytes once full
	off     int    // where the ring's oldest byte stands
	dropped int64
}

func newHeadTail(size int) *headTail { return &headTail{half: size / 2} }

func (h *headTail) Write(p []byte) (int, error) {
	n := len(p)
	if room := h.half - len(h.head); room > 0 {
		k := min(room, len(p))
		h.head = append(h.head, p[:k]...)
		p = p[k:]
	}
	if over := len(p) - h.half; over > 0 {
		h.dropped += int64(over) // these would be overwritten below
		p = p[over:]
	}
	if room := h.half - len(h.tail); room > 0 {
		k := min(room, len(p))
		h.tail = append(h.tail, p[:k]...)
		p = p[k:]
	}
	h.dropped += int64(len(p))
	for len(p) > 0 {
		k := copy(h.tail[h.off:], p)
		p = p[k:]
		h.off = (h.off + k) % h.half
	}
	return n, nil
}

// Bytes returns what was kept, with a line between the halves that says how many bytes are missing there.
func (h *headTail) Bytes() []byte {
	var b bytes.Buffer
	b.Write(h.head)
	if h.dropped > 0 {
		b.WriteString("\n... omitting " + itoa(h.dropped) + " bytes ...\n")
	}
	b.Write(h.tail[h.off:])
	b.Write(h.tail[:h.off])
	return b.Bytes()
}
