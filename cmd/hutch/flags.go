package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/sandbox"
)

// bootFlags are those of the commands that boot a microVM.
type bootFlags struct {
	cpus        int
	memory      string
	kernel      string
	initramfs   string
	console     string
	bootTimeout time.Duration
	verbose     bool
}

func (f *bootFlags) register(c *cobra.Command) {
	f.registerMachine(c)
	fl := c.Flags()
	fl.StringVar(&f.console, "console", "", "write the guest's serial console to this `FILE` (- for standard error), at most 64 MiB")
	fl.DurationVar(&f.bootTimeout, "boot-timeout", 0, "give up when the guest has not booted after this long (default 60s)")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "say on standard error what is being done, and which kernel booted")
}

// registerMachine registers what the machine is made of.
func (f *bootFlags) registerMachine(c *cobra.Command) {
	fl := c.Flags()
	fl.IntVarP(&f.cpus, "cpus", "c", sandbox.DefaultCPUs, "`NUMBER` of virtual CPUs")
	fl.StringVarP(&f.memory, "memory", "m", "256M", "guest memory: a `SIZE` with K, M or G, at least 64M")
	fl.StringVarP(&f.kernel, "kernel", "k", "", "`KERNEL` to boot: a file, a directory, a .deb, \"own\", \"host\", or a fetched package (see hutch kernel list)")
	_ = c.RegisterFlagCompletionFunc("kernel", kernels) // the flag is there
	fl.StringVar(&f.initramfs, "initramfs", "", "boot the initial file system in this `FILE` instead of hutch's own")
}

// cmdFlags are those of the commands that run one in a microVM.
type cmdFlags struct {
	env     []string
	dir     string
	user    string
	timeout time.Duration
	rlimits []string
	limits  []sandbox.Rlimit // rlimits, parsed by check
}

func (f *cmdFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "set a variable, `KEY=VALUE` (repeatable)")
	fl.StringVarP(&f.dir, "workdir", "w", "", "working directory `DIR` in the guest")
	fl.StringVarP(&f.user, "user", "u", "", "`USER` in the guest: name, uid, name:group or uid:gid")
	fl.DurationVar(&f.timeout, "timeout", 0, "end the command after this long (such as 30s or 5m) with exit code 124")
	fl.StringArrayVar(&f.rlimits, "rlimit", nil, "resource limit `NAME=SOFT[:HARD]`, such as nofile=1024 (repeatable)")
}

// execOptions turns the flags into options of a command.
func (f *cmdFlags) execOptions() []sandbox.ExecOption {
	env := make(map[string]string)
	for _, e := range f.env {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	opts := []sandbox.ExecOption{sandbox.WithExecEnv(env)}
	if f.timeout > 0 {
		opts = append(opts, sandbox.WithExecTimeout(f.timeout)) // else the sandbox's
	}
	if f.dir != "" {
		opts = append(opts, sandbox.WithExecCwd(f.dir))
	}
	if f.user != "" {
		opts = append(opts, sandbox.WithExecUser(f.user))
	}
	for _, l := range f.limits {
		opts = append(opts, sandbox.WithExecRlimit(l.Name, l.Soft, l.Hard))
	}
	return opts
}

// options turns the flags into options of sandbox.New; cleanup closes what they opened.
func (f *bootFlags) options() (opts []sandbox.Option, cleanup func(), err error) {
	cleanup = func() {}
	mem, err := parseSize(f.memory)
	if err != nil {
		return nil, cleanup, fmt.Errorf("--memory: %w", err)
	}
	if _, err := strconv.Atoi(f.memory); err == nil && mem < sandbox.MinMemory {
		return nil, cleanup, fmt.Errorf("--memory: %s: these are bytes, and a guest needs at least 64M; for mebibytes write %[1]sM", f.memory)
	}
	if f.cpus < 1 {
		return nil, cleanup, fmt.Errorf("--cpus: %d: give 1 or more", f.cpus)
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
		opts = append(opts, sandbox.WithConsole(&cappedWriter{w: file, left: maxConsole}))
	}
	if f.verbose || stderrIsTerminal() {
		opts = append(opts, sandbox.WithProgress(func(step string) { fmt.Fprintf(os.Stderr, "hutch: %s\n", step) }))
	}
	return opts, cleanup, nil
}

// maxConsole bounds, in bytes, what a guest can write to a file of the host.
const maxConsole = 64 << 20

// cappedWriter writes the first bytes, a line that says so, and drops the rest.
type cappedWriter struct {
	w    io.Writer
	left int
}

func (c *cappedWriter) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	if n > 0 {
		if _, err := c.w.Write(p[:n]); err != nil {
			return 0, err
		}
		if c.left -= n; c.left == 0 {
			if _, err := io.WriteString(c.w, "\nhutch: the console goes on; the rest is not kept\n"); err != nil {
				return n, err
			}
		}
	}
	return len(p), nil
}

// check finds what is wrong with the flags that concern the command: before the boot, because a boot takes a while.
func (f *cmdFlags) check() error {
	switch {
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
