//go:build linux && amd64

package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRelativeDirectoriesOfTheEnvironmentAreIgnored(t *testing.T) {
	home, tmp, work := t.TempDir(), t.TempDir(), t.TempDir()
	t.Chdir(work)
	t.Setenv("HOME", home)
	t.Setenv("TMPDIR", tmp)
	t.Setenv("XDG_STATE_HOME", "state")
	t.Setenv("XDG_RUNTIME_DIR", "./run")
	n, err := placeOf("x")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(home, ".local/state/hutch/x"); n.dir != want {
		t.Errorf("state in %s, want %s", n.dir, want)
	}
	if filepath.Dir(filepath.Dir(n.socket)) != tmp {
		t.Errorf("socket %s, want it below %s", n.socket, tmp)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Errorf("made in the working directory: %v, %v", left, err)
	}
}

// A boot is not begun for a socket that cannot be: the device that the options name is not even opened.
func TestATooLongSocketPathIsRefusedBeforeTheBoot(t *testing.T) {
	dir := t.TempDir()
	state, run := filepath.Join(dir, "state"), filepath.Join(dir, strings.Repeat("r", 100))
	t.Setenv("XDG_STATE_HOME", state)
	t.Setenv("XDG_RUNTIME_DIR", run)
	socket := filepath.Join(run, "hutch", "x.sock")
	err := Hold(testContext(t), "x", nil, WithKVMDevice(filepath.Join(dir, "kvm")))
	var se *SocketPathError
	if !errors.As(err, &se) || *se != (SocketPathError{socket, maxSocketPath}) || errors.Is(err, ErrNoKVM) {
		t.Errorf("Hold = %v, want a *SocketPathError for %s", err, socket)
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state directory: %v, want that it was not made", err)
	}
	if _, err := ConnectSocket(testContext(t), socket); !errors.As(err, &se) {
		t.Errorf("ConnectSocket = %v, want a *SocketPathError", err)
	}
	if err := checkSocketPath(strings.Repeat("x", maxSocketPath)); err != nil {
		t.Errorf("the longest path: %v", err)
	}
}

func TestARecordThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	n := named{name: "x", dir: t.TempDir()}
	old := &Record{Name: "x", PID: 7, Created: time.Unix(1, 0).UTC()}
	if err := n.write(old); err != nil {
		t.Fatal(err)
	}
	// Something that is in the way of the new file stands for a full disk.
	if err := os.Mkdir(n.recordPath()+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.write(&Record{Name: "x", PID: 8}); err == nil {
		t.Error("it was written")
	}
	if got, err := n.read(); err != nil || !reflect.DeepEqual(got, old) {
		t.Errorf("the record is %+v, %v; want %+v", got, err, old)
	}
	if err := n.write(&Record{Name: "x", PID: 9}); err != nil {
		t.Error(err)
	}
	if got, err := n.read(); err != nil || got.PID != 9 {
		t.Errorf("the record is %+v, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(n.dir, "*.new")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Another user may make our folder in the shared temporary directory first; we cannot remove it then.
func TestATakenRuntimeDirectoryIsDoneWithout(t *testing.T) {
	state, tmp := t.TempDir(), t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", tmp)
	if err := os.Mkdir(filepath.Join(tmp, "hutch-"+strconv.Itoa(os.Getuid())), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(tmp, "hutch-"+strconv.Itoa(os.Getuid())), 0o777); err != nil {
		t.Fatal(err)
	}
	n, err := placeOf("x")
	if want := filepath.Join(state, "hutch", ".run", "x.sock"); err != nil || n.socket != want {
		t.Errorf("socket %s, %v; want %s", n.socket, err, want)
	}
	if list, err := Named(); err != nil || len(list) != 0 {
		t.Errorf("Named = %v, %v", list, err)
	}
}
