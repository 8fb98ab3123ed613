package cachedir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
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

func TestARelativeCacheHomeIsIgnored(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("XDG_CACHE_HOME has a meaning on Linux only")
	}
	home, work := t.TempDir(), t.TempDir()
	t.Chdir(work)
	t.Setenv(Env, "")
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "cache")
	if got, err := Dir("x"); err != nil || got != filepath.Join(home, ".cache", "hutch", "x") {
		t.Errorf("relative: %q, %v", got, err)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("made in the working directory: %v, %v", left, err)
	}
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "other"))
	if got, err := Dir("x"); err != nil || got != filepath.Join(home, "other", "hutch", "x") {
		t.Errorf("absolute: %q, %v", got, err)
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
