package cachedir

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

func TestDirHonoursTheOverrideAndMakesTheFolder(t *testing.T) {
	root := filepath.Join(t.TempDir(), "deep", "cache")
	t.Setenv(Env, root)
	got, err := Dir("kernels", "x")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(root, "kernels", "x"); got != want {
		t.Fatalf("Dir = %q, want %q", got, want)
	}
}

func TestLockExcludesASecondHolderUntilReleased(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second Lock = %v, want DeadlineExceeded", err)
	}
	unlock()
	unlock2, err := Lock(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock2()
}
