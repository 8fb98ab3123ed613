package agent

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is a process that an exec owns.
type child struct {
	pid    int
	done   chan struct{}      // closed when it is reaped
	status syscall.WaitStatus // final after done
	usage  syscall.Rusage
	mu     *sync.RWMutex // held for writing while the process is reaped
	reaped bool
}

// signal sends sig to the process or its group. A reaped process is ESRCH: its
// number may belong to another one already.
func (c *child) signal(sig syscall.Signal, group bool) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.reaped {
		return unix.ESRCH
	}
	pid := c.pid
	if group {
		pid = -pid
	}
	return unix.Kill(pid, sig)
}

// children starts and reaps processes.
type children interface {
	// spawn runs fn, which starts a process and returns its ID, so that the
	// process cannot be reaped before it is registered.
	spawn(fn func() (pid int, err error)) (*child, error)
	// orphans is how many processes were reaped that nobody waited for.
	orphans() int64
}

// ownChildren waits for each process on its own and touches no other child of
// this process: the way of a program that is not process 1.
type ownChildren struct{}

func (ownChildren) orphans() int64 { return 0 }

func (ownChildren) spawn(fn func() (int, error)) (*child, error) {
	pid, err := fn()
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, done: make(chan struct{}), mu: new(sync.RWMutex)}
	go c.wait()
	return c, nil
}

// wait waits for one process: on a pidfd in Go's poller, because 1000 blocking
// waits would be 1000 threads, or blocking where the kernel has none.
func (c *child) wait() {
	defer close(c.done)
	if fd, err := unix.PidfdOpen(c.pid, unix.PIDFD_NONBLOCK); err == nil {
		f := os.NewFile(uintptr(fd), "pidfd")
		waitReadable(f)
		f.Close()
	} else {
		for unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		_, err := syscall.Wait4(c.pid, &c.status, 0, &c.usage)
		if err != syscall.EINTR {
			break
		}
	}
	c.reaped = true
}

// waitReadable blocks until f is readable, or at an error.
func waitReadable(f *os.File) {
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
}

// allChildren reaps everything: the way of process 1. One lock makes starting
// and reaping exclude each other: a process that exits at once is not reaped
// before spawn has registered it.
type allChildren struct {
	mu     sync.RWMutex // read: start and signal; write: reap
	ownMu  sync.Mutex
	own    map[int]*child
	others atomic.Int64
}

// newAllChildren starts the reaper, which runs until the process ends.
func newAllChildren() *allChildren {
	a := &allChildren{own: make(map[int]*child)}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGCHLD)
	go func() {
		for range ch {
			a.reap()
		}
	}()
	return a
}

func (a *allChildren) orphans() int64 { return a.others.Load() }

func (a *allChildren) spawn(fn func() (int, error)) (*child, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	pid, err := fn()
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, done: make(chan struct{}), mu: &a.mu}
	a.ownMu.Lock()
	defer a.ownMu.Unlock()
	a.own[pid] = c
	return c, nil
}

// reap takes every process that has exited.
func (a *allChildren) reap() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		var st syscall.WaitStatus
		var ru syscall.Rusage
		pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, &ru)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		c := a.own[pid]
		if c == nil {
			a.others.Add(1)
			continue
		}
		delete(a.own, pid)
		c.status, c.usage, c.reaped = st, ru, true
		close(c.done)
	}
}

// countZombies is the number of this process's children that are zombies.
func countZombies() int {
	self := strconv.Itoa(os.Getpid())
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return -1
	}
	n := 0
	for _, e := range entries {
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The name in parentheses may contain anything; state and parent follow it.
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(f) > 1 && string(f[0]) == "Z" && string(f[1]) == self {
			n++
		}
	}
	return n
}
