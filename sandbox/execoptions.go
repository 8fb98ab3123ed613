package sandbox

import (
	"fmt"
	"strconv"

	"github.com/hutchvm/hutch/channel"
)

// WithExecStdinPipe lets the holder of an ExecHandle write the command's standard input, through TakeStdin. Only ExecStream and ShellStream
// take it.
func WithExecStdinPipe() ExecOption {
	return func(c *Cmd) error { c.stdinPipe = true; return nil }
}

// WithExecTTY runs the command on a terminal of rows lines and cols columns; zero is 24 and 80. Its standard error arrives with its standard
// output.
func WithExecTTY(rows, cols uint16) ExecOption {
	return func(c *Cmd) error { c.TTY = &TTY{Rows: rows, Cols: cols}; return nil }
}

// WithExecMaxOutput keeps at most n bytes of each stream, the first and the last half, with a line between them that says how many bytes are
// missing; Result.Dropped has the numbers. Without it, Exec and Collect end a command that prints more than DefaultMaxOutput. It does not
// change what ExecHandle.Recv gives.
func WithExecMaxOutput(n int) ExecOption {
	return func(c *Cmd) error {
		if n <= 0 {
			return &ConfigError{"WithExecMaxOutput", strconv.Itoa(n), "give a positive number of bytes, or leave the option out"}
		}
		c.maxOutput = n
		return nil
	}
}

// WithExecClearEnv starts from an empty environment: neither the agent's defaults (PATH, HOME, USER) nor the sandbox's. WithExecEnv adds to
// it, in whichever order the options stand. A name without a slash needs a PATH to be found.
func WithExecClearEnv() ExecOption {
	return func(c *Cmd) error { c.Env = []string{}; return nil }
}

// WithExecID names the command's session, at most 128 bytes; the default is a random ID. Starting fails with a *StartError when a running
// command has that ID.
func WithExecID(id string) ExecOption {
	return func(c *Cmd) error {
		if id == "" || len(id) > maxSessionID {
			return &ConfigError{"WithExecID", strconv.Quote(id), "give 1 to 128 bytes, or leave the option out for a random ID"}
		}
		c.SessionID = id
		return nil
	}
}

// WithExecDetachable lets the command outlive its handle: ExecHandle.Detach leaves it running, and Sandbox.Session comes back to it. The guest
// keeps the last replay bytes of each output stream, up to 16 MiB, for whoever comes back; zero is 1 MiB.
//
// The guest pays for them: all detachable commands together keep at most an eighth of its memory, or 256 MiB, and a command without a terminal takes
// replay twice, for stdout and stderr. With DefaultMemory that is about 30 MiB in all, so that 16 MiB fit only on a terminal; 320 MiB
// of memory hold one such command without. Starting one that does not fit is a *LimitError, which has what fits.
//
// While the handle is there, output that nobody receives stalls the command, as ever; a detached command is never stalled, and loses the
// oldest bytes it printed.
func WithExecDetachable(replay int) ExecOption {
	return func(c *Cmd) error {
		if replay < 0 || replay > channel.MaxReplay {
			return &ConfigError{"WithExecDetachable", strconv.Itoa(replay), fmt.Sprintf("give 0 to %d bytes, which all detachable commands together take from an eighth of the guest's memory", channel.MaxReplay)}
		}
		c.detachable, c.replay = true, replay
		return nil
	}
}

// WithExecOpenStdin gives a detachable command a standard input that those who come back can write (WithStdin). A command on a terminal
// always has it; any other reads the null device without this option.
func WithExecOpenStdin() ExecOption {
	return func(c *Cmd) error { c.openStdin = true; return nil }
}

// maxSessionID is the longest session ID of the exec protocol, in bytes.
const maxSessionID = 128

// apply applies the options of the call op.
func (c *Cmd) apply(op string, opts []ExecOption) error {
	for _, o := range opts {
		if o == nil {
			return &ConfigError{op, "nil", "an option is nil; leave it out instead"}
		}
		if err := o(c); err != nil {
			return err
		}
	}
	return nil
}
