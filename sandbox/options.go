package sandbox

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

// Defaults and bounds of the options.
const (
	// DefaultMemory is the guest memory when WithMemory is not given: 256 MiB.
	DefaultMemory int64 = 256 << 20
	// MinMemory is the least guest memory that New takes: 64 MiB. A stock kernel needs more; loading it says how much.
	MinMemory int64 = 64 << 20
	// MaxMemory is the most guest memory that New takes: 64 GiB.
	MaxMemory int64 = 64 << 30
	// DefaultCPUs is the number of virtual CPUs when WithCPUs is not given.
	DefaultCPUs = 1
	// MaxCPUs is the most virtual CPUs that New takes.
	MaxCPUs = 32
	// DefaultBootTimeout bounds New from the first guest instruction to the agent's answer. Real hardware needs well under a second;
	// emulated machines are a hundred times slower.
	DefaultBootTimeout = 60 * time.Second

	pageSize = 4096
)

// EnvInitramfs is the environment variable that names the initial file system when no option does.
const EnvInitramfs = "HUTCH_INITRAMFS"

// An Option changes one setting of New. Options are checked together before anything is opened or allocated.
type Option func(*config)

// config is what the options say; the zero value of each field stands for its default.
type config struct {
	kernel      string
	kvmPath     string
	memory      int64
	cpus        int
	initramfs   string
	cmdline     []string
	console     io.Writer
	logger      *slog.Logger
	bootTimeout time.Duration
	progress    func(string)
	shell       string
	env         []string
	defaults    []ExecOption
	logs        []execlog.Sink
	name        string // of a named sandbox, and the path of its log
	logPath     string
}

// WithKernel names the kernel to boot: a file (vmlinux, bzImage or .deb), a directory, a name such as "own" or "host", or a cached
// package such as "linux-image-cloud-amd64". The default "" walks the ladder of package boot: HUTCH_KERNEL, the cache, the host.
func WithKernel(ref string) Option { return func(c *config) { c.kernel = ref } }

// WithMemory sets the guest's memory in bytes, a multiple of 4096 from MinMemory to MaxMemory. The default is DefaultMemory. Host memory
// is used only as the guest touches it.
func WithMemory(bytes int64) Option { return func(c *config) { c.memory = bytes } }

// WithCPUs sets the number of virtual CPUs, 1 to MaxCPUs. The default is DefaultCPUs.
func WithCPUs(n int) Option { return func(c *config) { c.cpus = n } }

// WithInitramfs names a file with a newc archive, uncompressed, to boot instead of the built-in userland. It must hold the agent as /init.
// The default "" is what HUTCH_INITRAMFS names, else the cached built-in one, which needs the Go toolchain once.
func WithInitramfs(path string) Option { return func(c *config) { c.initramfs = path } }

// WithCmdline appends words to the kernel's command line.
func WithCmdline(args ...string) Option {
	return func(c *config) { c.cmdline = append(c.cmdline, args...) }
}

// WithConsole copies the guest's serial console to w from the first byte. A slow w never slows the guest: it loses the oldest bytes of a
// ring instead. The default nil keeps the console's end for error messages only. w is written from one goroutine.
func WithConsole(w io.Writer) Option { return func(c *config) { c.console = w } }

// WithLogger sets where the sandbox reports what it does. The default nil discards. What a guest can trigger is rate-limited.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.logger = l } }

// WithBootTimeout bounds the time from the guest's first instruction to the agent's answer; zero is DefaultBootTimeout.
func WithBootTimeout(d time.Duration) Option { return func(c *config) { c.bootTimeout = d } }

// WithProgress sets a function that is told, in a few words, of work that can take long, such as building the userland for the first time.
// It is called from New's goroutine.
func WithProgress(f func(step string)) Option { return func(c *config) { c.progress = f } }

// WithShell sets the program that Shell runs with -c; the default is "/bin/sh".
func WithShell(path string) Option { return func(c *config) { c.shell = path } }

// WithEnv adds variables, each "KEY=value", to the environment of every command; a command's own setting wins.
func WithEnv(kv ...string) Option { return func(c *config) { c.env = append(c.env, kv...) } }

// WithKVMDevice names the KVM device to open instead of /dev/kvm, for hosts that keep it elsewhere.
func WithKVMDevice(path string) Option { return func(c *config) { c.kvmPath = path } }

// resolve applies the options, fills the defaults in and checks the result.
func resolve(opts []Option) (*config, error) {
	c := &config{}
	for _, o := range opts {
		if o == nil {
			return nil, &ConfigError{"New", "nil", "an option is nil; leave it out instead"}
		}
		o(c)
	}
	if c.memory == 0 {
		c.memory = DefaultMemory
	}
	if c.cpus == 0 {
		c.cpus = DefaultCPUs
	}
	if c.bootTimeout == 0 {
		c.bootTimeout = DefaultBootTimeout
	}
	if c.shell == "" {
		c.shell = "/bin/sh"
	}
	if c.initramfs == "" {
		c.initramfs = os.Getenv(EnvInitramfs)
	}
	if c.kvmPath == "" {
		c.kvmPath = "/dev/kvm"
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.progress == nil {
		c.progress = func(string) {}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, c.checkDefaults()
}

func (c *config) check() error {
	switch {
	case c.memory < MinMemory:
		return &ConfigError{"WithMemory", fmt.Sprint(c.memory), fmt.Sprintf("too small: a guest needs at least %d bytes (%d MiB)", MinMemory, MinMemory>>20)}
	case c.memory > MaxMemory:
		return &ConfigError{"WithMemory", fmt.Sprint(c.memory), fmt.Sprintf("too large: at most %d GiB", MaxMemory>>30)}
	case c.memory%pageSize != 0:
		return &ConfigError{"WithMemory", fmt.Sprint(c.memory), "not a multiple of 4096: round it up"}
	case c.cpus < 1 || c.cpus > MaxCPUs:
		return &ConfigError{"WithCPUs", fmt.Sprint(c.cpus), fmt.Sprintf("give 1 to %d", MaxCPUs)}
	case c.bootTimeout < 0:
		return &ConfigError{"WithBootTimeout", c.bootTimeout.String(), "negative: give a positive duration, or zero for the default"}
	}
	for _, sink := range c.logs {
		if sink == nil {
			return &ConfigError{"WithLogs", "nil", "a sink is nil; leave it out instead"}
		}
	}
	for _, kv := range c.env {
		if err := checkEnv("WithEnv", kv); err != nil {
			return err
		}
	}
	for _, word := range c.cmdline {
		if strings.ContainsAny(word, "\x00\n") {
			return &ConfigError{"WithCmdline", fmt.Sprintf("%q", word), "a kernel command line holds no NUL and no newline"}
		}
	}
	return nil
}

func checkEnv(option, kv string) error {
	key, _, ok := strings.Cut(kv, "=")
	switch {
	case !ok || key == "":
		return &ConfigError{option, fmt.Sprintf("%q", kv), "not of the form KEY=value"}
	case strings.ContainsRune(kv, 0):
		return &ConfigError{option, fmt.Sprintf("%q", kv), "holds a NUL byte, which no process environment can"}
	}
	return nil
}

func supported() bool { return runtime.GOOS == "linux" && runtime.GOARCH == "amd64" }
