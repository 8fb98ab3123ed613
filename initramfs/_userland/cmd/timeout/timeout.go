// Command timeout runs a command and ends it when it takes too long.
//
//	timeout [-s SIGNAL] [-k DURATION] DURATION COMMAND [ARG...]
//
// DURATION is a number of seconds, or one with the unit s, m, h or d; zero means no limit. The exit status is the command's, 124 after
// the time is over, 125 for a wrong use, 126 or 127 when the command cannot be run. u-root's own takes the duration as an option only.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"userland.hutch.invalid/lib/sig"
)

func main() { os.Exit(run(os.Args[1:])) }

func fail(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "timeout: "+format+"\n", args...)
	return 125
}

func run(args []string) int {
	number := syscall.SIGTERM
	var kill time.Duration
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		var err error
		switch args[0] {
		case "-s":
			number, err = sig.Parse(args[1])
		case "-k":
			kill, err = parseDuration(args[1])
		default:
			err = fmt.Errorf("unknown option %s", args[0])
		}
		if err != nil {
			return fail("%v", err)
		}
		args = args[2:]
	}
	if len(args) < 2 {
		return fail("give a duration and a command")
	}
	limit, err := parseDuration(args[0])
	if err != nil {
		return fail("%v", err)
	}
	return supervise(args[1:], limit, kill, number)
}

func supervise(args []string, limit, kill time.Duration, number syscall.Signal) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "timeout: %v\n", err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return 127
		}
		return 126
	}
	// Who ends timeout means the command.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	expired := false
	timer := never
	if limit > 0 {
		timer = time.After(limit)
	}
	for {
		select {
		case <-done:
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			switch {
			case expired && !(status.Signaled() && status.Signal() == syscall.SIGKILL):
				return 124
			case status.Signaled():
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		case s := <-signals:
			cmd.Process.Signal(s)
		case <-timer:
			if expired {
				cmd.Process.Kill()
				timer = never
				continue
			}
			expired = true
			cmd.Process.Signal(number)
			timer = never
			if kill > 0 {
				timer = time.After(kill)
			}
		}
	}
}

// never is a timer that does not fire.
var never <-chan time.Time

func parseDuration(s string) (time.Duration, error) {
	unit := time.Second
	text := s
	if n := len(s); n > 0 {
		if u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[n-1]]; ok {
			unit, text = u, s[:n-1]
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 0 || n*float64(unit) > float64(1<<62) {
		return 0, fmt.Errorf("%q is no duration", s)
	}
	return time.Duration(n * float64(unit)), nil
}
