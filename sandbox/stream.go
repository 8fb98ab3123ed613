package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"syscall"

	"github.com/hutchvm/hutch/channel"
)

// An ExecEventKind says what an ExecEvent reports.
type ExecEventKind int

// The kinds of events. Started is the first and Done the last one; Exited comes once the process was reaped, and output may follow it.
const (
	ExecEventStarted    ExecEventKind = iota + 1 // PID
	ExecEventStdout                              // Data: standard output, or all that a terminal shows
	ExecEventStderr                              // Data
	ExecEventExited                              // ExitCode and State
	ExecEventFailed                              // Err: the command was cut short, or how it ended is unknown; Done follows
	ExecEventStdinError                          // Err: the command takes no more standard input, which does not end it
	ExecEventDone                                // nothing follows
	ExecEventGap                                 // Gap: output that the guest does not keep any more was left out (WithGaps)
)

var execEventNames = [...]string{"none", "started", "stdout", "stderr", "exited", "failed", "stdin error", "done", "gap"}

// String returns the kind in words.
func (k ExecEventKind) String() string {
	if k < 0 || int(k) >= len(execEventNames) {
		return fmt.Sprintf("ExecEventKind(%d)", int(k))
	}
	return execEventNames[k]
}

// An ExecEvent is something that happened to a command. Which fields are set depends on Kind. Data belongs to the receiver.
type ExecEvent struct {
	Kind     ExecEventKind
	PID      int           // the process's number in the guest
	Data     []byte        // 1 byte to 64 KiB
	ExitCode int           // exit code, or -1 when a signal ended the process
	State    *ProcessState // signal, CPU time; its byte totals are complete only in the Result
	Err      error
	Gap      *GapError
}

// ErrHandleClosed is what Recv returns after Close.
var ErrHandleClosed = errors.New("sandbox: the exec handle is closed")

// An ExecHandle is a command whose events are received one by one. It must be read to its end, by Recv, Events, Wait or Collect, or closed:
// output that nobody receives stalls the command at its next write, and only that command.
//
// Safe for concurrent use; each event goes to one receiver.
type ExecHandle struct {
	proc   *process
	cmd    *Cmd
	cancel context.CancelFunc // ends the command
	stdin  *ExecSink          // nil without WithExecStdinPipe
	over   chan struct{}      // closed when Write must not wait any more
	ready  chan struct{}      // holds a token when queue or ended changed
	gone   chan struct{}      // closed when the command's end has been queued

	mu       sync.Mutex // guards what follows
	queue    []queuedEvent
	gaps     int  // Gap events in queue
	ended    bool // Done was queued
	closed   bool
	taken    bool // TakeStdin was called
	stdinErr bool // StdinError was queued
	state    *ProcessState
	err      error

	collectMu      sync.Mutex // one Collect at a time
	stdout, stderr collector
}

// queuedEvent is an event that was not received yet. The queue holds at most one chunk of output of each stream, because its writer waits.
type queuedEvent struct {
	ExecEvent
	received chan struct{} // closed when it was; nil when nobody waits
}

// ExecStream starts the program name with args and returns at once; the handle reports what it does. When ctx ends before the command does,
// the command and everything it started are killed, as with exec.CommandContext.
//
// Errors: those of Cmd.Start. Options: those of Exec, and WithExecStdinPipe. Safe for concurrent use.
func (s *Sandbox) ExecStream(ctx context.Context, name string, args []string, opts ...ExecOption) (*ExecHandle, error) {
	c := s.Command(ctx, name, args...)
	if c.Err != nil {
		return nil, c.Err
	}
	if err := c.apply("ExecStream", opts); err != nil {
		return nil, err
	}
	if c.stdinPipe && c.Stdin != nil {
		return nil, &ConfigError{"ExecStream", "WithExecStdinPipe", "it excludes WithExecStdin: one command has one standard input"}
	}
	h := newExecHandle(c)
	c.ctx, h.cancel = context.WithCancel(ctx)
	proc, err := s.start(c)
	if err != nil {
		h.cancel()
		return nil, err
	}
	h.begin(proc)
	return h, nil
}

// newExecHandle returns a handle whose writers and pipe are c's.
func newExecHandle(c *Cmd) *ExecHandle {
	h := &ExecHandle{cmd: c, over: make(chan struct{}), ready: make(chan struct{}, 1), gone: make(chan struct{})}
	c.Stdout, c.Stderr = &eventWriter{h, ExecEventStdout}, &eventWriter{h, ExecEventStderr}
	if c.stdinPipe {
		r, w := io.Pipe()
		h.stdin = &ExecSink{h: h, r: r, w: w, sent: make(chan struct{})}
		c.Stdin = sinkReader{h.stdin}
	}
	return h
}

// begin makes proc the handle's command. Output may be in the queue already, but nobody has the handle yet: Started still is the first event.
func (h *ExecHandle) begin(proc *process) {
	h.proc = proc
	started := queuedEvent{ExecEvent: ExecEvent{Kind: ExecEventStarted, PID: proc.p.PID()}}
	h.mu.Lock()
	h.queue = append([]queuedEvent{started}, h.queue...)
	h.mu.Unlock()
	h.signal()
	go h.watch()
}

// ShellStream runs script through the sandbox's shell as Shell does. Otherwise it is ExecStream.
func (s *Sandbox) ShellStream(ctx context.Context, script string, opts ...ExecOption) (*ExecHandle, error) {
	return s.ExecStream(ctx, s.cfg.shell, []string{"-c", script}, opts...)
}

// watch queues the events of the command's end.
func (h *ExecHandle) watch() {
	defer close(h.gone)
	p := h.proc.p
	select {
	case <-p.Exited():
		h.proc.stop() // output on its way to a slow reader is not the command's time
		if h.stdin != nil {
			h.stdin.r.CloseWithError(syscall.EPIPE)
		}
		h.exited(newProcessState(p.PID(), p.ExitRecord()))
	case <-p.Done():
	}
	<-p.Done()
	state, err := h.proc.wait()
	if h.stdin != nil {
		h.stdin.r.CloseWithError(syscall.EPIPE)
	}
	if state != nil {
		if state.exit.StdinErr != nil {
			h.stdinError(state.exit.StdinErr)
		}
		h.exited(state)
	}
	h.finish(state, err)
	h.cancel()
}

// exited queues the Exited event, once.
func (h *ExecHandle) exited(state *ProcessState) {
	h.mu.Lock()
	first := h.state == nil
	h.state = state
	if first {
		h.queue = append(h.queue, queuedEvent{ExecEvent: ExecEvent{Kind: ExecEventExited, PID: state.pid, ExitCode: state.ExitCode(), State: state}})
	}
	h.mu.Unlock()
	h.signal()
}

// finish queues the last events and lets go of writers that still wait; what they wrote stays in the queue.
func (h *ExecHandle) finish(state *ProcessState, err error) {
	h.mu.Lock()
	h.state, h.err, h.ended = state, err, true
	if err != nil && !errors.Is(err, ErrDetached) {
		h.queue = append(h.queue, queuedEvent{ExecEvent: ExecEvent{Kind: ExecEventFailed, Err: err}})
	}
	h.queue = append(h.queue, queuedEvent{ExecEvent: ExecEvent{Kind: ExecEventDone}})
	if h.closed {
		h.queue = nil
	} else {
		close(h.over)
	}
	h.mu.Unlock()
	h.signal()
}

func (h *ExecHandle) stdinError(err error) {
	h.mu.Lock()
	if !h.stdinErr && !h.ended {
		h.stdinErr = true
		h.queue = append(h.queue, queuedEvent{ExecEvent: ExecEvent{Kind: ExecEventStdinError, Err: err}})
	}
	h.mu.Unlock()
	h.signal()
}

// signal wakes one receiver.
func (h *ExecHandle) signal() {
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

// eventWriter turns one output stream into events.
type eventWriter struct {
	h    *ExecHandle
	kind ExecEventKind
}

// Write returns when the event was received: that is the back-pressure.
func (w *eventWriter) Write(p []byte) (int, error) {
	h, received := w.h, make(chan struct{})
	h.mu.Lock()
	if h.ended || h.closed {
		h.mu.Unlock()
		return 0, channel.ErrReaderClosed
	}
	h.queue = append(h.queue, queuedEvent{ExecEvent{Kind: w.kind, Data: append([]byte(nil), p...)}, received})
	h.mu.Unlock()
	h.signal()
	select {
	case <-received:
		return len(p), nil
	case <-h.over:
		return len(p), channel.ErrReaderClosed
	}
}

// Recv returns the next event and waits for it if need be. After Done it returns io.EOF, after Close ErrHandleClosed, and ctx's error when
// that ends first, which loses no event and does not touch the command.
func (h *ExecHandle) Recv(ctx context.Context) (ExecEvent, error) {
	for {
		if ev, ok, err := h.next(); ok || err != nil {
			return ev, err
		}
		select {
		case <-h.ready:
		case <-ctx.Done():
			return ExecEvent{}, ctx.Err()
		}
	}
}

// next takes an event from the queue if there is one.
func (h *ExecHandle) next() (ev ExecEvent, ok bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		h.signal() // for the next receiver
		return ev, false, ErrHandleClosed
	case len(h.queue) > 0:
		q := h.queue[0]
		h.queue[0] = queuedEvent{}
		h.queue = h.queue[1:]
		if q.Gap != nil {
			h.gaps--
		}
		if q.received != nil {
			close(q.received)
		}
		if len(h.queue) > 0 || h.ended {
			h.signal()
		}
		return q.ExecEvent, true, nil
	case h.ended:
		h.signal()
		return ev, false, io.EOF
	}
	return ev, false, nil
}

// Events returns the events as an iterator, which ends after Done. An error, those of Recv but io.EOF, is its last value. Breaking off leaves
// the handle as it is: read on, or close it.
func (h *ExecHandle) Events(ctx context.Context) iter.Seq2[ExecEvent, error] {
	return func(yield func(ExecEvent, error) bool) {
		for {
			ev, err := h.Recv(ctx)
			if err == io.EOF || !yield(ev, err) || err != nil {
				return
			}
		}
	}
}

// Wait waits for the command's end. Output that was not received is discarded; the Result holds none. A non-zero exit code is not an error.
//
// Errors: ctx's, which ends the waiting and not the command; otherwise those of Exec.
func (h *ExecHandle) Wait(ctx context.Context) (*Result, error) {
	for _, err := range h.Events(ctx) {
		if err != nil && err != ErrHandleClosed {
			return nil, err
		}
	}
	state, err := h.outcome()
	return &Result{state: state}, err
}

// Collect waits for the command's end and returns the output that no one received before, within the limits of Exec. Errors: those of Wait;
// after one of ctx, a further Collect goes on where this one stopped.
func (h *ExecHandle) Collect(ctx context.Context) (*Result, error) {
	h.collectMu.Lock()
	defer h.collectMu.Unlock()
	if h.stdout == nil {
		h.stdout, h.stderr = h.newCollector(), h.newCollector()
	}
	var full error
	for ev, err := range h.Events(ctx) {
		if err != nil && err != ErrHandleClosed {
			return nil, err
		}
		var werr error
		switch ev.Kind {
		case ExecEventStdout:
			_, werr = h.stdout.Write(ev.Data)
		case ExecEventStderr:
			_, werr = h.stderr.Write(ev.Data)
		}
		if werr != nil && full == nil {
			full = werr
		}
	}
	state, err := h.outcome()
	if full != nil {
		err = full
	}
	return newResult(state, h.stdout, h.stderr), err
}

func (h *ExecHandle) newCollector() collector {
	c := newCollector(h.cmd)
	if capt, ok := c.(*capture); ok {
		capt.full = h.proc.full
	}
	return c
}

// outcome is the end of a command that is over.
func (h *ExecHandle) outcome() (*ProcessState, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		return h.state, ErrHandleClosed // another goroutine is inside Close
	}
	return h.state, h.err
}

// ID returns the session ID, the one of WithExecID or a random one. The error is always nil.
func (h *ExecHandle) ID() (string, error) { return h.proc.p.ID(), nil }

// PID returns the process's number in the guest.
func (h *ExecHandle) PID() int { return h.proc.p.PID() }

// A SignalTarget says which processes a signal goes to.
type SignalTarget int

// The targets; the zero value is SignalGroup.
const (
	SignalGroup   SignalTarget = iota // the command's process group, as a terminal's Ctrl-C
	SignalProcess                     // the process itself
)

// Signal sends the signal number sig, 0 to 64, and returns when the guest has delivered it. Errors: os.ErrProcessDone when the process has
// exited, ctx's error, or the guest's errno.
func (h *ExecHandle) Signal(ctx context.Context, sig syscall.Signal, target SignalTarget) error {
	return h.proc.sb.failure(h.proc.p.Signal(ctx, channel.Signal(sig), target == SignalGroup))
}

// Kill ends the command and every process it started, also those that left its group. It does not wait: the events go on to their end.
// Errors: os.ErrProcessDone when the process has exited.
func (h *ExecHandle) Kill() error { return h.proc.sb.failure(h.proc.p.Kill()) }

// Resize sets the size of the command's terminal and does not wait for it. Of several sizes the last one wins; after the exit it does
// nothing. Errors: a command without WithExecTTY.
func (h *ExecHandle) Resize(rows, cols uint16) error { return h.proc.p.Resize(rows, cols) }

// Close ends the command if it still runs, with everything it started, discards what was not received and returns when the handle holds
// nothing any more. Idempotent; always nil.
func (h *ExecHandle) Close() error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		h.queue = nil
		if !h.ended {
			close(h.over)
		}
	}
	h.mu.Unlock()
	h.signal()
	h.cancel()
	<-h.gone
	return nil
}
