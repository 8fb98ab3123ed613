package sandbox

import (
	"context"
	"slices"
	"time"
)

// WithExecDefaults sets options for every command of the sandbox: working directory, environment, user, timeout, limits, kept output. A
// command's own option, or field of Cmd, wins; WithExecTimeout(0) and WithExecLimits(Limits{}) lift a default. What belongs to one command alone
// (standard input, terminal, session ID, detaching) is a *ConfigError of New.
func WithExecDefaults(opts ...ExecOption) Option {
	return func(c *config) { c.defaults = append(c.defaults, opts...) }
}

// applyDefaults gives a new command the sandbox's defaults.
func (c *config) applyDefaults(cmd *Cmd) {
	if len(c.defaults) == 0 {
		return
	}
	if err := cmd.apply("WithExecDefaults", c.defaults); err != nil && cmd.Err == nil {
		cmd.Err = err
	}
	if cmd.Env != nil { // WithExecClearEnv: what the sandbox was told to set is all there is
		cmd.Env, cmd.extraEnv = append(append(cmd.Env, c.env...), cmd.extraEnv...), nil
	}
	cmd.baseEnv, cmd.extraEnv = cmd.extraEnv, nil
}

// checkDefaults refuses defaults that no command could have.
func (c *config) checkDefaults() error {
	cmd := &Cmd{ctx: context.Background(), sb: &Sandbox{cfg: c}}
	c.applyDefaults(cmd)
	if cmd.Err != nil {
		return cmd.Err
	}
	for _, bad := range []struct {
		option string
		given  bool
	}{
		{"WithExecStdin", cmd.Stdin != nil}, {"WithExecStdinPipe", cmd.stdinPipe}, {"WithExecTTY", cmd.TTY != nil},
		{"WithExecID", cmd.SessionID != ""}, {"WithExecDetachable", cmd.detachable}, {"WithExecOpenStdin", cmd.openStdin},
	} {
		if bad.given {
			return &ConfigError{"WithExecDefaults", bad.option, "it belongs to one command; give it to that one"}
		}
	}
	cmd.Path = "true"
	return cmd.check()
}

// commandDefaults is what WithEnv and WithExecDefaults make of a command, in a form that another process can read. Strings that are not UTF-8
// are not kept.
type commandDefaults struct {
	Dir, User string        `json:",omitempty"`
	Env       []string      `json:",omitempty"`
	ClearEnv  bool          `json:",omitempty"`
	Rlimits   []Rlimit      `json:",omitempty"`
	Limits    Limits        `json:",omitzero"`
	Timeout   time.Duration `json:",omitempty"`
	MaxOutput int           `json:",omitempty"`
}

// commandDefaults returns c's.
func (c *config) commandDefaults() *commandDefaults {
	cmd := &Cmd{}
	c.applyDefaults(cmd)
	d := &commandDefaults{
		Dir: cmd.Dir, User: cmd.User, Rlimits: cmd.Rlimits, Limits: cmd.Limits, Timeout: cmd.Timeout, MaxOutput: cmd.maxOutput,
		Env: append(c.env[:len(c.env):len(c.env)], cmd.baseEnv...), ClearEnv: cmd.Env != nil,
	}
	if d.ClearEnv {
		d.Env = cmd.Env
	}
	return d
}

// apply is an ExecOption.
func (d *commandDefaults) apply(c *Cmd) error {
	c.Dir, c.User, c.Rlimits, c.Limits, c.Timeout, c.maxOutput = d.Dir, d.User, slices.Clone(d.Rlimits), d.Limits, d.Timeout, d.MaxOutput
	if d.ClearEnv {
		c.Env = []string{}
	}
	return c.AddEnv(d.Env...)
}
