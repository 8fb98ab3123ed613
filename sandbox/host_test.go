package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestOptionsThatCannotWorkAreRefusedByName(t *testing.T) {
	for _, tc := range []struct {
		opt    Option
		option string
	}{
		{WithMemory(1 << 20), "WithMemory"},
		{WithMemory(MaxMemory + 4096), "WithMemory"},
		{WithMemory(MinMemory + 1), "WithMemory"},
		{WithMemory(-1), "WithMemory"},
		{WithCPUs(-1), "WithCPUs"},
		{WithCPUs(MaxCPUs + 1), "WithCPUs"},
		{WithBootTimeout(-time.Second), "WithBootTimeout"},
		{WithEnv("novalue"), "WithEnv"},
		{WithEnv("A=b\x00c"), "WithEnv"},
		{WithCmdline("a\nb"), "WithCmdline"},
		{nil, "New"},
	} {
		sb, err := New(context.Background(), tc.opt)
		var ce *ConfigError
		if sb != nil || !errors.As(err, &ce) || ce.Option != tc.option {
			t.Errorf("%s: New = %v, %v; want a ConfigError for it", tc.option, sb, err)
		}
	}
}

func TestMissingDeviceIsErrNoKVM(t *testing.T) {
	if !supported() {
		t.Skip("needs linux/amd64")
	}
	path := filepath.Join(t.TempDir(), "kvm")
	_, err := New(context.Background(), WithKVMDevice(path))
	if !errors.Is(err, ErrNoKVM) || !strings.Contains(err.Error(), path) {
		t.Fatalf("New = %v; want ErrNoKVM naming %s", err, path)
	}
}

func TestForbiddenDeviceIsErrKVMPermission(t *testing.T) {
	if !supported() {
		t.Skip("needs linux/amd64")
	}
	dir, err := os.MkdirTemp("", "hutch-test-") // t.TempDir's parents are closed to other users
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path, self := filepath.Join(dir, "kvm"), filepath.Join(dir, "child")
	copyTo(t, self, "/proc/self/exe")
	if err := errors.Join(os.WriteFile(path, nil, 0), os.Chmod(dir, 0o755), os.Chmod(self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), childEnv+"="+path)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"permission denied", path, "setfacl"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the error %q does not say %q", out, want)
		}
	}
}

func copyTo(t *testing.T, to, from string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
}

func TestSoftwareKVMIsRefusedAtOnceAndTheErrorNamesTheLab(t *testing.T) {
	switch err := usableKVM(); {
	case err == nil:
		t.Skip("this machine's KVM has hardware behind it; the refusal needs one that has not")
	case !errors.Is(err, ErrSoftwareKVM):
		t.Skipf("there is no KVM here to look at: %v", err)
	}
	begin := time.Now()
	_, err := New(context.Background())
	took := time.Since(begin)
	if !errors.Is(err, ErrSoftwareKVM) || !strings.Contains(err.Error(), "kvmlab") {
		t.Fatalf("New = %v; want ErrSoftwareKVM naming kvmlab", err)
	}
	t.Logf("refused after %v", took)
	if took > 10*time.Second {
		t.Errorf("New needed %v to refuse", took)
	}
}

func TestConsoleKeepsTheEndAndNeverWaitsForItsReader(t *testing.T) {
	gate := make(chan struct{})
	var got bytes.Buffer
	c := newConsole(writerFunc(func(p []byte) (int, error) { <-gate; return got.Write(p) }))
	line := bytes.Repeat([]byte("0123456789abcdef"), 64) // 1 KiB
	const lines = 1024                                   // four times the ring
	for i := range lines {
		line[0] = byte(i)
		c.Write(line)
	}
	if tail := c.tail(len(line)); !bytes.Equal(tail, line) {
		t.Error("the tail is not what was written last")
	}
	close(gate)
	c.close()
	<-c.done
	if total := uint64(got.Len()) + c.dropped.Load(); total != lines*1024 {
		t.Errorf("%d bytes forwarded and %d dropped, want %d in all", got.Len(), c.dropped.Load(), lines*1024)
	}
	if !bytes.HasSuffix(got.Bytes(), line) {
		t.Error("the forwarded bytes do not end with the last ones written")
	}
}

func TestConsoleFindsThePanicMessage(t *testing.T) {
	c := newConsole(nil)
	c.Write([]byte("[    1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\n[    1.1] CPU: 0"))
	if msg, ok := c.panicMessage(); !ok || msg != "Attempted to kill init! exitcode=0x00000100" {
		t.Fatalf("panicMessage = %q, %v", msg, ok)
	}
}

func TestErrorsShowGuestTextWithoutControlCharacters(t *testing.T) {
	err := &BootError{Stage: StageRunning, Console: []byte("line\x1b[2Jone\r\nline two\x07\n"), Err: ErrBootTimeout}
	msg := err.Error()
	if strings.ContainsAny(msg, "\x1b\x07\r") || !strings.Contains(msg, "line.[2Jone\n  line two.") {
		t.Fatalf("message %q", msg)
	}
}

func TestHeadTailKeepsBothEndsAndCountsTheRest(t *testing.T) {
	for _, chunk := range []int{1, 3, 7, 100} {
		h := newHeadTail(10)
		in := []byte("abcdefghijklmnopqrstuvwxyz")
		for p := in; len(p) > 0; {
			n := min(chunk, len(p))
			h.Write(p[:n])
			p = p[n:]
		}
		if got, want := string(h.Bytes()), "abcde\n... omitting 16 bytes ...\nvwxyz"; got != want {
			t.Errorf("chunks of %d: %q, want %q", chunk, got, want)
		}
	}
}

func TestParseRlimit(t *testing.T) {
	for in, want := range map[string]Rlimit{
		"nofile=1024":      {"nofile", 1024, 1024},
		"nofile=1024:2048": {"nofile", 1024, 2048},
		"core=0:unlimited": {"core", 0, RlimitInfinity},
		"stack=unlimited":  {"stack", RlimitInfinity, RlimitInfinity},
	} {
		if got, err := ParseRlimit(in); err != nil || got != want {
			t.Errorf("ParseRlimit(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "nofile", "nofile=", "nofile=x", "files=3", "nofile=2:1", "nofile=-1"} {
		var ce *ConfigError
		if _, err := ParseRlimit(in); !errors.As(err, &ce) {
			t.Errorf("ParseRlimit(%q) = %v, want a ConfigError", in, err)
		}
	}
}

func TestFaultLogIsBoundedAndNeverWaitsForTheHandler(t *testing.T) {
	var out lockedBuffer
	gate := make(chan struct{})
	f := newFaultLog(slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) { <-gate; return out.Write(p) }), nil)))
	stop := make(chan struct{})
	go f.run(stop)
	const faults = 100_000
	for range faults {
		f.report(errors.New("the guest broke its ring")) // returns although the handler stands still
	}
	close(gate)
	for deadline := time.Now().Add(time.Minute); len(f.faults) > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	<-f.done
	lines := strings.Count(out.String(), "\n")
	if most := 3 * faultBurst; lines == 0 || lines > most {
		t.Fatalf("%d lines logged for %d faults, want 1 to %d", lines, faults, most)
	}
	if !strings.Contains(out.String(), "suppressed=") {
		t.Errorf("the log does not count what was left out: %s", out.String())
	}
}

// lockedBuffer is a bytes.Buffer that goroutines may share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
