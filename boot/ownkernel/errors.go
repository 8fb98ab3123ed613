package ownkernel

import (
	"errors"
	"fmt"
)

// Errors that callers can tell apart with errors.Is.
var (
	// ErrNotBuilt means that there is no kernel of our own in the cache.
	ErrNotBuilt = errors.New("our own kernel has not been built")
	// ErrUnsupported means that there is no configuration for the machine's architecture.
	ErrUnsupported = errors.New("no configuration of our own kernel for this architecture")
	// ErrToolchain means that the build tools, taken from the system or the cache, do not work.
	ErrToolchain = errors.New("the tools for building a kernel do not work")
	// ErrSource means that the kernel source is not what was expected.
	ErrSource = errors.New("kernel source cannot be used")
)

// An Error is a failed step of Build.
type Error struct {
	Op     string // "unpack the source", "compile", …
	Err    error
	Output string // the end of what the tool printed; may be empty
	Fix    string // what to do; may be empty
}

// Error formats the step, the cause, the fix and the output.
func (e *Error) Error() string {
	s := fmt.Sprintf("own kernel: %s: %v", e.Op, e.Err)
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	if e.Output != "" {
		s += ":\n" + e.Output
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// A ConfigError lists the requested options that the kernel's configuration did not take: the kernel has renamed or removed them, or
// something they depend on is off.
type ConfigError struct {
	Missing []string // lines of the fragment, such as "CONFIG_FOO=y"
}

// Error names all options.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("own kernel: %d options did not end up as requested: %q", len(e.Missing), e.Missing)
}
