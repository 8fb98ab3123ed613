package channel

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestExitRecordsThatNoProcessCanHaveAreInvalid(t *testing.T) {
	for _, tc := range []struct {
		code, signal int
		want         bool
	}{
		{0, 0, true}, {255, 0, true}, {-1, 9, true}, {-1, int(maxSignal), true},
		{256, 0, false}, {-1, 0, false}, {0, 9, false}, {-1, -9, false}, {-1, int(maxSignal) + 1, false}, {1 << 40, 0, false},
	} {
		if got := (&exitedMsg{Code: tc.code, Signal: tc.signal}).valid(); got != tc.want {
			t.Errorf("code %d, signal %d: valid = %v, want %v", tc.code, tc.signal, got, tc.want)
		}
	}
}

func TestATimeoutThatNobodyAskedForEndsTheSession(t *testing.T) {
	for _, tc := range []struct {
		timeout time.Duration
		attach  *AttachRequest
		want    bool
	}{{0, nil, false}, {time.Second, nil, true}, {0, &AttachRequest{}, true}} { // whoever comes back does not know what was asked for
		host, guest := net.Pipe()
		c := &Client{done: make(chan struct{}), guard: newGuard(host)}
		p := &Process{c: c, attach: tc.attach, started: make(chan struct{}), exited: make(chan struct{}), done: make(chan struct{})}
		p.req.Timeout = tc.timeout
		close(p.started)
		_, err := p.handle(&agentMsg{Exited: &exitedMsg{Code: -1, Signal: 9, TimedOut: true}})
		var pe *ProtocolError
		if got := err == nil; got != tc.want || !got && !errors.As(err, &pe) {
			t.Errorf("timeout %v, attached %v: %v", tc.timeout, tc.attach != nil, err)
		}
		c.guard.Close()
		guest.Close()
		<-c.guard.done
	}
}
