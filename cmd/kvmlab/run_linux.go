package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/hutchvm/hutch/channel"
)

// insideEnv is set for every command in the lab.
const insideEnv = "KVMLAB"

// forwarded are the signals that are passed on to the command.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}

// run is one invocation. It returns the exit code, and an error to print when kvmlab itself has something to say.
func run(args []string) (int, error) {
	cfg, err := parseArgs(os.Getenv(argsEnv), args)
	if err != nil {
		return exitOwn, err
	}
	if cfg.mode == modeHelp {
		fmt.Print(usage)
		return 0, nil
	}
	if cfg.mode == modeRun && !cfg.force && hardwareKVM() {
		return runDirectly(cfg)
	}
	l, err := openLab(progressTo(cfg))
	if err != nil {
		return exitOwn, err
	}
	switch cfg.mode {
	case modeStatus:
		return l.printStatus()
	case modeStop:
		if _, err := l.simple(opStop); err != nil && !errors.Is(err, errNoLab) {
			return exitOwn, err
		}
		return 0, nil
	}
	return l.run(cfg)
}

// progressTo returns where to say what takes time: on standard error when a person reads it or asked for it. Otherwise standard error is
// the command's alone.
func progressTo(cfg config) func(string) {
	if !cfg.verbose && !term.IsTerminal(int(os.Stderr.Fd())) {
		return func(string) {}
	}
	start := time.Now()
	return func(s string) { fmt.Fprintf(os.Stderr, "kvmlab: %6.2fs %s\n", time.Since(start).Seconds(), s) }
}

// printStatus prints what runs. The exit code is 0 with a running lab and 1 without.
func (l *lab) printStatus() (int, error) {
	r, err := l.simple(opStatus)
	if errors.Is(err, errNoLab) {
		fmt.Println("no lab runs")
		return 1, nil
	}
	if err != nil {
		return exitOwn, err
	}
	st := r.Status
	if st == nil {
		return exitOwn, errors.New("the lab's broker sent no status")
	}
	boot := "booting"
	if st.Boot > 0 {
		boot = fmt.Sprintf("booted in %.2fs", st.Boot.Seconds())
	}
	fmt.Printf("lab runs since %s (%s), %d MiB, %d processors\n", st.Started.Format(time.DateTime), boot, st.MemMiB, st.CPUs)
	fmt.Printf("commands: %d now, %d in all; stops %v after the last\n", st.Commands, st.Served, st.IdleAfter)
	fmt.Printf("broker pid %d, emulator pid %d, console %s\n", st.PID, st.QEMU, st.Console)
	return 0, nil
}

// run runs the command in the lab.
func (l *lab) run(cfg config) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)

	dir, err := os.Getwd()
	if err != nil {
		return exitOwn, fmt.Errorf("working directory: %w", err)
	}
	conn, code, err := l.connectOrSignal(cfg, signals)
	if err != nil || code != 0 {
		return code, err
	}
	client, err := channel.NewClient(context.Background(), conn, channel.Config{HandshakeTimeout: startPatience, CancelWait: cancelPatience})
	if err != nil {
		return exitOwn, fmt.Errorf("the lab's agent: %w", err)
	}
	defer client.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if cfg.timeout > 0 {
		limited, stop := context.WithTimeout(ctx, cfg.timeout)
		defer stop()
		ctx = limited
	}
	request := channel.Request{Path: cfg.command[0], Args: cfg.command, ClearEnv: true, Env: commandEnv(os.Environ()), Dir: dir}
	process, err := client.Start(ctx, &request, channel.Stdio{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	var start *channel.StartError
	switch {
	case errors.As(err, &start):
		return start.ShellExitCode(), err
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout, fmt.Errorf("%s: not started within -timeout %v", cfg.command[0], cfg.timeout)
	case err != nil:
		return exitOwn, err
	}
	var hung atomic.Bool
	go forwardSignals(process, signals, func() { hung.Store(true); cancel() })
	exit, err := process.Wait()
	switch {
	case hung.Load() && err != nil:
		return exitOwn, fmt.Errorf("the lab did not take a signal for %v: it hangs, end it with kvmlab -stop", signalPatience)
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout, fmt.Errorf("%s: killed after -timeout %v", cfg.command[0], cfg.timeout)
	case err != nil:
		return exitOwn, l.explain(err)
	case exit.Signal != 0:
		return exitSignalBase + int(exit.Signal), nil
	}
	return exit.Code, nil
}

const (
	// startPatience is for the lab's agent to answer: it is a process of a slow machine that others use as well.
	startPatience = 3 * time.Minute
	// cancelPatience is for the lab to confirm that a command that ran out of time is dead.
	cancelPatience = 15 * time.Second
	// signalPatience is for the lab to confirm a signal.
	signalPatience = 20 * time.Second
)

// connectOrSignal connects to the lab. A signal that arrives meanwhile ends the attempt with the code that it would have caused.
func (l *lab) connectOrSignal(cfg config, signals <-chan os.Signal) (conn *net.UnixConn, code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*startPatience)
	defer cancel()
	type result struct {
		conn *net.UnixConn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := l.connect(ctx, cfg)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, exitOwn, r.err
		}
		return r.conn, 0, nil
	case s := <-signals:
		cancel()
		if r := <-done; r.conn != nil {
			r.conn.Close()
		}
		return nil, exitSignalBase + int(s.(syscall.Signal)), nil
	}
}

// forwardSignals passes signals on until the command ends. What a terminal sends to its whole foreground group goes to the command's
// whole group; the rest goes to the command alone, as it would without the lab. A lab that does not confirm a signal within
// signalPatience hangs: giveUp ends the wait for the command then, so that kvmlab itself can always be ended.
func forwardSignals(process *channel.Process, signals <-chan os.Signal, giveUp func()) {
	for {
		select {
		case s := <-signals:
			group := s == syscall.SIGINT && term.IsTerminal(int(os.Stdin.Fd()))
			ctx, cancel := context.WithTimeout(context.Background(), signalPatience)
			err := process.Signal(ctx, channel.Signal(s.(syscall.Signal)), group)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				giveUp()
				return
			}
		case <-process.Done():
			return
		}
	}
}

// explain adds the lab's own end to an error of a lost connection.
func (l *lab) explain(err error) error {
	if !errors.Is(err, channel.ErrAgentLost) {
		return err
	}
	console, readErr := os.ReadFile(consolePath(l.dir))
	if readErr != nil {
		return err
	}
	return fmt.Errorf("the command was lost (did the lab stop, or run out of memory?): %w; the end of the lab's console (%s):\n%s",
		err, consolePath(l.dir), tailLines(string(console), 15))
}

// commandEnv is the environment of a command in the lab: ours, without entries that are no variables, and with a mark.
func commandEnv(env []string) []string {
	clean := slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.IndexByte(kv, '=') <= 0 || strings.HasPrefix(kv, insideEnv+"=")
	})
	return append(clean, insideEnv+"=1")
}

// hardwareKVM reports whether this machine can do itself what the lab is for.
func hardwareKVM() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !hasVirtualisation(string(info)) {
		return false
	}
	return unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil
}

// hasVirtualisation looks for AMD's or Intel's flag in the text of /proc/cpuinfo.
func hasVirtualisation(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		key, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(key) != "flags" {
			continue
		}
		flags := strings.Fields(value)
		return slices.Contains(flags, "svm") || slices.Contains(flags, "vmx")
	}
	return false
}

// runDirectly runs the command on this machine; without a time limit it takes this process's place.
func runDirectly(cfg config) (int, error) {
	path, err := exec.LookPath(cfg.command[0])
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return exitNotExecutable, err
		}
		return exitNotFound, err
	}
	if cfg.timeout == 0 {
		err := syscall.Exec(path, cfg.command, os.Environ())
		return exitNotExecutable, fmt.Errorf("%s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cfg.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, cfg.command[1:]...)
	cmd.Args[0] = cfg.command[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.WaitDelay = 2 * time.Second
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return exitNotExecutable, err
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s) // it fails when the command ended meanwhile
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return exitTimeout, fmt.Errorf("%s: killed after -timeout %v", cfg.command[0], cfg.timeout)
	case errors.As(err, &exit):
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return exitSignalBase + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	case err != nil:
		return exitOwn, err
	}
	return 0, nil
}
