package main

import (
	"os"
	"path/filepath"
	"testing"
)

// ownDirs gives the test folders of its own for named sandboxes.
func ownDirs(t *testing.T) {
	t.Helper()
	dir, err := shortDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
}
