package agent

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// defaultWaitDelay is Request.WaitDelay's default.
const defaultWaitDelay = 2 * time.Second

// session is one exec from its start to its totals.
type session struct {
	a   *Agent
	x   *channel.Exec
	req *channel.Request
	ctx context.Context

	child  *child
	cgMu   sync.Mutex // a killer must not meet the cgroup's next exec
	cgroup *cgroup    // nil = none, or given back
	tty    *os.File   // our duplicate of the terminal, for resizing; nil without TTY
	stdin  *inCopy    // nil = /dev/null
	outs   []*outCopy
	begun  time.Time

	timedOut atomic.Bool
	killed   atomic.Bool   // somebody wants the tree dead
	over     chan struct{} // closed when the exec is over

	// Of a detachable session.
	rings    [2]*ring // stdout, stderr; nil = the session is not detachable, or has no stderr of its own
	sink     *stdinSink
	exited   chan struct{} // closed when record is there
	recMu    sync.Mutex
	record   *channel.Exit
	watchers atomic.Int32
	// Guarded by the table's mu.
	seq      int64
	ready    bool
	reserved int64
	endedAt  time.Time
}

// detachable reports whether the session outlives its control stream.
func (s *session) detachable() bool { return s.rings[0] != nil }

// dests are where the outputs go; nil = nowhere.
func (s *session) dests() (d [2]io.WriteCloser) {
	if s.detachable() {
		for i, r := range s.rings {
			if r != nil {
				d[i] = r
			}
		}
		return d
	}
	for i, out := range []*channel.OutStream{s.x.Stdout(), s.x.Stderr()} {
		if out != nil {
			d[i] = out
		}
	}
	return d
}

// takeStdin makes f, our end of the process's stdin, the session's.
func (s *session) takeStdin(f *os.File, tty bool) {
	if s.detachable() {
		s.sink = &stdinSink{f: f, tty: tty}
	} else {
		s.stdin = &inCopy{r: s.x.Stdin(), f: f, tty: tty, done: make(chan struct{})}
	}
}

// run serves a started session.
func (s *session) run() {
	s.over = make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(s.over)
	_ = s.x.Started(s.child.pid) // an error shows as the end of ctx
	for _, o := range s.outs {
		wg.Go(o.copy)
	}
	if s.stdin != nil {
		wg.Go(func() { s.stdin.copy(s.x) })
	}
	wg.Go(s.control)
	if s.req.Timeout > 0 {
		t := time.AfterFunc(s.req.Timeout, func() {
			s.timedOut.Store(true)
			s.terminate(s.req.Grace)
		})
		defer t.Stop()
	}
	<-s.child.done
	e := s.exit()
	_ = s.x.Exited(e)
	if s.stdin != nil {
		s.stdin.cancel()
		<-s.stdin.done
		e.Stdin = s.stdin.n.Load()
	}
	s.drain(e)
	s.leaveCgroup()
	if s.tty != nil {
		s.tty.Close()
	}
	s.x.Drained(e)
}

// leaveCgroup gives the cgroup back. What a killed exec left there dies; what
// one that ended by itself left goes on.
func (s *session) leaveCgroup() {
	s.cgMu.Lock()
	defer s.cgMu.Unlock()
	if s.cgroup == nil {
		return
	}
	if s.killed.Load() {
		s.cgroup.kill()
	}
	s.a.cgroups.release(s.cgroup)
	s.cgroup = nil
}

// exit makes the exit record of the reaped child.
func (s *session) exit() *channel.Exit {
	st, ru := s.child.status, s.child.usage
	e := &channel.Exit{
		Code: st.ExitStatus(), TimedOut: s.timedOut.Load(), Wall: time.Since(s.begun),
		Usage: channel.Rusage{
			User: time.Duration(ru.Utime.Nano()), System: time.Duration(ru.Stime.Nano()), MaxRSS: int64(ru.Maxrss) << 10,
			MinFlt: int64(ru.Minflt), MajFlt: int64(ru.Majflt), InBlk: int64(ru.Inblock), OutBlk: int64(ru.Oublock),
			NVCSw: int64(ru.Nvcsw), NIvCSw: int64(ru.Nivcsw),
		},
	}
	if st.Signaled() {
		e.Code, e.Signal, e.Core = -1, channel.Signal(st.Signal()), st.CoreDump()
	}
	if s.cgroup != nil {
		e.OOM = s.cgroup.oomKilled()
	}
	return e
}

// drain waits for the end of the outputs, after the exit at most WaitDelay
// while a descendant holds them.
func (s *session) drain(e *channel.Exit) {
	delay := s.req.WaitDelay
	if delay == 0 {
		delay = defaultWaitDelay
	}
	if delay > 0 {
		t := time.AfterFunc(delay, s.cutOutputs)
		defer t.Stop()
	}
	stop := context.AfterFunc(s.ctx, s.cutOutputs)
	defer stop()
	for _, o := range s.outs {
		<-o.done
		if o.stderr {
			e.Stderr = o.n
		} else {
			e.Stdout = o.n
		}
		e.Orphaned = e.Orphaned || o.cut
	}
}

func (s *session) cutOutputs() {
	for _, o := range s.outs {
		o.f.SetReadDeadline(time.Unix(1, 0))
	}
}

// control obeys the host until it goes away, which kills the exec.
func (s *session) control() {
	for {
		select {
		case <-s.over:
			return
		case c, ok := <-s.x.Controls():
			switch {
			case !ok:
				s.terminate(0)
				return
			case c.Signal != nil:
				_ = s.x.SignalDone(c.Signal.Seq, errnoOf(s.child.signal(syscall.Signal(c.Signal.Sig), c.Signal.Group)))
			case c.Kill != nil:
				s.terminate(c.Kill.Grace)
			case c.Resize != nil && s.tty != nil:
				_ = setSize(s.tty, c.Resize.Rows, c.Resize.Cols)
			}
		}
	}
}

// terminate ends the tree: SIGTERM, then after grace SIGKILL. It returns at once.
func (s *session) terminate(grace time.Duration) {
	s.killed.Store(true)
	if grace <= 0 {
		s.killTree()
		return
	}
	_ = s.child.signal(unix.SIGTERM, true)
	_ = s.child.signal(unix.SIGCONT, true) // a stopped process cannot handle SIGTERM
	go func() {
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-t.C:
			s.killTree()
		case <-s.over:
		}
	}()
}

// killTree kills everything that the exec started.
func (s *session) killTree() {
	s.cgMu.Lock()
	if s.cgroup != nil {
		s.cgroup.kill()
	}
	s.cgMu.Unlock()
	_ = s.child.signal(unix.SIGKILL, true)
}
