package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/interp"
	"userland.hutch.invalid/lib/echo"
)

// ours is put before the names of the interpreter's unsupported built-ins that are implemented here: it then takes them for commands. A
// command of this name cannot exist, it has a NUL.
const ours = "\x00"

// The interpreter has one process for all subshells, so ( umask 077 ) and ( ulimit -n 10 ) reach beyond their parentheses.
var builtins = map[string]func(interp.HandlerContext, []string) error{
	"umask":  umask,
	"ulimit": ulimit,
	"echo":   echoes,
	"jobs":   func(interp.HandlerContext, []string) error { return nil },
}

// replaceBuiltins runs before every command and redirects what the interpreter would refuse. kill is a command of the userland.
func replaceBuiltins(ctx context.Context, args []string) ([]string, error) {
	if _, ok := builtins[args[0]]; ok {
		args[0] = ours + args[0]
	} else if args[0] == "kill" {
		hc := interp.HandlerCtx(ctx)
		if p, err := interp.LookPathDir(hc.Dir, hc.Env, "kill"); err == nil {
			args[0] = p
		}
	}
	return args, nil
}

// echoes is echo in one write, as every other shell has it: the interpreter's own writes each argument by itself.
func echoes(hc interp.HandlerContext, args []string) error {
	if _, err := hc.Stdout.Write(echo.Text(args)); err != nil {
		return interp.ExitStatus(1)
	}
	return nil
}

func complain(hc interp.HandlerContext, format string, args ...any) error {
	fmt.Fprintf(hc.Stderr, "sh: "+format+"\n", args...)
	return interp.ExitStatus(1)
}

// umask is the POSIX utility with octal masks only.
func umask(hc interp.HandlerContext, args []string) error {
	if len(args) == 0 {
		old := syscall.Umask(0)
		syscall.Umask(old)
		fmt.Fprintf(hc.Stdout, "%04o\n", old)
		return nil
	}
	mask, err := strconv.ParseUint(args[0], 8, 32)
	if err != nil || mask > 0o777 {
		return complain(hc, "umask: %s: not an octal mask", args[0])
	}
	syscall.Umask(int(mask))
	return nil
}

type limit struct {
	flag     byte
	resource int
	unit     uint64 // bytes or pieces per unit of the command line
	what     string
}

// limits are those of bash, with its units; the numbers are Linux's, those above RLIMIT_AS are not in package syscall.
var limits = []limit{
	{'c', syscall.RLIMIT_CORE, 512, "core file size (blocks)"},
	{'d', syscall.RLIMIT_DATA, 1024, "data segment (kbytes)"},
	{'f', syscall.RLIMIT_FSIZE, 512, "file size (blocks)"},
	{'l', 8, 1024, "locked memory (kbytes)"},
	{'m', 5, 1024, "resident memory (kbytes)"},
	{'n', syscall.RLIMIT_NOFILE, 1, "open files"},
	{'s', syscall.RLIMIT_STACK, 1024, "stack (kbytes)"},
	{'t', syscall.RLIMIT_CPU, 1, "processor time (seconds)"},
	{'u', 6, 1, "processes"},
	{'v', syscall.RLIMIT_AS, 1024, "address space (kbytes)"},
}

const infinity = ^uint64(0)

// ulimit [-HSa] [-LETTER [LIMIT|unlimited]]: without letter, the file size.
func ulimit(hc interp.HandlerContext, args []string) error {
	hard, soft, all := false, false, false
	letter := byte('f')
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		for i := 1; i < len(args[0]); i++ {
			switch c := args[0][i]; c {
			case 'H':
				hard = true
			case 'S':
				soft = true
			case 'a':
				all = true
			default:
				letter = c
			}
		}
		args = args[1:]
	}
	for _, l := range limits {
		if !all && l.flag != letter {
			continue
		}
		if all || len(args) == 0 {
			cur, err := getLimit(l.resource)
			if err != nil {
				return complain(hc, "ulimit: %v", err)
			}
			if all {
				fmt.Fprintf(hc.Stdout, "-%c  %-26s ", l.flag, l.what)
			}
			l.print(hc.Stdout, cur, hard)
			continue
		}
		if err := l.set(args[0], hard || !soft, soft || !hard); err != nil {
			return complain(hc, "ulimit: %v", err)
		}
		return nil
	}
	if !all && strings.IndexByte("cdflmnstuv", letter) < 0 {
		return complain(hc, "ulimit: -%c: no such limit", letter)
	}
	return nil
}

func (l limit) print(w io.Writer, lim syscall.Rlimit, hard bool) {
	v := lim.Cur
	if hard {
		v = lim.Max
	}
	if v == infinity {
		fmt.Fprintln(w, "unlimited")
		return
	}
	fmt.Fprintln(w, v/l.unit)
}

func (l limit) set(text string, hard, soft bool) error {
	lim, err := getLimit(l.resource)
	if err != nil {
		return err
	}
	v := infinity
	switch text {
	case "unlimited":
	case "hard":
		v = lim.Max
	case "soft":
		v = lim.Cur
	default:
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n > infinity/l.unit {
			return fmt.Errorf("%s: not a limit", text)
		}
		v = n * l.unit
	}
	if hard {
		lim.Max = v
	}
	if soft {
		lim.Cur = v
	}
	// syscall.Setrlimit, not a raw call: the Go runtime then knows that the value is meant for children.
	return syscall.Setrlimit(l.resource, &lim)
}

// getLimit returns what a command started here would have. That is not what this process has for open files: the Go runtime raises its own
// soft limit at the start and gives children the original one, without a way to ask for it. So a child is stopped at its first instruction
// and asked. After a Setrlimit the two are the same, and the answer is right too.
func getLimit(resource int) (syscall.Rlimit, error) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(resource, &lim); err != nil || resource != syscall.RLIMIT_NOFILE {
		return lim, err
	}
	self, err := os.Executable()
	if err != nil {
		return lim, err
	}
	cmd := exec.Command(self, "true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return lim, nil // tracing is forbidden: the raised value is the best there is
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, 0, nil); err != nil || !status.Stopped() {
		return lim, errors.Join(errors.New("cannot ask a child for its limits"), err)
	}
	var old unix.Rlimit
	if err := unix.Prlimit(cmd.Process.Pid, resource, nil, &old); err != nil {
		return lim, err
	}
	lim.Cur, lim.Max = old.Cur, old.Max
	return lim, nil
}
