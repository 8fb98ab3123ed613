package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// wireVersion is the version of the lines below. The lab's own init and the client may be of different builds; the exec protocol inside a
// connection always has both ends of the client's build (see doc.go).
const wireVersion = 1

// request is the first line a client writes, one JSON object.
type request struct {
	Version int
	Op      string        // opExec, opStatus or opStop
	Build   string        // identity of the client's executable
	Exe     string        // path of the client's executable, the same in the lab
	Idle    time.Duration // for opExec: how long the lab stays when it is unused afterwards
}

const (
	opExec   = "exec"
	opStatus = "status"
	opStop   = "stop"
)

// reply is the line that answers a request. For opExec it comes from the lab, and raw bytes of the exec protocol follow.
type reply struct {
	Error  string  `json:",omitempty"`
	Status *status `json:",omitempty"`
}

// status describes a running lab.
type status struct {
	Version   int
	Build     string
	PID       int // of the broker
	QEMU      int // of the emulator
	MemMiB    int
	CPUs      int
	Started   time.Time
	Boot      time.Duration // from the emulator's start until the lab answered; 0 while it boots
	Commands  int           // running now
	Served    int           // connections so far
	IdleAfter time.Duration
	Console   string // path of the console log
}

// maxLine bounds a line of the wire protocol.
const maxLine = 64 << 10

// writeLine writes v as one line.
func writeLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// readLine reads one line into v, byte by byte: what follows the line belongs to somebody else.
func readLine(r io.Reader, v any) error {
	var line []byte
	one := make([]byte, 1)
	for {
		n, err := r.Read(one)
		if n == 1 {
			if one[0] == '\n' {
				break
			}
			if line = append(line, one[0]); len(line) > maxLine {
				return errors.New("line too long")
			}
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), v); err != nil {
		return fmt.Errorf("malformed line %.80q: %w", line, err)
	}
	return nil
}

// muxConfig is the configuration of the session over the virtio-serial port. An emulated machine has no sense of time: nothing here
// may give up because the other side is slow.
func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = 0
	c.MaxStreamWindowSize = 1 << 20
	c.LogOutput = io.Discard
	return c
}

// halfCloser is a connection whose writing side can end on its own.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// muxStream gives a yamux stream CloseWrite: its Close ends the writing side only, reading goes on until the peer closes too.
type muxStream struct{ *yamux.Stream }

func (s muxStream) CloseWrite() error { return s.Stream.Close() }

// splice copies both ways until both sides have ended, keeping half-closes: the end of one direction is passed on as the end of
// that direction alone. It closes both. A failed write ends the reading of the other side as well, so that nobody waits for a dead peer.
func splice(a, b halfCloser) {
	var wg sync.WaitGroup
	one := func(dst, src halfCloser) {
		defer wg.Done()
		_, err := io.Copy(onlyWriter{dst}, onlyReader{src})
		if err != nil {
			a.Close()
			b.Close()
			return
		}
		dst.CloseWrite()
	}
	wg.Add(2)
	go one(a, b)
	go one(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

// onlyReader and onlyWriter hide the optional copy methods, which would hand one side's file to the kernel (splice(2)); the plain loop
// behaves the same on every pair of connections.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
