//go:build linux && amd64

package sandbox

import "testing"

// The examples are in package sandbox_test, as their readers see them; these are the sandboxes that its test runs them in.

// AgentSandbox has an agent in this process for a guest.
func AgentSandbox(t testing.TB) *Sandbox { return agentSandbox(t) }

// SharedGuest skips the test where no guest can run.
func SharedGuest(t testing.TB) *Sandbox { return shared.get(t) }
