//go:build linux

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// badAgent is an agent whose connections are badLinks.
type badAgent struct {
	t      *testing.T
	a      *agent.Agent
	serves sync.WaitGroup
}

func newBadAgent(t *testing.T) *badAgent {
	t.Helper()
	a, err := agent.New(agent.Options{Build: "test"})
	if err != nil {
		t.Fatal(err)
	}
	b := &badAgent{t: t, a: a}
	t.Cleanup(func() { b.serves.Wait(); a.Close() })
	return b
}

// dial connects over a link with faults. hangUp ends the connection and returns
// when nothing of it is left.
func (b *badAgent) dial(seed uint64, toGuest, toHost linkFaults) (c *channel.Client, l *badLink, hangUp func(), err error) {
	l, host, guest := newBadLink(seed, toGuest, toHost)
	served := make(chan struct{})
	b.serves.Go(func() {
		defer close(served)
		b.a.Serve(context.Background(), guest)
	})
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	c, err = channel.NewClient(ctx, host, channel.Config{})
	hangUp = func() {
		if c != nil {
			c.Close()
		}
		l.Close()
		select {
		case <-served:
		case <-time.After(longTime):
			b.t.Errorf("seed %d: the agent did not notice the end of the connection", seed)
		}
	}
	return c, l, hangUp, err
}

// clear ends what cut connections left in the agent, which must be there for a
// new client, and forgets it.
func (b *badAgent) clear() {
	b.t.Helper()
	c, _, hangUp, err := b.dial(0, linkFaults{}, linkFaults{})
	defer hangUp()
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	list, err := c.Sessions(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range list {
		p, err := c.Attach(ctx, s.ID, channel.AttachRequest{}, channel.Stdio{Stdout: io.Discard, Stderr: io.Discard})
		if err != nil {
			b.t.Fatalf("session %q after a cut: %v", s.ID, err)
		}
		p.Kill() // or it has ended
		if _, err := p.Wait(); err != nil {
			b.t.Fatalf("session %q after a cut: %v", s.ID, err)
		}
		if err := c.Forget(ctx, s.ID); err != nil {
			b.t.Fatalf("session %q after a cut: %v", s.ID, err)
		}
	}
}

// testSeed is the seed of a randomised test: HUTCH_SEED, or a new one.
func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("HUTCH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("HUTCH_SEED: %v", err)
		}
	}
	t.Logf("seed %d (HUTCH_SEED repeats it)", seed)
	return seed
}

// campaign is how long a randomised test runs: HUTCH_CAMPAIGN, or usual.
func campaign(t *testing.T, usual time.Duration) time.Duration {
	t.Helper()
	s := os.Getenv("HUTCH_CAMPAIGN")
	if s == "" {
		return usual
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("HUTCH_CAMPAIGN: %v", err)
	}
	return d
}

var badTransports = map[string]linkFaults{
	"one byte at a time": {Piece: 1},
	"odd pieces":         {Piece: 13},
	"late":               {Delay: time.Millisecond},
	"reordered":          {Reorder: true, Delay: 300 * time.Microsecond},
	"stalls":             {StallEvery: 20, Stall: 5 * time.Millisecond},
	"all at once":        {Piece: 997, Reorder: true, Delay: 300 * time.Microsecond, StallEvery: 100, Stall: 5 * time.Millisecond},
}

func TestBadTransportsChangeNoResult(t *testing.T) {
	for name, f := range badTransports {
		t.Run(name, func(t *testing.T) {
			seed := testSeed(t)
			c, l, hangUp, err := newBadAgent(t).dial(seed, f, f)
			defer hangUp()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), longTime)
			defer cancel()
			var wg sync.WaitGroup
			for i, s := range scenarios {
				wg.Go(func() {
					if err := s.run(ctx, c, rand.New(rand.NewPCG(seed, uint64(i))), s.name); err != nil {
						t.Errorf("%s: %v", s.name, err)
					}
				})
			}
			wg.Wait()
			if err := parallelScenario(ctx, c, 64); err != nil {
				t.Error(err)
			}
			st, err := c.Stats(ctx)
			if err != nil || st.Sessions != 0 || st.Detachable != 0 {
				t.Errorf("afterwards: %+v, %v", st, err)
			}
			if f.Reorder && l.Overtaken() == 0 {
				t.Error("no frame overtook another one")
			}
		})
	}
}

// randomFaults makes one direction of a link.
func randomFaults(rng *rand.Rand, cut bool) (f linkFaults) {
	pick := func() bool { return rng.IntN(2) == 0 }
	if pick() {
		f.Piece = []int{1, 2, 3, 11, 12, 13, 97, 4097}[rng.IntN(8)]
	}
	f.Reorder = pick()
	if pick() || f.Reorder {
		f.Delay = time.Duration(1+rng.IntN(500)) * time.Microsecond
	}
	if pick() {
		f.StallEvery, f.Stall = 1+rng.IntN(200), time.Duration(rng.IntN(10))*time.Millisecond
	}
	if cut && pick() {
		f.Cut = 1 + rng.Int64N(8000)
	}
	return f
}

func TestCampaignOverBadTransports(t *testing.T) {
	seed := testSeed(t)
	b := newBadAgent(t)
	runtime.GC()
	goroutines, rounds, cuts := runtime.NumGoroutine(), 0, 0
	for end := time.Now().Add(campaign(t, 2*time.Second)); time.Now().Before(end) && !t.Failed(); rounds++ {
		rng := rand.New(rand.NewPCG(seed, uint64(rounds)))
		cut := rng.IntN(3) == 0
		up, down := randomFaults(rng, cut), randomFaults(rng, cut)
		where := fmt.Sprintf("seed %d round %d, to the guest %+v, to the host %+v", seed, rounds, up, down)
		if err := campaignRound(b, rng, up, down, rounds); err != nil {
			// A cancelled exec may say so and no more when the cut came after that.
			if up.Cut+down.Cut == 0 || !errors.Is(err, channel.ErrAgentLost) && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", where, err)
			}
			cuts++
			b.clear()
		}
		noGoroutinesOver(t, goroutines, where)
	}
	t.Logf("%d rounds, %d of them cut", rounds, cuts)
}

// noGoroutinesOver waits until no more than n goroutines are left.
func noGoroutinesOver(t *testing.T, n int, where string) {
	t.Helper()
	for end := time.Now().Add(longTime / 4); runtime.NumGoroutine() > n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b := make([]byte, 1<<20)
			t.Fatalf("%s: %d goroutines, %d before:\n%s", where, runtime.NumGoroutine(), n, b[:runtime.Stack(b, true)])
		}
	}
}

// campaignRound runs some scenarios at once on a connection of its own. Every
// error but the one of a cut connection is reported as such, a wrong one first.
func campaignRound(b *badAgent, rng *rand.Rand, up, down linkFaults, round int) error {
	c, _, hangUp, err := b.dial(rng.Uint64(), up, down)
	defer hangUp()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), longTime)
	defer cancel()
	n := 1 + rng.IntN(6)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		s, r := scenarios[rng.IntN(len(scenarios))], rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			if err := s.run(ctx, c, r, fmt.Sprintf("%d-%d", round, i)); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.name, err)
			}
		})
	}
	wg.Wait()
	var lost error
	for _, err := range errs {
		switch {
		case err == nil:
		case errors.Is(err, channel.ErrAgentLost):
			lost = err
		default:
			return err
		}
	}
	return lost
}
