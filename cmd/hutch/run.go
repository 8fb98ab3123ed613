package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

type runFlags struct {
	env         []string
	dir         string
	user        string
	timeout     time.Duration
	rlimits     []string
	limits      []sandbox.Rlimit // rlimits, parsed by check
	cpus        int
	memory      string
	kernel      string
	initramfs   string
	console     string
	bootTimeout time.Duration
	verbose     bool
}

func newRun() *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run [flags] [--] CMD [ARG...]",
		Short: "Boot a microVM, run a command in it, and exit with the command's code",
		Long: `run boots a microVM, runs CMD in it and exits with its code. Standard input, output and error are passed through unchanged; on success
hutch prints nothing of its own. Flags end at CMD or at --.`,
		Example: `  hutch run -- uname -a
  hutch run -w /tmp -- sh -c 'pwd; exit 3'; echo $?
  tar c . | hutch run -m 1G -- sh -c 'cat | sha256sum'
  hutch run -k linux-image-cloud-amd64 --timeout 30s -- dmesg`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "" {
				return errors.New("run: no command is given; an example: hutch run -- uname -a (hutch run --help lists the flags)")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return runCommand(f, args) },
	}
	c.Flags().SetInterspersed(false)
	fl := c.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "set a variable, `KEY=VALUE` (repeatable)")
	fl.StringVarP(&f.dir, "workdir", "w", "", "working directory `DIR` in the guest")
	fl.StringVarP(&f.user, "user", "u", "", "`USER` in the guest: name, uid, name:group or uid:gid")
	fl.DurationVar(&f.timeout, "timeout", 0, "end the command after this long (such as 30s or 5m) with exit code 124")
	fl.StringArrayVar(&f.rlimits, "rlimit", nil, "resource limit `NAME=SOFT[:HARD]`, such as nofile=1024 (repeatable)")
	fl.IntVarP(&f.cpus, "cpus", "c", sandbox.DefaultCPUs, "`NUMBER` of virtual CPUs")
	fl.StringVarP(&f.memory, "memory", "m", "256M", "guest memory: a `SIZE` with K, M or G, at least 64M")
	fl.StringVarP(&f.kernel, "kernel", "k", "", "`KERNEL` to boot: a file, a directory, a .deb, \"own\", \"host\", or a fetched package (see hutch kernel list)")
	fl.StringVar(&f.initramfs, "initramfs", "", "boot the initial file system in this `FILE` instead of hutch's own")
	fl.StringVar(&f.console, "console", "", "write the guest's serial console to this `FILE` (- for standard error)")
	fl.DurationVar(&f.bootTimeout, "boot-timeout", 0, "give up when the guest has not booted after this long (default 60s)")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "say on standard error what is being done, and which kernel booted")
	return c
}

func runCommand(f *runFlags, args []string) error {
	opts, cleanup, err := f.options()
	if err != nil {
		return err
	}
	defer cleanup()
	ctx, stop := endedBy(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	interrupts := make(chan os.Signal, 1) // registered during the boot already, so that none finds the default action
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)

	began := time.Now()
	bootCtx, bootDone := endedBy(ctx, os.Interrupt) // an interrupt ends the boot; afterwards it is passed on to the command
	sb, err := sandbox.New(bootCtx, opts...)
	code, ended := endingSignal(bootCtx)
	bootDone()
	switch {
	case ended:
		if err == nil {
			sb.Close()
		}
		return code
	case err != nil:
		return explainBoot(err)
	}
	defer sb.Close()
	if f.verbose {
		fmt.Fprintf(os.Stderr, "hutch: Linux %s is up after %v\n", sb.Info().Kernel, time.Since(began).Round(time.Millisecond))
	}
	return f.exec(ctx, sb, args, interrupts)
}

// endedBy returns a context that the first of the signals cancels, and a function that gives the signals up and cancels the context.
func endedBy(parent context.Context, signals ...os.Signal) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, signals...)
	go func() {
		select {
		case s := <-arrived:
			cancel(exitCode(128 + int(s.(syscall.Signal))))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(arrived)
		cancel(nil)
	}
}

// endingSignal says whether a signal cancelled the context of endedBy, and gives the exit code of a program that this signal ends.
func endingSignal(ctx context.Context) (code exitCode, ended bool) {
	ended = errors.As(context.Cause(ctx), &code)
	return code, ended
}

// explainBoot gives the words of package sandbox the names of the flags, and tells a machine without KVM of the lab.
func explainBoot(err error) error {
	var ce *sandbox.ConfigError
	if errors.As(err, &ce) {
		for option, name := range map[string]string{"WithMemory": "--memory", "WithCPUs": "--cpus", "WithBootTimeout": "--boot-timeout"} {
			if ce.Option == option {
				return fmt.Errorf("%s: %s: %s", name, ce.Value, ce.Reason)
			}
		}
	}
	if errors.Is(err, sandbox.ErrNoKVM) || errors.Is(err, sandbox.ErrKVMPermission) {
		return fmt.Errorf("%w; without hardware virtualisation, hutch's lab runs the same command in an emulated machine: bin/kvmlab -- bin/hutch run", err)
	}
	return err
}

// exec runs the command with this process's standard streams and turns what happened into an exit code.
func (f *runFlags) exec(ctx context.Context, sb *sandbox.Sandbox, args []string, interrupts <-chan os.Signal) error {
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.timeout)
		defer cancel()
	}
	cmd := sb.Command(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Dir, cmd.User = f.dir, f.user
	if err := cmd.AddEnv(f.env...); err != nil {
		return err
	}
	cmd.Rlimits = f.limits
	if err := cmd.Start(); err != nil {
		return startError(args[0], err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case <-interrupts:
				_ = cmd.Process.Signal(syscall.SIGINT) // a command that has just exited is not an error
			case <-done:
				return
			}
		}
	}()
	err := cmd.Wait()
	code, ended := endingSignal(ctx)
	var ee *sandbox.ExitError
	switch {
	case err == nil, errors.Is(err, sandbox.ErrWaitDelay):
		return nil
	case ended:
		return code
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintf(os.Stderr, "hutch: %s: ended after the timeout of %v\n", args[0], f.timeout)
		return exitCode(exitTimeout)
	case errors.As(err, &ee):
		return exitCode(ee.ShellExitCode())
	default:
		return err
	}
}

// startError gives a command that could not be started the code that a shell gives.
func startError(name string, err error) error {
	var se *sandbox.StartError
	if !errors.As(err, &se) {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(os.Stderr, "hutch: %s: %v\n", name, err)
	return exitCode(se.ShellExitCode())
}

// options turns the flags into options of sandbox.New; cleanup closes what they opened.
func (f *runFlags) options() (opts []sandbox.Option, cleanup func(), err error) {
	cleanup = func() {}
	mem, err := parseSize(f.memory)
	if err != nil {
		return nil, cleanup, fmt.Errorf("--memory: %w", err)
	}
	if err := f.check(); err != nil {
		return nil, cleanup, err
	}
	opts = []sandbox.Option{sandbox.WithMemory(mem), sandbox.WithCPUs(f.cpus), sandbox.WithKernel(f.kernel), sandbox.WithInitramfs(f.initramfs), sandbox.WithBootTimeout(f.bootTimeout)}
	switch f.console {
	case "":
	case "-":
		opts = append(opts, sandbox.WithConsole(os.Stderr))
	default:
		file, err := os.Create(f.console)
		if err != nil {
			return nil, cleanup, fmt.Errorf("--console: %w", err)
		}
		cleanup = func() { file.Close() }
		opts = append(opts, sandbox.WithConsole(file))
	}
	if f.verbose || stderrIsTerminal() {
		opts = append(opts, sandbox.WithProgress(func(step string) { fmt.Fprintf(os.Stderr, "hutch: %s\n", step) }))
	}
	return opts, cleanup, nil
}

// check finds what is wrong with the flags that concern the command: before the boot, because a boot takes a while.
func (f *runFlags) check() error {
	switch {
	case f.cpus < 1:
		return fmt.Errorf("--cpus: %d: give 1 or more", f.cpus)
	case f.timeout < 0:
		return fmt.Errorf("--timeout: %v: negative: give a positive duration, or zero for none", f.timeout)
	case f.dir != "" && !strings.HasPrefix(f.dir, "/"):
		return fmt.Errorf("--workdir: %q: give an absolute path in the guest", f.dir)
	}
	for _, e := range f.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return fmt.Errorf("--env: %q: not of the form KEY=VALUE", e)
		}
	}
	for _, l := range f.rlimits {
		lim, err := sandbox.ParseRlimit(l)
		if err != nil {
			return err
		}
		f.limits = append(f.limits, lim)
	}
	return nil
}

// parseSize reads a number of bytes with an optional K, M or G (powers of 1024).
func parseSize(s string) (int64, error) {
	num, shift := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I"), 0
	if num != "" {
		switch num[len(num)-1] {
		case 'K':
			shift = 10
		case 'M':
			shift = 20
		case 'G':
			shift = 30
		}
		if shift > 0 {
			num = num[:len(num)-1]
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is not a size: give a number with K, M or G, such as 256M", s)
	}
	return n << shift, nil
}
