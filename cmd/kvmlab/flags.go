package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Exit codes of kvmlab itself; they are those of env(1), timeout(1) and the shell.
const (
	exitTimeout       = 124
	exitOwn           = 125 // kvmlab itself failed
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignalBase    = 128
)

// argsEnv names the environment variable whose words are read before the command line: with go test -exec kvmlab there is no other
// place for options.
const argsEnv = "KVMLAB_ARGS"

// mode is what one invocation does.
type mode int

const (
	modeRun mode = iota
	modeStop
	modeStatus
	modeHelp
)

// config is the parsed command line.
type config struct {
	mode    mode
	timeout time.Duration // of the command; 0 is none
	idle    time.Duration // how long an unused lab stays
	memMiB  int           // 0: whatever runs, or defaultMemMiB
	cpus    int           // 0: whatever runs, or defaultCPUs
	force   bool          // use the lab although the machine has hardware virtualisation
	verbose bool          // say on stderr what takes time
	command []string
}

const (
	defaultMemMiB = 6144
	defaultCPUs   = 1
	defaultIdle   = 10 * time.Minute
	minMemMiB     = 256
	maxCPUs       = 32
)

const usage = `usage: kvmlab [flags] [--] CMD [ARG...]
       kvmlab -status | -stop

Runs CMD inside an emulated machine that has a real nested /dev/kvm, with this machine's files at the same paths, the same
working directory and environment. Standard input, output and error are passed through unchanged and apart, and kvmlab exits with
CMD's code (128+n when signal n ended it; 124 -timeout, 125 kvmlab failed, 126 not executable, 127 not found). What CMD writes stays in
the machine and is gone when CMD ends; every CMD sees the files as they are when it starts. CMD runs as root there.

The machine starts when none runs (seconds), is shared by all invocations of one user, and stops after idling. As a test runner:
    go test -exec kvmlab ./kvm        (options in KVMLAB_ARGS="-timeout 5m -v")

On a machine with hardware virtualisation and a usable /dev/kvm, CMD just runs there: no lab is needed (-force uses it anyway).

flags:
  -timeout D   kill CMD after D (for example 90s) and exit with 124
  -mem M       memory of the lab, 6144M by default (512M, 8G, or MiB)
  -cpus N      processors of the lab, 1 by default
  -idle D      stop the lab after D without a command, 10m by default
  -force       use the lab even where /dev/kvm would do
  -v           say on standard error what takes time
  -status      print whether the lab runs, and its details
  -stop        stop the lab, running commands included
`

// errUsage wraps what is wrong with a command line.
var errUsage = errors.New("usage")

// parseArgs reads the words of argsEnv and then the command line (without the program's name).
func parseArgs(env string, args []string) (config, error) {
	cfg := config{idle: defaultIdle}
	if _, err := parseInto(&cfg, strings.Fields(env)); err != nil {
		return cfg, fmt.Errorf("%s: %w", argsEnv, err)
	}
	rest, err := parseInto(&cfg, args)
	if err != nil {
		return cfg, err
	}
	cfg.command = rest
	switch {
	case cfg.mode == modeRun && len(rest) == 0:
		return cfg, fmt.Errorf("%w: no command given; kvmlab -help shows how", errUsage)
	case cfg.mode != modeRun && cfg.mode != modeHelp && len(rest) > 0:
		return cfg, fmt.Errorf("%w: %q makes no sense after -status or -stop", errUsage, rest[0])
	}
	return cfg, nil
}

// parseInto parses flags up to the first other word and returns what follows.
func parseInto(cfg *config, args []string) ([]string, error) {
	fs := flag.NewFlagSet("kvmlab", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	mem := ""
	status, stop := false, false
	fs.DurationVar(&cfg.timeout, "timeout", cfg.timeout, "")
	fs.DurationVar(&cfg.idle, "idle", cfg.idle, "")
	fs.StringVar(&mem, "mem", "", "")
	fs.IntVar(&cfg.cpus, "cpus", cfg.cpus, "")
	fs.BoolVar(&cfg.force, "force", cfg.force, "")
	fs.BoolVar(&cfg.verbose, "v", cfg.verbose, "")
	fs.BoolVar(&status, "status", false, "")
	fs.BoolVar(&stop, "stop", false, "")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		cfg.mode = modeHelp
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%w: %v", errUsage, err) //nolint:errorlint // only its words
	}
	if mem != "" {
		mib, err := parseMem(mem)
		if err != nil {
			return nil, err
		}
		cfg.memMiB = mib
	}
	switch {
	case cfg.timeout < 0:
		return nil, fmt.Errorf("%w: -timeout %v is negative", errUsage, cfg.timeout)
	case cfg.idle <= 0:
		return nil, fmt.Errorf("%w: -idle %v must be more than nothing", errUsage, cfg.idle)
	case cfg.cpus < 0 || cfg.cpus > maxCPUs:
		return nil, fmt.Errorf("%w: -cpus %d is not within 1…%d", errUsage, cfg.cpus, maxCPUs)
	case status && stop:
		return nil, fmt.Errorf("%w: -status and -stop exclude each other", errUsage)
	case status:
		cfg.mode = modeStatus
	case stop:
		cfg.mode = modeStop
	}
	return fs.Args(), nil
}

// parseMem reads a size: a number of MiB, or with a suffix M or G.
func parseMem(s string) (int, error) {
	digits, unit := s, 1
	switch s[len(s)-1] {
	case 'M', 'm':
		digits = s[:len(s)-1]
	case 'G', 'g':
		digits, unit = s[:len(s)-1], 1024
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n <= 0 || n > 1<<20 {
		return 0, fmt.Errorf("%w: -mem %q is no size; write 6144M or 6G", errUsage, s)
	}
	if n *= unit; n < minMemMiB {
		return 0, fmt.Errorf("%w: -mem %q is too little, at least %dM", errUsage, s, minMemMiB)
	}
	return n, nil
}
