//go:build linux && amd64

package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// `hutch ls` in a loop must not make `hutch create` and `hutch rm` say that a sandbox runs which does not.
func TestWhoLooksAtALockDoesNotKeepOthersFromIt(t *testing.T) {
	n := named{name: "x", dir: filepath.Join(t.TempDir(), "x")}
	unlock, err := n.lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	_, looked, err := n.tryLock(os.O_RDONLY, syscall.LOCK_SH) // as running does, but long enough to be in the way
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(lookTime/20, looked)
	unlock, err = n.lock()
	if err != nil {
		t.Fatalf("lock = %v, though nobody has it", err)
	}
	if _, err := n.lock(); !errors.Is(err, ErrRunning) {
		t.Errorf("lock while somebody has it = %v", err)
	}
	unlock()
}

// The next sandbox of a name may begin while the last one is still being removed: what it has is its own.
func TestRemovalTakesNothingOfTheNextOneOfTheName(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	n, err := placeOf("x")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := Remove("x"); err != nil && !errors.Is(err, ErrRunning) && !errors.Is(err, ErrNoSuchSandbox) {
					t.Errorf("Remove = %v", err)
				}
			}
		})
	}
	files := []string{"exec.log", "exec.log.lock", "holder.log", "sandbox.json"}
	for range 3000 {
		unlock, err := n.lock()
		if errors.Is(err, ErrRunning) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(n.dir, f), nil, 0o600); err != nil {
				t.Errorf("the holder of the lock: %v", err)
			}
		}
		for _, f := range append(files, "lock") {
			if _, err := os.Stat(filepath.Join(n.dir, f)); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s of the holder of the lock was removed", f)
			}
		}
		unlock()
		if t.Failed() {
			break
		}
	}
	close(done)
	wg.Wait()
}
