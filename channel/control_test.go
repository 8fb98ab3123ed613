package channel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"
	"time"
)

// lateHandler runs a process that the first signal ends; the answer to the
// signal comes after the exit record, when it may.
type lateHandler struct {
	echoHandler
	answer chan struct{}
}

func (h lateHandler) Exec(_ context.Context, x *Exec) {
	_ = x.Started(1)
	c := <-x.Controls()
	_ = x.Exited(&Exit{Code: -1, Signal: c.Signal.Sig})
	<-h.answer
	_ = x.SignalDone(c.Signal.Seq, 0)
	x.Drained(&Exit{})
}

func TestSignalThatEndsTheProcessWasDelivered(t *testing.T) {
	h := lateHandler{answer: make(chan struct{})}
	c := clientOf(t, h, ServerConfig{})
	p, err := c.Start(context.Background(), &Request{Path: "x"}, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- p.Signal(context.Background(), SIGTERM, true) }()
	<-p.Exited()
	select {
	case err := <-answered:
		close(h.answer)
		t.Fatalf("answer before the guest's: %v", err)
	case <-time.After(20 * time.Millisecond): // for a wrong answer to come
	}
	close(h.answer)
	if err := <-answered; err != nil {
		t.Errorf("the signal that ended the process: %v", err)
	}
	if e, err := p.Wait(); err != nil || e.Signal != SIGTERM {
		t.Errorf("%+v, %v", e, err)
	}
	if err := p.Signal(context.Background(), SIGTERM, true); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal after the end: %v", err)
	}
}

// deafHandler exits without an answer to the signal that it got.
type deafHandler struct{ echoHandler }

func (deafHandler) Exec(_ context.Context, x *Exec) {
	_ = x.Started(1)
	<-x.Controls()
	_ = x.Exited(&Exit{})
	x.Drained(&Exit{})
}

func TestSignalWithoutAnAnswerIsTooLate(t *testing.T) {
	c := clientOf(t, deafHandler{}, ServerConfig{})
	p, err := c.Start(context.Background(), &Request{Path: "x"}, Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(context.Background(), SIGTERM, true); !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

func TestCutBetweenTotalsAndOutputIsALoss(t *testing.T) {
	for _, got := range []string{"", "h"} {
		c, guest := fakeAgent(t)
		go io.Copy(io.Discard, guest)
		go func() {
			for !opened(c, 3) {
				runtime.Gosched()
			}
			guest.Write(control(t, flagACK, &agentMsg{Started: &startedMsg{PID: 4}}))
		}()
		var out bytes.Buffer
		p, err := c.Start(context.Background(), &Request{Path: "x"}, Stdio{Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		guest.Write(frame(frameData, flagACK, 3, uint32(len(got)), []byte(got)...))
		guest.Write(control(t, 0, &agentMsg{Exited: &exitedMsg{}}))
		guest.Write(control(t, 0, &agentMsg{Drained: &drainedMsg{Stdout: 2}}))
		guest.Close()
		if e, err := p.Wait(); !errors.Is(err, ErrAgentLost) || e == nil || out.String() != got {
			t.Errorf("%+v, %v, %q", e, err, out.String())
		}
	}
}
