package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// The protocol between the process that holds a sandbox and those that use it: each connection begins with one line of JSON from either side,
// serveRequest and serveReply. What follows depends on the operation. Both processes are the same user's, and trust each other.

// serveVersion is the version of this protocol; both sides must have it.
const serveVersion = 1

type serveRequest struct {
	Version int    `json:"version"`
	Op      string `json:"op"`
}

// The operations.
const (
	opExec    = "exec"    // the exec protocol follows, as if the other side were the agent
	opInfo    = "info"    // the reply has it
	opConsole = "console" // the end of the guest's console follows, to the end of the connection
	opWait    = "wait"    // the reply comes when the machine has ended
	opStop    = "stop"    // ends the machine; the reply comes when it is gone
)

type serveReply struct {
	Error string `json:"error,omitempty"`
	// Version goes with the Error about a version that is not the holder's, which is this one.
	Version int   `json:"version,omitempty"`
	Info    *Info `json:"info,omitempty"`
	// Defaults go with Info: who connects starts commands with them.
	Defaults *commandDefaults `json:"defaults,omitempty"`
	End      *machineEnd      `json:"end,omitempty"`
}

// machineEnd is how a machine ended; the zero value is Close.
type machineEnd struct {
	Reason  Reason `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Console []byte `json:"console,omitempty"`
	Cause   string `json:"cause,omitempty"`
}

// endOf describes the cause of a machine's end.
func endOf(cause error) *machineEnd {
	var se *StoppedError
	if !errors.As(cause, &se) {
		return &machineEnd{}
	}
	m := &machineEnd{Reason: se.Reason, Message: se.Message, Console: se.Console}
	if se.Err != nil {
		m.Cause = se.Err.Error()
	}
	return m
}

// err is the reverse of endOf.
func (m *machineEnd) err() error {
	if m.Reason == "" {
		return ErrClosed
	}
	se := &StoppedError{Reason: m.Reason, Message: m.Message, Console: m.Console}
	if m.Cause != "" {
		se.Err = errors.New(m.Cause)
	}
	return se
}

// greetTime bounds how long a connection may take to say what it wants.
const greetTime = 10 * time.Second

// maxServeLine bounds a line of the protocol, in bytes: the console's end and some.
const maxServeLine = 1 << 20

// Serve lets other processes use the sandbox through l, a Unix socket that only those can reach who may: whoever connects can run commands
// as root in the guest. Connect is the other side for named sandboxes; ConnectSocket is it for any other path.
//
// It returns nil when l was closed, or the sandbox, and closes l; what the connected processes have left running without detaching is killed
// then. Any number of processes may be connected.
func (s *Sandbox) Serve(l net.Listener) error { return (&server{s, greetTime}).serve(l) }

// server serves a sandbox.
type server struct {
	*Sandbox
	patience time.Duration // what a client gets to say what it wants, and to read the answer
}

func (s *server) serve(l net.Listener) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	open, end := context.WithCancel(ctx) // ends with the sandbox
	defer end()
	var conns sync.WaitGroup
	go func() {
		select {
		case <-s.life.done:
			end()
			l.Close()
		case <-ctx.Done():
		}
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-s.life.done: // the connections end by themselves, after they have told how
				late := time.AfterFunc(s.patience, cancel)
				defer late.Stop()
				conns.Wait()
				return nil
			default:
			}
			if passing(err) {
				time.Sleep(acceptPause)
				continue
			}
			cancel()
			conns.Wait()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("sandbox: accepting connections: %w", err)
		}
		conns.Go(func() {
			defer conn.Close()
			s.conn(ctx, open, conn)
		})
	}
}

// passing says whether an error of Accept is one that passes: descriptors or memory are short, or a caller was quicker to go.
func passing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM)
}

// acceptPause is how long Serve waits after such an error.
const acceptPause = 50 * time.Millisecond

// conn serves one connection. open ends with the sandbox: who has said nothing until then is not waited for.
func (s *server) conn(ctx, open context.Context, conn net.Conn) {
	hush := context.AfterFunc(open, func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(s.patience))
	var req serveRequest
	if err := readLine(conn, &req); err != nil || !hush() {
		hush()
		return
	}
	if req.Version != serveVersion {
		_ = writeLine(conn, &serveReply{Version: serveVersion, Error: fmt.Sprintf("the holder speaks version %d, the other side %d: stop the sandbox and create it with this version of hutch", serveVersion, req.Version)})
		return
	}
	_ = conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	switch req.Op {
	case opExec:
		if writeLine(conn, &serveReply{}) == nil {
			var tap channel.Tap
			if s.logs != nil {
				tap = s.logs
			}
			_ = s.client.Relay(ctx, conn, channel.RelayConfig{Tap: tap, Logger: s.cfg.logger})
		}
	case opInfo:
		_ = conn.SetWriteDeadline(time.Now().Add(s.patience)) // a caller that does not read must not hold the end up
		_ = writeLine(conn, &serveReply{Info: &s.info, Defaults: s.cfg.commandDefaults()})
	case opConsole:
		_ = conn.SetWriteDeadline(time.Now().Add(s.patience))
		if writeLine(conn, &serveReply{}) == nil {
			_, _ = conn.Write(s.Console())
		}
	case opWait:
		gone := make(chan struct{})
		go func() { // the other side says nothing more, so a read tells when it goes away
			defer close(gone)
			_, _ = io.Copy(io.Discard, conn)
		}()
		select {
		case <-s.life.done:
			stop()
			_ = conn.SetDeadline(time.Now().Add(s.patience))
			_ = writeLine(conn, &serveReply{End: endOf(s.life.cause)})
		case <-gone:
		}
		conn.Close()
		<-gone
	case opStop:
		stop()
		s.Close()
		_ = writeLine(conn, &serveReply{End: endOf(s.life.cause)})
	default:
		_ = writeLine(conn, &serveReply{Version: serveVersion, Error: fmt.Sprintf("unknown operation %q", req.Op)})
	}
}

// readLine reads one line of JSON, byte by byte, because what follows is not this protocol's.
func readLine(r io.Reader, v any) error {
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if b[0] == '\n' {
			return json.Unmarshal(line, v)
		}
		if line = append(line, b[0]); len(line) > maxServeLine {
			return errors.New("line too long")
		}
	}
}

func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
