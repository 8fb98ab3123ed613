package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// childEnv makes the test binary open a sandbox with the KVM device it names, print the error and exit: for tests that need another user.
const childEnv = "HUTCH_TEST_CHILD_KVM"

func runAsChild() bool {
	path := os.Getenv(childEnv)
	if path == "" {
		return false
	}
	sb, err := New(context.Background(), WithKVMDevice(path))
	if sb != nil {
		sb.Close()
	}
	if !errors.Is(err, ErrKVMPermission) {
		fmt.Printf("not ErrKVMPermission: ")
		defer os.Exit(1)
	}
	fmt.Printf("%v\n", err)
	return true
}
