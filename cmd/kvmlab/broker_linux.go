package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// brokerConfig is what the process that starts the broker tells it, as JSON in one argument.
type brokerConfig struct {
	Dir      string // the lab's folder in the cache: socket, console log
	Build    string
	Emulator string // root of the emulator's tree, may be empty
	Kernel   string
	Modules  string
	Initrd   string
	MemMiB   int
	CPUs     int
	Idle     time.Duration
}

func socketPath(dir string) string  { return filepath.Join(dir, "socket") }
func consolePath(dir string) string { return filepath.Join(dir, "console.log") }

// bootLimit is how long the emulated machine may take until it answers. It boots in seconds; a machine busy with other work takes longer.
const bootLimit = 3 * time.Minute

// broker owns the emulator: it starts it, accepts clients on the socket, and passes their connections on to the lab.
type broker struct {
	cfg      brokerConfig
	listener net.Listener
	mux      *yamux.Session
	ready    chan struct{} // closed when the lab answered
	ended    chan struct{} // closed when the emulator ended

	mu      sync.Mutex // guards what follows; held for field accesses only
	status  status
	timer   *time.Timer // runs while no command does
	stopped bool        // the lab is ending; new commands are refused

	clients sync.WaitGroup     // connections being served
	kill    context.CancelFunc // ends the emulator
}

// brokerMain is the whole life of a broker process. It writes "ok" to standard output once clients can connect; its errors go
// to standard error, the log of the lab.
func brokerMain(argument string) error {
	var cfg brokerConfig
	if err := json.Unmarshal([]byte(argument), &cfg); err != nil {
		return fmt.Errorf("%w: %w", errNoSession, err)
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT) // it belongs to no terminal
	ctx, kill := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer kill()
	os.Remove(socketPath(cfg.Dir)) // of a broker that was killed; the starter holds the start lock and found nobody listening
	old := syscall.Umask(0o177)    // the socket is for this user only
	listener, err := net.Listen("unix", socketPath(cfg.Dir))
	syscall.Umask(old)
	if err != nil {
		return err
	}
	defer listener.Close() // removes the socket
	b := &broker{cfg: cfg, ready: make(chan struct{}), ended: make(chan struct{}), listener: listener, kill: kill}
	if err := b.startEmulator(ctx); err != nil {
		return err
	}
	fmt.Println("ok")
	os.Stdout.Close()
	go b.accept(listener)
	<-b.ended
	b.stop()
	b.drain()
	return nil
}

// stop ends the lab. The socket is gone when it returns, so that a client that is told so starts another lab at once.
func (b *broker) stop() {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.listener.Close()
	b.kill()
}

// drain gives the connections a moment to tell their clients why the lab ended.
func (b *broker) drain() {
	done := make(chan struct{})
	go func() { b.clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
}

// startEmulator starts the emulator and watches its boot.
func (b *broker) startEmulator(ctx context.Context) error {
	img := image{kernel: b.cfg.Kernel, modules: b.cfg.Modules, initrd: b.cfg.Initrd, emulator: treeAt(b.cfg.Emulator)}
	cmd, err := emulatorCommand(ctx, img, b.cfg.MemMiB, b.cfg.CPUs, b.cfg.Build, b.cfg.Dir)
	if err != nil {
		return err
	}
	os.Rename(consolePath(b.cfg.Dir), consolePath(b.cfg.Dir)+".old") // best effort: the last lab's console, for diagnosis
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	// The kernel kills the emulator when the thread that started it ends: with the broker, however that dies.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		theirs.Close()
		started <- err
		if err != nil {
			return
		}
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "kvmlab broker: emulator:", err)
		}
		ours.Close()
		close(b.ended)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start the emulator: %w", err)
	}
	if b.mux, err = yamux.Client(ours, muxConfig()); err != nil {
		return err
	}
	b.status = status{Version: wireVersion, Build: b.cfg.Build, PID: os.Getpid(), QEMU: cmd.Process.Pid, MemMiB: b.cfg.MemMiB, CPUs: b.cfg.CPUs,
		Started: time.Now(), IdleAfter: b.cfg.Idle, Console: consolePath(b.cfg.Dir)}
	b.timer = time.AfterFunc(b.cfg.Idle, b.stop)
	go b.watchBoot()
	return nil
}

// watchBoot asks the lab until it answers, and ends it when it does not in time.
func (b *broker) watchBoot() {
	limit := time.AfterFunc(bootLimit, func() {
		fmt.Fprintf(os.Stderr, "kvmlab broker: no answer from the lab within %v\n", bootLimit)
		b.stop()
	})
	defer limit.Stop()
	stream, err := b.mux.OpenStream()
	if err != nil {
		return // the emulator ended; b.ended tells
	}
	defer stream.Close()
	var answer reply
	if err := writeLine(stream, request{Version: wireVersion, Op: opStatus}); err != nil {
		return
	}
	if err := readLine(stream, &answer); err != nil {
		return
	}
	b.mu.Lock()
	b.status.Boot = time.Since(b.status.Started)
	b.mu.Unlock()
	close(b.ready)
}

func (b *broker) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // the listener is closed when the broker ends
		}
		b.clients.Add(1)
		go func() {
			defer b.clients.Done()
			b.serve(conn.(*net.UnixConn))
		}()
	}
}

// serve handles one client.
func (b *broker) serve(conn *net.UnixConn) {
	defer conn.Close()
	var req request
	if err := readLine(conn, &req); err != nil {
		return // somebody looked whether anybody listens
	}
	switch {
	case req.Op == opStatus:
		b.mu.Lock()
		st := b.status
		b.mu.Unlock()
		writeLine(conn, reply{Status: &st}) // a client that went away needs no answer, here and below
	case req.Op == opStop:
		b.stop()
		<-b.ended
		writeLine(conn, reply{})
	case req.Op == opExec && req.Version == wireVersion:
		if !b.begin(req.Idle) {
			b.stop()
			writeLine(conn, reply{Error: errStopping})
			return
		}
		defer b.end()
		if err := b.forward(conn, req); err != nil {
			writeLine(conn, reply{Error: err.Error()})
		}
	default:
		writeLine(conn, reply{Error: fmt.Sprintf("the running lab is of another version of kvmlab (asked for %q version %d); end it with kvmlab -stop", req.Op, req.Version)})
	}
}

// errStopping is the reply of a lab that is about to end; the client starts another.
const errStopping = "the lab is stopping"

// begin counts a command in, unless the lab is stopping.
func (b *broker) begin(idle time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || (b.status.Commands == 0 && !b.timer.Stop()) {
		return false // the idle timer has fired
	}
	b.status.Commands++
	b.status.Served++
	if idle > 0 {
		b.status.IdleAfter = idle
	}
	return true
}

// end counts a command out; the last one starts the idle timer.
func (b *broker) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.status.Commands--; b.status.Commands == 0 && !b.stopped {
		b.timer = time.AfterFunc(b.status.IdleAfter, b.stop)
	}
}

// forward passes one client on to the lab. An error means that the client has got no reply yet.
func (b *broker) forward(conn *net.UnixConn, req request) error {
	select {
	case <-b.ready:
	case <-b.ended:
		return b.endedError()
	}
	stream, err := b.mux.OpenStream()
	if err != nil {
		return b.endedError()
	}
	if err := writeLine(stream, req); err != nil {
		stream.Close()
		return b.endedError()
	}
	splice(conn, muxStream{stream})
	return nil
}

// endedError describes a lab that ended, with the end of its console.
func (b *broker) endedError() error {
	<-b.ended
	console, err := os.ReadFile(b.status.Console)
	if err != nil {
		return fmt.Errorf("the emulator ended, and its console log cannot be read: %w", err)
	}
	return fmt.Errorf("the emulated machine ended; the end of its console (%s):\n%s", b.status.Console, tailLines(string(console), 15))
}

// tailLines returns the last n lines of text, without the carriage returns of a console.
func tailLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(text, "\r", "")), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// startBroker starts a broker process of its own session and waits until clients can connect.
func startBroker(cfg brokerConfig) error {
	argument, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(cfg.Dir, "broker.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", brokerCommand, string(argument))
	cmd.Dir = "/"
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the lab's broker: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(out, 16))
	if strings.TrimSpace(string(said)) == "ok" {
		return cmd.Process.Release()
	}
	waitErr := cmd.Wait()
	text, _ := os.ReadFile(log.Name()) // it only adds detail to the error
	return fmt.Errorf("the lab's broker failed: %w: %s", errors.Join(err, waitErr), tailLines(string(text), 5))
}
