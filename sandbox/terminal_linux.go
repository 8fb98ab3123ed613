package sandbox

import (
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is the caller's terminal, the program's standard input and output. Its Read can be interrupted, so that no key is swallowed after
// the attachment.
type terminal struct {
	in, shown *os.File
	sizes     chan WinSize

	screen screenModes // what was shown has set
	saved  *term.State // nil before enterRaw
	raw    atomic.Bool // enterRaw is over
	winch  chan os.Signal
	end    chan struct{}
	stop   sync.WaitGroup
	wakeR  int // a pipe that interrupts Read
	wakeW  int
	closed sync.Once
	reads  sync.Mutex // held during Read
	writes sync.Mutex // held during Write; guards screen
}

func openTerminal() (*terminal, error) { return newTerminal(os.Stdin, os.Stdout) }

func newTerminal(in, out *os.File) (*terminal, error) {
	if !term.IsTerminal(int(in.Fd())) {
		return nil, &TerminalError{Op: in.Name(), Err: ErrNotTerminal}
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, &TerminalError{Op: "pipe", Err: err}
	}
	t := &terminal{
		in: in, shown: out, sizes: make(chan WinSize), winch: make(chan os.Signal, 1), end: make(chan struct{}), wakeR: p[0], wakeW: p[1],
	}
	signal.Notify(t.winch, unix.SIGWINCH, unix.SIGCONT)
	t.stop.Go(t.follow)
	return t, nil
}

// follow sends the terminal's size at every change. A program that was stopped and continued finds the modes and the size of the shell, which had
// the terminal meanwhile.
func (t *terminal) follow() {
	var size WinSize
	var to chan<- WinSize // nil = size was sent
	for {
		select {
		case <-t.winch:
			if t.raw.Load() {
				_, _ = term.MakeRaw(int(t.in.Fd())) // it fails when the terminal is gone
			}
			size, to = t.size(), t.sizes
		case to <- size:
			to = nil
		case <-t.end:
			return
		}
	}
}

func (t *terminal) out() io.Writer { return shownWriter{t} }

// shownWriter writes to the terminal.
type shownWriter struct{ t *terminal }

func (w shownWriter) Write(p []byte) (int, error) {
	w.t.writes.Lock()
	defer w.t.writes.Unlock()
	w.t.screen.scan(p)
	return w.t.shown.Write(p)
}

// leaveScreen resets what a program has set on the screen, a detached one or one that was killed. A terminal that hangs is left alone after
// attachGrace.
func (t *terminal) leaveScreen() {
	if !t.writes.TryLock() {
		return
	}
	reset := t.screen.reset()
	if len(reset) == 0 || !term.IsTerminal(int(t.shown.Fd())) {
		t.writes.Unlock()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer t.writes.Unlock()
		_, _ = t.shown.Write(reset) // it fails when the terminal is gone
	}()
	await(done, attachGrace)
}

// size returns the terminal's size, zero when it is not known.
func (t *terminal) size() WinSize {
	cols, rows, err := term.GetSize(int(t.in.Fd()))
	if err != nil || rows < 0 || cols < 0 || rows > 0xffff || cols > 0xffff {
		return WinSize{}
	}
	return WinSize{uint16(rows), uint16(cols)}
}

// enterRaw makes the terminal pass every key on. The size may have changed since the command got it.
func (t *terminal) enterRaw() (err error) {
	if t.saved, err = term.MakeRaw(int(t.in.Fd())); err != nil {
		return &TerminalError{Op: "raw mode", Err: err}
	}
	t.raw.Store(true)
	select {
	case t.winch <- unix.SIGWINCH:
	default:
	}
	return nil
}

// Read waits for keys, or for close.
func (t *terminal) Read(p []byte) (int, error) {
	t.reads.Lock()
	defer t.reads.Unlock()
	for {
		select {
		case <-t.end:
			return 0, io.EOF
		default:
		}
		fds := []unix.PollFd{{Fd: int32(t.in.Fd()), Events: unix.POLLIN}, {Fd: int32(t.wakeR), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return 0, &TerminalError{Op: "poll", Err: err}
		}
		if fds[1].Revents != 0 {
			return 0, io.EOF
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(int(t.in.Fd()), p)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil:
			return 0, &TerminalError{Op: "read", Err: err}
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// close restores the terminal and ends Read.
func (t *terminal) close() {
	t.closed.Do(func() {
		signal.Stop(t.winch)
		close(t.end)
		t.stop.Wait() // follow sets modes
		t.leaveScreen()
		if t.saved != nil {
			_ = term.Restore(int(t.in.Fd()), t.saved) // it fails when the terminal is gone, and then there is nothing to restore
		}
		_, _ = unix.Write(t.wakeW, []byte{0})
		t.reads.Lock() // a Read that polls has been woken
		defer t.reads.Unlock()
		unix.Close(t.wakeR)
		unix.Close(t.wakeW)
	})
}
