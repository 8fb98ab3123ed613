// Command untrusted runs a shell script that nobody has read, with bounds on memory, processors, processes, time and output, and says how it ended.
//
//	go build -o bin/ ./examples/untrusted
//	echo 'id; uname -a; ls /; exit 7' | bin/untrusted              # ended: exit code 7
//	echo 'cat /dev/zero'              | bin/untrusted >/dev/null   # ended: too much output, more than 65536 bytes
//	echo 'cat /dev/zero >/tmp/full'   | bin/untrusted              # ended: out of memory (a guest's files are in memory)
//	echo 'while :; do :; done'        | bin/untrusted -timeout 2s  # ended: timeout after 2s
//
// The microVM is the wall: it has no network and none of the host's files. The limits keep one script from using up the microVM, and let several
// scripts share one. The output goes to standard output and standard error as it comes; the verdict is the last line on standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hutchvm/hutch/sandbox"
)

// maxCode bounds a script in bytes: it travels as an argument, of which Linux takes 128 KiB.
const maxCode = 64 << 10

type bounds struct {
	limits    sandbox.Limits
	timeout   time.Duration
	maxOutput int64 // bytes of standard output and standard error together
}

func main() {
	b := bounds{}
	flag.Int64Var(&b.limits.Memory, "memory", 64<<20, "bytes of memory")
	flag.Float64Var(&b.limits.CPUs, "cpus", 0.5, "processors")
	flag.Int64Var(&b.limits.Pids, "pids", 32, "processes and threads")
	flag.DurationVar(&b.timeout, "timeout", 10*time.Second, "time")
	flag.Int64Var(&b.maxOutput, "max-output", 64<<10, "bytes of output")
	flag.Parse()
	code, err := io.ReadAll(io.LimitReader(os.Stdin, maxCode+1))
	if err == nil && len(code) > maxCode {
		err = fmt.Errorf("the script has more than %d bytes", maxCode)
	}
	var verdict string
	if err == nil {
		verdict, err = boot(context.Background(), string(code), b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "untrusted:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "ended:", verdict)
}

func boot(ctx context.Context, code string, b bounds) (verdict string, err error) {
	sb, err := sandbox.New(ctx)
	if err != nil {
		return "", err
	}
	defer sb.Close()
	return judge(ctx, sb, code, b, os.Stdout, os.Stderr)
}

// judge runs the script and says how it ended. An error is a failure of ours, not the script's.
func judge(ctx context.Context, sb *sandbox.Sandbox, code string, b bounds, stdout, stderr io.Writer) (verdict string, err error) {
	handle, err := sb.ShellStream(ctx, code,
		sandbox.WithExecUser("nobody"),
		sandbox.WithExecCwd("/tmp"),
		sandbox.WithExecLimits(b.limits),
		sandbox.WithExecTimeout(b.timeout),
	)
	if err != nil {
		return "", err
	}
	defer handle.Close() // ends the script if it still runs, with everything it started
	var printed int64
	var state *sandbox.ProcessState
	for event, err := range handle.Events(ctx) {
		if err != nil {
			return "", err
		}
		to := stdout
		switch event.Kind {
		case sandbox.ExecEventStderr:
			to = stderr
		case sandbox.ExecEventExited:
			state = event.State
		case sandbox.ExecEventFailed:
			if errors.Is(event.Err, context.DeadlineExceeded) {
				return fmt.Sprintf("timeout after %v", b.timeout), nil
			}
			return "", event.Err
		}
		shown := event.Data[:min(int64(len(event.Data)), b.maxOutput-printed)]
		if _, err := to.Write(shown); err != nil {
			return "", err
		}
		if len(shown) < len(event.Data) {
			return fmt.Sprintf("too much output, more than %d bytes", b.maxOutput), nil
		}
		printed += int64(len(shown))
	}
	switch {
	case state.OOMKilled():
		return fmt.Sprintf("out of memory, of which it had %d bytes", b.limits.Memory), nil
	case state.Signal() != 0:
		return fmt.Sprintf("killed by signal %d", state.Signal()), nil
	}
	return fmt.Sprintf("exit code %d", state.ExitCode()), nil
}
