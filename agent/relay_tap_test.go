//go:build linux

package agent_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// order is a tap that checks the order of its calls.
type order struct {
	t       *testing.T
	started bool
	bytes   int64
	ended   chan int64
}

func (o *order) Exec(*channel.Request) channel.ExecTap { return o }
func (o *order) Started(int)                           { o.started = true }
func (o *order) Output(_ bool, p []byte) {
	if !o.started {
		o.t.Error("output before the start")
	}
	select {
	case <-o.ended:
		o.t.Error("output after the end")
	default:
	}
	o.bytes += int64(len(p))
}

func (o *order) Ended(*channel.Exit, error) {
	o.ended <- o.bytes
	close(o.ended)
}

func TestTapHearsOfTheEndAfterAllOutput(t *testing.T) {
	direct := connect(t, agent.Options{})
	for i := range 50 {
		o := &order{t: t, ended: make(chan int64, 2)}
		c := relayed(t, direct, o)
		n := 1 << (i % 20)
		r, err := tryRun(c, sh(fmt.Sprintf("head -c %d /dev/zero", n)), strings.NewReader(""))
		if err != nil || len(r.stdout) != n {
			t.Fatalf("%d bytes, %v", len(r.stdout), err)
		}
		if got := <-o.ended; got != int64(n) {
			t.Errorf("the tap had seen %d of %d bytes at the end", got, n)
		}
	}
}
