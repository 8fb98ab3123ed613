package agent

import (
	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// rlimit is a limit ready for prlimit(2).
type rlimit struct {
	name       string
	resource   int
	soft, hard uint64
}

// Source: getrlimit(2); the numbers are those of asm-generic/resource.h.
var rlimits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
	"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
	"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

func parseRlimits(in []channel.Rlimit) (out []rlimit, f *channel.StartFailure) {
	for _, l := range in {
		r, ok := rlimits[l.Name]
		switch {
		case !ok:
			return nil, &channel.StartFailure{Stage: channel.StageRlimit, Errno: channel.EINVAL, Path: l.Name, Msg: "unknown resource"}
		case l.Soft > l.Hard:
			return nil, &channel.StartFailure{Stage: channel.StageRlimit, Errno: channel.EINVAL, Path: l.Name, Msg: "soft limit over the hard limit"}
		}
		out = append(out, rlimit{name: l.Name, resource: r, soft: l.Soft, hard: l.Hard})
	}
	return out, nil
}
