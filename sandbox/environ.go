package sandbox

import (
	"strings"

	"github.com/hutchvm/hutch/channel"
)

// environ is what the command gets beyond, or instead of, the agent's default environment.
func (c *Cmd) environ() []string {
	env := c.Env
	if c.Env == nil {
		env = append(append(env, c.sb.cfg.env...), c.baseEnv...)
	}
	return append(env[:len(env):len(env)], c.extraEnv...)
}

// Environ returns a copy of the environment that the command would run with, so that Env can be set to it and more. HOME and USER are the
// guest's to know when User names somebody else than root, and then left out.
func (c *Cmd) Environ() []string {
	var env []string
	if c.Env == nil {
		env = append(env, "PATH="+channel.DefaultPath)
		if c.User == "" {
			env = append(env, "HOME=/root", "USER=root")
		}
	}
	if c.sb == nil {
		return lastOfEach(append(env, c.Env...))
	}
	return lastOfEach(append(env, c.environ()...))
}

// lastOfEach keeps the last entry of each variable, where the first one stood.
func lastOfEach(env []string) []string {
	at := make(map[string]int, len(env))
	out := env[:0]
	for _, kv := range env {
		key, _, _ := strings.Cut(kv, "=")
		if i, ok := at[key]; ok {
			out[i] = kv
			continue
		}
		at[key] = len(out)
		out = append(out, kv)
	}
	return out
}
