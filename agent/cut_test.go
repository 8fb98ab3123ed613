//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// cutConn passes the first n bytes of one direction and then ends the
// connection. n < 0 = never. It counts what passed.
type cutConn struct {
	net.Conn
	read, write int // budgets, < 0 = endless
	in, out     int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.read == 0 {
		c.Conn.Close()
		return 0, io.EOF
	}
	if c.read > 0 {
		p = p[:min(len(p), c.read)]
	}
	n, err := c.Conn.Read(p)
	c.in += n
	if c.read > 0 {
		c.read -= n
	}
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.write < 0 || len(p) <= c.write {
		n, err := c.Conn.Write(p)
		c.out += n
		if c.write > 0 {
			c.write -= n
		}
		return n, err
	}
	n, _ := c.Conn.Write(p[:c.write])
	c.out += n
	c.write = 0
	c.Conn.Close()
	return n, io.ErrClosedPipe
}

// scripted runs one exec over a connection that is cut and returns its result,
// the exec's output and how many bytes went through each way.
func scripted(t *testing.T, read, write int) (e *channel.Exit, err error, out string, in, sent int) {
	t.Helper()
	conn, end := socketpair(t)
	cut := &cutConn{Conn: conn, read: read, write: write}
	served := make(chan error, 1)
	go func() { served <- agent.Serve(context.Background(), end, agent.Options{Build: "test"}) }()
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	c, err := channel.NewClient(ctx, cut, channel.Config{})
	var stdout bytes.Buffer
	if err == nil {
		var p *channel.Process
		req := sh("cat; exit 5")
		req.Session = "cut"
		p, err = c.Start(ctx, req, channel.Stdio{Stdin: strings.NewReader("hello"), Stdout: &stdout})
		if err == nil {
			e, err = p.Wait()
		}
		c.Close()
	}
	select {
	case <-served:
	case <-time.After(longTime):
		t.Fatalf("read %d write %d: the agent did not notice", read, write)
	}
	return e, err, stdout.String(), cut.in, cut.out
}

func TestConnectionCutAtEveryOffset(t *testing.T) {
	e, err, out, in, sent := scripted(t, -1, -1)
	if err != nil || e.Code != 5 || out != "hello" {
		t.Fatalf("uncut: %+v, %v, %q", e, err, out)
	}
	check := func(read, write int) {
		t.Helper()
		e, err, out, _, _ := scripted(t, read, write)
		switch {
		case err == nil && e.Code == 5 && out == "hello":
		case err != nil && errors.Is(err, channel.ErrAgentLost) && strings.HasPrefix("hello", out):
		default:
			t.Fatalf("cut after %d read, %d written (of %d, %d): %+v, %v, %q", read, write, in, sent, e, err, out)
		}
	}
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 0; n < in; n += step {
		check(n, -1)
	}
	for n := 0; n < sent; n += step {
		check(-1, n)
	}
	t.Logf("%d bytes from the agent, %d to it", in, sent)
}
