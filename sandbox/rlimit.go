package sandbox

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hutchvm/hutch/channel"
)

// RlimitInfinity is "no limit" in an Rlimit.
const RlimitInfinity = channel.RlimitInfinity

// An Rlimit is a resource limit of a command, as of setrlimit(2).
type Rlimit struct {
	Name string // as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending or stack
	Soft uint64
	Hard uint64
}

var rlimitNames = strings.Fields("as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")

func (l Rlimit) check() error {
	known := false
	for _, n := range rlimitNames {
		known = known || n == l.Name
	}
	switch {
	case !known:
		return &ConfigError{"rlimit", l.Name, "unknown name; known are " + strings.Join(rlimitNames, ", ")}
	case l.Soft > l.Hard:
		return &ConfigError{"rlimit", fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard), "the soft limit is above the hard limit"}
	}
	return nil
}

// ParseRlimit reads NAME=SOFT[:HARD], such as "nofile=1024" or "core=0:unlimited". Without HARD both limits are SOFT.
func ParseRlimit(s string) (Rlimit, error) {
	name, val, ok := strings.Cut(s, "=")
	if !ok {
		return Rlimit{}, &ConfigError{"rlimit", fmt.Sprintf("%q", s), "not of the form NAME=SOFT[:HARD]"}
	}
	soft, hard, two := strings.Cut(val, ":")
	if !two {
		hard = soft
	}
	l := Rlimit{Name: name}
	for _, p := range []struct {
		text string
		to   *uint64
	}{{soft, &l.Soft}, {hard, &l.Hard}} {
		if p.text == "unlimited" || p.text == "infinity" {
			*p.to = RlimitInfinity
			continue
		}
		n, err := strconv.ParseUint(p.text, 10, 64)
		if err != nil {
			return Rlimit{}, &ConfigError{"rlimit", fmt.Sprintf("%q", s), fmt.Sprintf("%q is not a number and not \"unlimited\"", p.text)}
		}
		*p.to = n
	}
	return l, l.check()
}

// setRlimit replaces the limit of l's name in list, or appends l.
func setRlimit(list []Rlimit, l Rlimit) []Rlimit {
	out := make([]Rlimit, 0, len(list)+1) // the sandbox's defaults share list
	for _, have := range list {
		if have.Name != l.Name {
			out = append(out, have)
		}
	}
	return append(out, l)
}
