package sandbox

import (
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// faultBurst lines per faultPeriod is what a guest can make a sandbox log about its devices.
	faultBurst  = 10
	faultPeriod = 5 * time.Second
)

// faultLog reports device faults, which a guest can cause at will and as fast as it likes. They are reported on virtual CPU threads and under
// device locks, where the caller's log handler must not run: it may be slow. So a goroutine of its own writes them, at a bounded rate, and
// counts what it leaves out.
type faultLog struct {
	log     *slog.Logger
	faults  chan error
	dropped atomic.Uint64
	limit   *rate.Limiter
	done    chan struct{}
}

func newFaultLog(log *slog.Logger) *faultLog {
	return &faultLog{
		log: log, faults: make(chan error, faultBurst), done: make(chan struct{}),
		limit: rate.NewLimiter(rate.Every(faultPeriod/faultBurst), faultBurst),
	}
}

// report notes a fault and returns at once.
func (f *faultLog) report(err error) {
	if f.limit.Allow() {
		select {
		case f.faults <- err:
			return
		default:
		}
	}
	f.dropped.Add(1)
}

// run writes until stop is closed. The machine does not wait for it: the caller's handler may hang.
func (f *faultLog) run(stop <-chan struct{}) {
	defer close(f.done)
	for {
		select {
		case err := <-f.faults:
			f.log.Warn("socket device fault", "err", err, "suppressed", f.dropped.Swap(0))
		case <-stop:
			return
		}
	}
}
