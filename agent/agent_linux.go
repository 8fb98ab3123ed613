package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// DefaultPath is PATH in the default environment of every exec.
const DefaultPath = channel.DefaultPath

// Options configures the exec service. The zero value is ready to use.
type Options struct {
	// Build names the agent in the handshake; empty = the module's version.
	Build string
	// Env is "K=V" strings laid over the default environment (PATH, HOME) of
	// every exec.
	Env []string
	// Dir is the working directory of execs that name none; empty = "/".
	Dir string
	// Cgroup is a cgroup v2 directory in which the agent may make one child
	// per exec; empty = none, and then a tree is killed by its process group.
	Cgroup string
	// MaxSessions bounds the execs that run at once; 0 = 1024.
	MaxSessions int
	// ReplayBytes bounds what all detachable sessions keep of their output; 0 =
	// 256 MiB. A session reserves its Request.Replay for each stream.
	ReplayBytes int64
	// Phases and Warnings are passed to the host in the handshake.
	Phases   []channel.Phase
	Warnings []string
	// OnHello is called after the handshake with the host's clock; nil = nothing.
	OnHello func(wall time.Time)
	// Logger; nil = none.
	Logger *slog.Logger

	start int64    // CLOCK_BOOTTIME at start, ns; 0 = now
	kids  children // nil = per-process waiting
}

// Agent runs processes for hosts. It may serve several connections, one after
// the other or at once.
type Agent struct {
	opt     Options
	kids    children
	cgroups *cgroups // nil = none
	execs   atomic.Int64
	table   *table
	wg      sync.WaitGroup  // detachable sessions
	ctx     context.Context // ends at Close
	end     context.CancelFunc
}

// New makes an agent. The only error is an Options.Cgroup that cannot be used.
func New(opt Options) (*Agent, error) {
	if opt.Build == "" {
		opt.Build = buildString()
	}
	if opt.Dir == "" {
		opt.Dir = "/"
	}
	if opt.start == 0 {
		opt.start = bootTime()
	}
	a := &Agent{opt: opt, kids: opt.kids, table: &table{
		maxReplay: opt.ReplayBytes, maxRunning: opt.MaxSessions, byID: make(map[string]*session),
	}}
	if a.table.maxReplay <= 0 {
		a.table.maxReplay = defaultReplayTotal
	}
	if a.table.maxRunning <= 0 {
		a.table.maxRunning = 1024
	}
	a.ctx, a.end = context.WithCancel(context.Background())
	if a.kids == nil {
		a.kids = ownChildren{}
	}
	if opt.Cgroup != "" {
		var err error
		if a.cgroups, err = newCgroups(opt.Cgroup); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Close ends the detachable sessions and removes the agent's cgroups. Call it
// after every Serve has returned.
func (a *Agent) Close() error {
	a.end()
	for _, s := range a.table.all() {
		if s.running() {
			s.terminate(0)
		}
	}
	a.wg.Wait()
	if a.cgroups != nil {
		a.cgroups.close()
	}
	return nil
}

// Serve is New, Agent.Serve and Close in one: it serves one connection.
func Serve(ctx context.Context, conn io.ReadWriteCloser, opt Options) error {
	a, err := New(opt)
	if err != nil {
		conn.Close()
		return err
	}
	defer a.Close()
	return a.Serve(ctx, conn)
}

// Serve talks to one host over conn until the connection or ctx ends. Execs of
// that host are killed then, and conn is closed. It returns nil if the host
// asked for shutdown, and otherwise why it ended, which is never nil.
//
// conn.Close must unblock Read and Write: an *os.File must be in Go's poller,
// which is so if its descriptor was non-blocking at os.NewFile.
func (a *Agent) Serve(ctx context.Context, conn io.ReadWriteCloser) error {
	closeOnExec(conn)
	h := &handler{a: a}
	err := channel.Serve(ctx, conn, h, channel.ServerConfig{
		Hello: channel.Hello{
			Build: a.opt.Build, Kernel: kernelRelease(), PID: os.Getpid(),
			UptimeStart: a.opt.start, UptimeHello: bootTime(),
			Phases: a.opt.Phases, Warnings: a.opt.Warnings[:min(len(a.opt.Warnings), 16)],
		},
		OnHello: a.opt.OnHello, MaxSessions: a.opt.MaxSessions, Logger: a.opt.Logger,
	})
	if errors.Is(err, channel.ErrShutdown) {
		return nil
	}
	return err
}

// closeOnExec keeps the connection from the processes that the agent starts: one
// that held it could speak for the agent and keep it open after its death.
func closeOnExec(conn any) {
	if sc, ok := conn.(syscall.Conn); ok {
		if rc, err := sc.SyscallConn(); err == nil {
			_ = rc.Control(func(fd uintptr) { unix.CloseOnExec(int(fd)) })
		}
	}
}

// handler serves one connection.
type handler struct{ a *Agent }

func (h *handler) Exec(ctx context.Context, x *channel.Exec) {
	if x.Request().Detachable {
		h.execDetachable(ctx, x)
		return
	}
	s := &session{a: h.a, x: x, req: x.Request(), ctx: ctx}
	if f := s.start(); f != nil {
		x.Failed(f)
		return
	}
	h.a.execs.Add(1)
	s.run()
}

func (h *handler) Stats() channel.Stats {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st := channel.Stats{
		Goroutines: runtime.NumGoroutine(), FDs: countFDs(), Execs: h.a.execs.Load(),
		HeapBytes: int64(m.HeapAlloc), SysBytes: int64(m.Sys), Uptime: bootTime(),
		Zombies: countZombies(), Reaped: h.a.kids.orphans(),
	}
	h.a.table.mu.Lock()
	st.Detachable, st.Replay = len(h.a.table.byID), h.a.table.replay
	h.a.table.mu.Unlock()
	if h.a.cgroups != nil {
		st.Cgroups = h.a.cgroups.count()
	}
	return st
}

// Shutdown has nothing to do: Serve returns nil, and the caller decides.
func (h *handler) Shutdown(bool) {}

// bootTime is CLOCK_BOOTTIME in ns.
func bootTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func buildString() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return runtime.Version()
	}
	s := bi.Main.Path + " " + bi.Main.Version + " " + runtime.Version()
	for _, kv := range bi.Settings {
		if kv.Key == "vcs.revision" {
			s += " " + kv.Value[:min(12, len(kv.Value))]
		}
	}
	return s
}

// countFDs is the number of open descriptors, or -1 without /proc.
func countFDs() int {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return -1
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return -1
	}
	return len(names) - 1 // without d
}
