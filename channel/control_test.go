package channel

import (
	"context"
	"errors"
	"os"
	"testing"
)

// lateHandler runs a process that the first signal ends; the answer to the
// signal comes after the exit record.
type lateHandler struct{ echoHandler }

func (lateHandler) Exec(_ context.Context, x *Exec) {
	_ = x.Started(1)
	c := <-x.Controls()
	_ = x.Exited(&Exit{Code: -1, Signal: c.Signal.Sig})
	_ = x.SignalDone(c.Signal.Seq, 0)
	x.Drained(&Exit{})
}

func TestSignalThatEndsTheProcessWasDelivered(t *testing.T) {
	c := clientOf(t, lateHandler{}, ServerConfig{})
	for range 200 {
		p, err := c.Start(context.Background(), &Request{Path: "x"}, Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(context.Background(), SIGTERM, true); err != nil {
			t.Fatalf("the signal that ended the process: %v", err)
		}
		if e, err := p.Wait(); err != nil || e.Signal != SIGTERM {
			t.Fatalf("%+v, %v", e, err)
		}
		if err := p.Signal(context.Background(), SIGTERM, true); !errors.Is(err, os.ErrProcessDone) {
			t.Fatalf("a signal after the end: %v", err)
		}
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
