package sandbox_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/hutchvm/hutch/sandbox"
)

// newSandbox is a sandbox for one test, which is skipped where none can be booted.
func newSandbox(t *testing.T) *sandbox.Sandbox {
	checks, err := sandbox.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if c.Status == sandbox.CheckFail {
			t.Skipf("%s: %s; %s", c.Name, c.Detail, c.Fix)
		}
	}
	sb, err := sandbox.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sb.Close() })
	return sb
}

var _ = newSandbox

func ExampleCheck() {
	checks, err := sandbox.Check(context.Background(), sandbox.WithMemory(1<<30))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range checks {
		fmt.Println(c.Status, c.Name, c.Detail)
		if c.Fix != "" {
			fmt.Println("  fix:", c.Fix)
		}
	}
}
