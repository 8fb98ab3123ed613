package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// Hidden commands: roles of this program in processes that kvmlab starts itself.
const (
	brokerCommand  = "__broker"  // host: owns the emulator
	serverCommand  = "__server"  // lab: accepts connections from the port
	sessionCommand = "__session" // lab: first process of one connection's own mount and PID namespace
	agentCommand   = "__agent"   // lab: serves the exec protocol of one connection
)

// abandonGrace is how long a session may go on after its client went away, to kill what it runs and end by itself.
const abandonGrace = 10 * time.Second

// guestServer accepts the broker's streams until the port closes.
func guestServer() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	mux, err := yamux.Server(port, muxConfig())
	if err != nil {
		return err
	}
	build := bootParameter("kvmlab.build")
	free := make(chan int, slots)
	for i := range slots {
		free <- i
	}
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			return fmt.Errorf("the host closed the port: %w", err)
		}
		go func() {
			conn := muxStream{stream}
			defer conn.Close()
			serveConn(conn, build, free)
		}()
	}
}

// serveConn reads a request and runs its session in a free slot.
func serveConn(conn halfCloser, build string, free chan int) {
	var req request
	if err := readLine(conn, &req); err != nil {
		return // the client went away
	}
	if req.Op == opStatus { // the broker asks whether the lab is up
		writeLine(conn, reply{}) // a client that went away needs no answer
		return
	}
	slot := <-free
	defer func() { free <- slot }()
	if err := runSession(conn, req, build, slot); err != nil {
		fmt.Fprintln(os.Stderr, "kvmlab session:", err)
		writeLine(conn, reply{Error: err.Error()}) // likewise
	}
}

// runSession starts the session's process with one end of a socket pair and copies between the other end and conn. An error means
// that the client has got no reply line yet.
func runSession(conn halfCloser, req request, build string, slot int) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	program := req.Exe
	if req.Build == build {
		program = "" // this very program, already in memory
	}
	var complaint bytes.Buffer
	cmd := exec.Command("/proc/self/exe", sessionCommand, slotTag(slot), program)
	cmd.Stderr = &limitedWriter{w: &complaint, left: 4 << 10}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	counted := &countingConn{halfCloser: conn}
	abandoned := &eofWatch{halfCloser: counted, eof: func() { time.AfterFunc(abandonGrace, func() { cmd.Process.Kill() }) }}
	splice(ours, abandoned)
	waitErr := cmd.Wait()
	if counted.written == 0 {
		return fmt.Errorf("session in the lab failed: %v: %s", waitErr, strings.TrimSpace(complaint.String())) //nolint:errorlint // only its words
	}
	if text := complaint.String(); text != "" {
		fmt.Fprintln(os.Stderr, "kvmlab session:", strings.TrimSpace(text))
	}
	return nil
}

// countingConn counts what was written to it.
type countingConn struct {
	halfCloser
	written int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.written += int64(len(p))
	return c.halfCloser.Write(p)
}

// CloseWrite and Close keep the connection open while nothing was written: the failure's reply goes there.
func (c *countingConn) CloseWrite() error {
	if c.written == 0 {
		return nil
	}
	return c.halfCloser.CloseWrite()
}

func (c *countingConn) Close() error {
	if c.written == 0 {
		return nil
	}
	return c.halfCloser.Close()
}

// eofWatch calls eof when reading ends, which means that the client went away: while it waits for its command it keeps its side open.
type eofWatch struct {
	halfCloser
	eof func()
}

func (w *eofWatch) Read(p []byte) (int, error) {
	n, err := w.halfCloser.Read(p)
	if err != nil {
		w.eof()
	}
	return n, err
}

// limitedWriter drops what goes beyond a limit.
type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	keep := p[:min(len(p), l.left)]
	l.left -= len(keep)
	if _, err := l.w.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	first, second := os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "wire")
	defer first.Close()
	conn, err := net.FileConn(first)
	if err != nil {
		second.Close()
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return conn.(*net.UnixConn), second, nil
}

// bootParameter returns the value of name=… on the kernel's command line.
func bootParameter(name string) string {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return ""
	}
	for word := range strings.FieldsSeq(string(text)) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

// errNoSession is returned when a hidden command is called by hand.
var errNoSession = errors.New("this is an internal command of the lab")
