//go:build unix

package ownkernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// reportEvery is how often a long step says that it is alive.
	reportEvery = 10 * time.Second
	// usualObjects is about how many steps the compilation has, for the progress lines only.
	usualObjects = 1550
	opCompile    = "compile"
	keepLines    = 80
)

// step is a line of the kernel's makefiles that says what is made: "  CC      init/main.o".
var step = regexp.MustCompile(`^  [A-Z][A-Z0-9_]* `)

// fixed makes the result independent of who builds it, where and when.
var fixed = []string{"KBUILD_BUILD_TIMESTAMP=2025-01-01", "KBUILD_BUILD_USER=hutch", "KBUILD_BUILD_HOST=hutch", "KBUILD_BUILD_VERSION=1"}

// compiler runs the steps in one source tree.
type compiler struct {
	tools    *tools
	source   string
	objects  string
	jobs     int
	progress func(string)
}

// configure writes and verifies the configuration.
func (c *compiler) configure(ctx context.Context, fragment []byte) error {
	file := filepath.Join(filepath.Dir(c.objects), "fragment")
	if err := os.WriteFile(file, fragment, 0o644); err != nil {
		return err
	}
	if err := c.make(ctx, "configure", []string{"KCONFIG_ALLCONFIG=" + file}, "allnoconfig"); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(c.objects, ".config"))
	if err != nil {
		return &Error{Op: "configure", Err: err}
	}
	return verify(fragment, config)
}

// make runs one target in the source tree and counts its steps. When ctx ends, the whole process group is killed: make alone would leave
// its compilers running.
func (c *compiler) make(ctx context.Context, op string, env []string, target string) error {
	cmd := c.tools.command(ctx, "make", "-C", c.source, "O="+c.objects, "ARCH="+kernelArch[runtime.GOARCH], "HOSTCC="+c.tools.hostCC,
		"-j"+strconv.Itoa(c.jobs), target)
	cmd.Env = append(append(append([]string{}, cmd.Env...), fixed...), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, in, err := os.Pipe()
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	err = cmd.Start()
	in.Close()
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	last := c.follow(out, op)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return &Error{Op: op, Err: ctx.Err()}
	}
	if err != nil {
		return &Error{Op: op, Err: err, Output: tail(last)}
	}
	return nil
}

// follow reports progress until the output ends and returns the last lines that are no steps: messages of compilers and of make itself. With
// several jobs the lines before the end are those of other jobs.
func (c *compiler) follow(out io.Reader, op string) string {
	start := time.Now()
	next := start.Add(reportEvery)
	steps := 0
	var lines []string
	for s := bufio.NewReader(out); ; {
		line, err := s.ReadString('\n')
		if line != "" {
			if step.MatchString(line) {
				steps++
			} else if lines = append(lines, line); len(lines) > keepLines {
				lines = append(lines[:0], lines[keepLines/2:]...)
			}
			if now := time.Now(); now.After(next) {
				text := fmt.Sprintf("%s: %d steps, %s", op, steps, now.Sub(start).Round(time.Second))
				if op == opCompile {
					text = fmt.Sprintf("%s: %d of about %d steps, %s", op, steps, max(usualObjects, steps), now.Sub(start).Round(time.Second))
				}
				c.progress(text)
				next = now.Add(reportEvery)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				lines = append(lines, err.Error())
			}
			return strings.Join(lines, "")
		}
	}
}

// strip writes vmlinux without symbols to dest.
func (c *compiler) strip(ctx context.Context, dest string) error {
	cmd := c.tools.command(ctx, "strip", "-o", dest, filepath.Join(c.objects, "vmlinux"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return &Error{Op: "strip", Err: err, Output: tail(string(out))}
	}
	return nil
}
