package sandbox

import (
	"errors"
	"fmt"
	"math"

	"github.com/hutchvm/hutch/channel"
)

// Limits bound what a command and everything it starts use together, by a control group of the guest. Zero fields are no limit.
//
// Starting a command with a limit that the guest cannot set, for want of cgroup v2 and its controllers, is a *StartError of the stage "cgroup".
type Limits struct {
	Memory int64   // bytes; beyond it the guest's kernel kills a process of the command: ProcessState.OOMKilled
	CPUs   float64 // processors, such as 0.5 or 2; down to 0.01
	Pids   int64   // processes and threads; beyond it starting one more fails in the guest with EAGAIN
}

// WithExecLimits bounds what the command and everything it starts use together. It replaces the sandbox's default as a whole.
func WithExecLimits(l Limits) ExecOption {
	return func(c *Cmd) error { c.Limits = l; return l.check() }
}

func (l Limits) check() error {
	switch {
	case l.Memory < 0:
		return &ConfigError{"Limits.Memory", fmt.Sprint(l.Memory), "give bytes, or zero for no limit"}
	case math.IsNaN(l.CPUs) || l.CPUs < 0 || l.CPUs > MaxCPUs || l.CPUs > 0 && l.CPUs < 0.01:
		return &ConfigError{"Limits.CPUs", fmt.Sprint(l.CPUs), fmt.Sprintf("give 0.01 to %d processors, or zero for no limit", MaxCPUs)}
	case l.Pids < 0:
		return &ConfigError{"Limits.Pids", fmt.Sprint(l.Pids), "give a number of processes, or zero for no limit"}
	}
	return nil
}

// request is l in the exec protocol's terms.
func (l Limits) request() *channel.Limits {
	if l == (Limits{}) {
		return nil
	}
	return &channel.Limits{Memory: l.Memory, CPU: int64(math.Round(l.CPUs * 1000)), Pids: l.Pids}
}

// limitOptions are the kernel options behind the controllers of control groups.
var limitOptions = map[string]string{"memory": "CONFIG_MEMCG", "cpu": "CONFIG_CFS_BANDWIDTH", "pids": "CONFIG_CGROUP_PIDS"}

// limitUnsupported says which kernel lacks which option when a limit could not be set for want of its controller.
func limitUnsupported(err error, release string) error {
	var se *StartError
	if errors.As(err, &se) && se.Stage == channel.StageCgroup && se.Errno == channel.ENOENT && limitOptions[se.Path] != "" {
		se.Msg = fmt.Sprintf("the guest's kernel %s cannot limit that: it needs %s: use a kernel that has it, such as hutch's own: hutch kernel build", release, limitOptions[se.Path])
	}
	return err
}
