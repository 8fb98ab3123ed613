//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

func TestRelaysThatUseOneSessionIDAtOnceGetNoForeignBytes(t *testing.T) {
	direct := connect(t, agent.Options{})
	clients := []*channel.Client{relayed(t, direct, nil), relayed(t, direct, nil), direct}
	var started [3]int
	for round := range 100 {
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				in := strings.Repeat(fmt.Sprintf("of %d in round %d\n", i, round), 50)
				var out bytes.Buffer
				p, err := c.Start(context.Background(), &channel.Request{Session: "same", Path: "cat"},
					channel.Stdio{Stdin: strings.NewReader(in), Stdout: &out})
				var se *channel.StartError
				if errors.As(err, &se) && se.Stage == channel.StageSession {
					return // another one has it
				}
				if err != nil {
					t.Errorf("client %d, round %d: %v", i, round, err)
					return
				}
				started[i]++
				if e, err := p.Wait(); err != nil || e.Code != 0 || e.StdinErr != nil || out.String() != in {
					t.Errorf("client %d, round %d: %+v, %v, %.60q", i, round, e, err, out.String())
				}
			})
		}
		wg.Wait()
	}
	if started[0]+started[1]+started[2] < 100 {
		t.Errorf("%v starts in 100 rounds", started)
	}
}
