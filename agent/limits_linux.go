package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// limitError is a limit that could not be set.
type limitError struct {
	controller string
	err        error
}

func (e *limitError) Error() string {
	if errors.Is(e.err, os.ErrNotExist) {
		return fmt.Sprintf("the guest has no %s controller for cgroups; its kernel was built without it, or it is not enabled for the agent", e.controller)
	}
	return "setting the limit: " + e.err.Error()
}

func (e *limitError) Unwrap() error { return e.err }

// limit sets the limits of an exec on its fresh cgroup.
//
// Source: Documentation/admin-guide/cgroup-v2.rst, "Memory", "CPU" and "PID".
func (c *cgroup) limit(l *channel.Limits) error {
	set := func(file, value string) error {
		// Without O_CREATE, which makes a missing file EACCES here.
		f, err := os.OpenFile(filepath.Join(c.path, file), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(value)
		return err
	}
	if l.Memory > 0 {
		if err := set("memory.max", strconv.FormatInt(l.Memory, 10)); err != nil {
			return &limitError{"memory", err}
		}
		// Swap would only delay the end. A kernel without swap has no such file.
		if err := set("memory.swap.max", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return &limitError{"memory", err}
		}
	}
	if l.CPU > 0 {
		// Microseconds in a period; the kernel takes quotas from 1 ms on.
		quota, period := l.CPU*100, int64(100_000)
		if l.CPU < 10 {
			quota, period = l.CPU*1000, 1_000_000
		}
		if err := set("cpu.max", fmt.Sprintf("%d %d", quota, period)); err != nil {
			return &limitError{"cpu", err}
		}
	}
	if l.Pids > 0 {
		if err := set("pids.max", strconv.FormatInt(l.Pids, 10)); err != nil {
			return &limitError{"pids", err}
		}
	}
	return nil
}

// enterCgroup gives the session its cgroup, with its limits.
func (s *session) enterCgroup() (f *channel.StartFailure) {
	g := s.a.cgroups
	if g == nil {
		if s.req.Limits == nil {
			return nil
		}
		return &channel.StartFailure{
			Stage: channel.StageCgroup, Errno: channel.Errno(unix.EOPNOTSUPP),
			Msg: "the agent has no cgroup v2 directory, so limits cannot be set",
		}
	}
	c, err := g.acquire(s.req.Limits != nil)
	if err != nil {
		return failure(channel.StageCgroup, s.a.opt.Cgroup, err)
	}
	if s.req.Limits != nil {
		if err := c.limit(s.req.Limits); err != nil {
			g.release(c)
			var le *limitError
			errors.As(err, &le)
			return &channel.StartFailure{Stage: channel.StageCgroup, Path: le.controller, Errno: errnoOf(err), Msg: le.Error()}
		}
	}
	s.cgroup = c
	return nil
}
