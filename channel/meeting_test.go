package channel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// echoHandler copies stdin to stdout and exits with 0.
type echoHandler struct{}

func (echoHandler) Exec(_ context.Context, x *Exec) {
	_ = x.Started(1)
	var in, out int64
	if r, w := x.Stdin(), x.Stdout(); r != nil && w != nil {
		n, _ := io.Copy(w, r)
		in, out = n, n
	}
	if w := x.Stdout(); w != nil {
		w.Close()
	}
	_ = x.Exited(&Exit{})
	x.Drained(&Exit{Stdin: in, Stdout: out})
}

func (echoHandler) Stats() Stats  { return Stats{} }
func (echoHandler) Shutdown(bool) {}

// echoClient is a client of a guest end with an echoHandler.
func echoClient(t *testing.T, cfg ServerConfig) *Client {
	t.Helper()
	return clientOf(t, echoHandler{}, cfg)
}

// clientOf is a client of a guest end with a handler.
func clientOf(t *testing.T, h Handler, cfg ServerConfig) *Client {
	t.Helper()
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), guest, h, cfg) }()
	c, err := NewClient(context.Background(), host, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-served })
	return c
}

func echo(c *Client, id, in string) error {
	var out bytes.Buffer
	p, err := c.Start(context.Background(), &Request{Session: id, Path: "echo"}, Stdio{Stdin: strings.NewReader(in), Stdout: &out})
	if err != nil {
		return err
	}
	e, err := p.Wait()
	if err == nil && (out.String() != in || e.StdinErr != nil) {
		err = fmt.Errorf("%q of %q, %v", out.String(), in, e.StdinErr)
	}
	return err
}

func TestHostThatGoesAwayBeforeTheDataStreamsFreesTheID(t *testing.T) {
	c := echoClient(t, ServerConfig{})
	for i := range 20 {
		// Alone, as a cancelled Start leaves it when its other streams were not read yet.
		req := &Request{Session: "x", Path: "echo", Wired: wiredStdin | wiredStdout}
		first, err := appendFrame(nil, &open{Kind: kindExec, Session: "x"})
		if err == nil {
			first, err = appendFrame(first, req)
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.openRaw(first)
		if err != nil {
			t.Fatal(err)
		}
		for st := (Stats{}); st.Sessions == 0; { // until the guest has admitted it
			if st, err = c.Stats(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		c.guard.reset(s.StreamID())
		for end := time.Now().Add(rendezvousTime / 3); ; time.Sleep(time.Millisecond) {
			st, err := c.Stats(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if st.Sessions == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the guest waits for streams of a host that has gone")
			}
		}
		if err := echo(c, "x", "hello"); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}

func TestDataStreamsOfAFailedStartDoNotReachTheNextOne(t *testing.T) {
	c := echoClient(t, ServerConfig{MaxSessions: 1})
	for i := range 50 {
		// The guest refuses an exec at its limit without waiting for the data
		// streams, and may read them when the ID is in use again.
		p := c.newProcess(context.Background(), &Request{Session: "x", Path: "echo"}, Stdio{Stdin: strings.NewReader(""), Stdout: io.Discard})
		if err := p.complete(); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		p.tag = c.countAttach()
		frames, err := p.prepare()
		c.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		delete(frames, kindExec) // refused, and over
		streams, err := p.open(frames)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Stats(context.Background()); err != nil { // they were read meanwhile
			t.Fatal(err)
		}
		p.reset(streams)
		if err := echo(c, "x", "hello"); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}
