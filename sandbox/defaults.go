package sandbox

import "context"

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
