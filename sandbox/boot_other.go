//go:build !(linux && amd64)

package sandbox

import "context"

func bootSandbox(context.Context, *config) (*Sandbox, error) { return nil, ErrUnsupported }
