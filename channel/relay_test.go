package channel

import (
	"io"
	"testing"
)

func TestRelayNumbersLastAsLongAsTheirStreams(t *testing.T) {
	c, guest := fakeAgent(t)
	go io.Copy(io.Discard, guest)
	defer c.Close()
	r := &relay{c: c, numbers: make(map[meetKey]*number)}
	a, b := meetKey{"s", 1}, meetKey{"s", 2}
	first := r.number(a)
	if again, other := r.number(a), r.number(b); again != first || other == first {
		t.Fatalf("numbers %d, %d, %d", first, again, other)
	}
	r.forget(a)
	if r.number(a) != first {
		t.Error("a number changed while a stream of it was open")
	}
	for range 2 {
		r.forget(a)
	}
	r.forget(b)
	if len(r.numbers) != 0 {
		t.Errorf("%d numbers are left", len(r.numbers))
	}
}

// A hostile agent's output of an exec that it never started, and its end.
func TestTapIsNotToldOutputOfWhatWasNotStarted(t *testing.T) {
	c, guest := fakeAgent(t)
	go io.Copy(io.Discard, guest)
	defer c.Close()
	r := &relay{c: c, taps: make(map[meetKey]*tapped)}
	k := meetKey{"s", 1}
	told := &told{ended: make(chan struct{})}
	x := &tapped{tap: told, begun: make(chan struct{})}
	r.taps[k] = x
	out := &outputTap{w: io.Discard, r: r, k: k}
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer out.end()
		out.Write([]byte("x"))
	}()
	r.ended(k, &controlTap{tap: told, exec: x})
	<-written
	<-told.ended
	if told.output {
		t.Error("the tap was told")
	}
}

type told struct {
	output bool
	ended  chan struct{}
}

func (*told) Started(int)           {}
func (t *told) Output(bool, []byte) { t.output = true }
func (t *told) Ended(*Exit, error)  { close(t.ended) }
