package debpkg

import (
	"errors"
	"fmt"
	"strings"
)

// The kinds of failure, for errors.Is. They arrive wrapped in an *Error that names the operation and the package.
var (
	// ErrNoPackageClient: apt-get or dpkg-deb is not on PATH, so this is no Debian relative (or a stripped one).
	ErrNoPackageClient = errors.New("no package client")
	// ErrUnknownPackage: no configured source offers the package (the lists are fresh).
	ErrUnknownPackage = errors.New("package not found in the configured sources")
	// ErrNoNetwork: the lists or a package could not be downloaded.
	ErrNoNetwork = errors.New("package source not reachable")
)

// Error is a failed operation of this package.
type Error struct {
	Op     string // what was tried: "find client", "update lists", "resolve", "download", "unpack", …
	Name   string // package, program or file it was tried on; may be empty
	Err    error  // one of the Err… values, an error of the operating system, or ctx.Err
	Fix    string // what to do about it; may be empty
	Output string // the last lines the package client printed; may be empty
}

// Error formats all fields that are set on one line, the client's output last.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("packages: " + e.Op)
	if e.Name != "" {
		b.WriteString(" " + e.Name)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Fix != "" {
		b.WriteString("; " + e.Fix)
	}
	if e.Output != "" {
		b.WriteString(" (the client said: " + strings.ReplaceAll(e.Output, "\n", " | ") + ")")
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As the cause.
func (e *Error) Unwrap() error { return e.Err }
