package initramfs

import (
	"errors"
	"fmt"
)

// Errors that callers can tell apart with errors.Is.
var (
	// ErrNoToolchain means that the image must be built and there is no usable Go command.
	ErrNoToolchain = errors.New("no Go toolchain to build the guest image with")
	// ErrNoSource means that hutch's own source, which the agent is built from, was not found.
	ErrNoSource = errors.New("source of hutch's guest agent not found")
	// ErrFormat means that a file is not a newc archive the kernel would unpack.
	ErrFormat = errors.New("not a valid cpio archive (newc format)")
	// ErrNotFound means that an archive has no such entry.
	ErrNotFound = errors.New("no such entry in the archive")
	// ErrInvalidFile means that a File given to Files cannot be stored.
	ErrInvalidFile = errors.New("file cannot be put into an archive")
)

// A FormatError says where and why an archive is invalid. errors.Is(err, ErrFormat) holds.
type FormatError struct {
	Offset int64  // of the header that is wrong, in bytes from the start
	Name   string // of the entry, when it could be read
	Reason string
}

// Error names the offset, the entry and the reason.
func (e *FormatError) Error() string {
	name := ""
	if e.Name != "" {
		name = fmt.Sprintf(" (entry %q)", e.Name)
	}
	return fmt.Sprintf("initramfs: offset %d%s: %s: %v", e.Offset, name, e.Reason, ErrFormat)
}

// Unwrap returns ErrFormat.
func (e *FormatError) Unwrap() error { return ErrFormat }

// A BuildError is a failed step of Base with the tail of what the tool printed. Unwrap gives the cause.
type BuildError struct {
	Op     string // "build userland", "build agent", …
	Err    error
	Output string // the last lines of the tool's output; may be empty
	Fix    string // what to do; may be empty
}

// Error formats the step, cause, fix and output.
func (e *BuildError) Error() string {
	s := fmt.Sprintf("initramfs: %s: %v", e.Op, e.Err)
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	if e.Output != "" {
		s += ": " + e.Output
	}
	return s
}

// Unwrap returns the cause.
func (e *BuildError) Unwrap() error { return e.Err }
