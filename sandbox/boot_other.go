//go:build !(linux && amd64)

package sandbox

import "context"

// machine is never made on this platform; it exists so that the rest of the package compiles and documents itself everywhere.
type machine struct {
	console *console
	cause   error
	ended   chan struct{}
	done    chan struct{}
}

func (m *machine) end(error) {}

func bootSandbox(context.Context, *config) (*Sandbox, error) { return nil, ErrUnsupported }
