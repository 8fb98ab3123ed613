package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/initramfs"
)

// footprint is what a sandbox could leave behind in this process.
type footprint struct {
	goroutines, fds, threads, maps int
}

func measure(t *testing.T) footprint {
	t.Helper()
	count := func(dir string, skip func(name string) bool) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range entries {
			if !skip(e.Name()) {
				n++
			}
		}
		return n
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	guest := 0 // guest memory and kvm_run; the Go heap may grow meanwhile
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "memfd:") || strings.Contains(line, "kvm") {
			guest++
		}
	}
	return footprint{
		goroutines: runtime.NumGoroutine(),
		fds:        count("/proc/self/fd", func(string) bool { return false }),
		threads: count("/proc/self/task", func(tid string) bool {
			comm, err := os.ReadFile("/proc/self/task/" + tid + "/comm")
			// KVM adds a worker of its own to our thread group while a VM lives, and some time longer.
			return err != nil || strings.HasPrefix(string(comm), "kvm-nx-lpage")
		}),
		maps: guest,
	}
}

// settle measures until nothing is above the baseline: the runtime and the kernel free some things a moment after they were given up.
func settle(t *testing.T, base footprint) footprint {
	t.Helper()
	var now footprint
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		now = measure(t)
		if now.goroutines <= base.goroutines && now.fds <= base.fds && now.threads <= base.threads && now.maps <= base.maps {
			return now
		}
	}
	return now
}

// assertNothingLeft fails unless the process is back at base. Threads may rise by spare: the Go runtime keeps its own threads for reuse, so a
// few more after parallel work are no leak, while one per sandbox would be.
func assertNothingLeft(t *testing.T, base footprint, spare int) {
	t.Helper()
	base.threads += spare
	now := settle(t, base)
	if now.goroutines > base.goroutines || now.fds > base.fds || now.threads > base.threads || now.maps > base.maps {
		buf := make([]byte, 1<<20)
		t.Fatalf("left behind: before %+v, after %+v\n%s", base, now, buf[:runtime.Stack(buf, true)])
	}
}

// agentOnly writes an initial file system with nothing but the agent: it boots faster than the full one.
func agentOnly(t testing.TB) string {
	t.Helper()
	path := os.Getenv(EnvInitramfs)
	if path == "" {
		img, err := initramfs.Base(context.Background(), initramfs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		path = img.Path
	}
	a, err := initramfs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	agent, err := a.ReadFile("init", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	return writeImage(t, initramfs.File{Name: "init", Mode: 0o755, Data: agent}, initramfs.File{Name: "tmp", Mode: os.ModeDir | 0o777})
}

func writeImage(t testing.TB, files ...initramfs.File) string {
	t.Helper()
	b, err := initramfs.Files(files)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "guest.cpio")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSandboxesInARowLeaveNothingBehind(t *testing.T) {
	needKVM(t)
	image := agentOnly(t)
	cycle := func() {
		sb, err := New(context.Background(), WithInitramfs(image), WithMemory(MinMemory), WithBootTimeout(bootTimeout))
		if err != nil {
			t.Fatal(err)
		}
		sb.Close()
		if _, err := sb.Exec(context.Background(), "true", nil); !errors.Is(err, ErrClosed) {
			t.Errorf("Exec after Close = %v, want ErrClosed", err)
		}
		if err := sb.Wait(context.Background()); err != nil {
			t.Errorf("Wait after Close = %v", err)
		}
		sb.Close()
	}
	cycle() // whatever is made once per process exists from here on
	base := measure(t)
	for range soak(10, 100) {
		cycle()
	}
	assertNothingLeft(t, base, 4) // one thread for each sandbox would be more
}

func TestSandboxesAtOnceRunAndLeaveNothingBehind(t *testing.T) {
	needKVM(t)
	n := soak(4, 8)
	runAtOnce(t, n) // the runtime keeps the threads it made for the first, and reuses them
	base := measure(t)
	runAtOnce(t, n)
	assertNothingLeft(t, base, n-1) // one thread for each sandbox would be more
}

func runAtOnce(t *testing.T, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			sb, err := New(context.Background(), WithBootTimeout(bootTimeout))
			if err != nil {
				t.Error(err)
				return
			}
			defer sb.Close()
			res, err := sb.Exec(context.Background(), "echo", []string{fmt.Sprint("sandbox ", i)})
			if want := fmt.Sprintf("sandbox %d\n", i); err != nil || res.Stdout() != want {
				t.Errorf("sandbox %d: %+v, %v", i, res, err)
			}
		})
	}
	wg.Wait()
}

// closeBound is far above the second that Close may take on real hardware, and far below any time-out that would hide a hang.
const closeBound = 15 * time.Second

func TestCancelDuringBootReturnsSoon(t *testing.T) {
	needKVM(t)
	base := measure(t)
	for _, after := range []time.Duration{0, 200 * time.Millisecond, time.Second, 2 * time.Second} {
		ctx, cancel := context.WithCancel(context.Background())
		var cancelled time.Time
		timer := time.AfterFunc(after, func() { cancelled = time.Now(); cancel() })
		sb, err := New(ctx, WithBootTimeout(bootTimeout))
		took := time.Since(cancelled)
		timer.Stop()
		cancel()
		if sb != nil {
			sb.Close() // it was quicker than the cancellation
			continue
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("New cancelled after %v = %v, want Canceled", after, err)
		}
		t.Logf("cancelled %v into the boot: returned after %v", after, took)
		if took > closeBound {
			t.Errorf("New returned %v after the cancellation", took)
		}
	}
	assertNothingLeft(t, base, 6)
}

func TestCloseDuringCommandsReturnsSoonAndFailsThem(t *testing.T) {
	needKVM(t)
	base := measure(t)
	sb, err := New(context.Background(), WithBootTimeout(bootTimeout))
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 4)
	started := make(chan struct{}, 4)
	for range 4 {
		go func() {
			c := sb.Command(context.Background(), "sh", "-c", "echo up; while true; do echo output; done")
			var once sync.Once
			c.Stdout = writerFunc(func(p []byte) (int, error) { once.Do(func() { started <- struct{}{} }); return len(p), nil })
			errs <- c.Run()
		}()
	}
	for range 4 {
		<-started
	}
	begin := time.Now()
	sb.Close()
	took := time.Since(begin)
	t.Logf("Close with four busy commands took %v", took)
	if took > closeBound {
		t.Errorf("Close took %v", took)
	}
	for range 4 {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("command of a closed sandbox: %v, want ErrClosed", err)
		}
	}
	assertNothingLeft(t, base, 6)
}

func TestBootFailuresAreTypedNameTheStageAndLeaveNothing(t *testing.T) {
	needKVM(t)
	// A guest program that is no agent: it sleeps for ever.
	sleeper := writeImage(t, initramfs.File{Name: "init", Mode: 0o755, Data: sleepELF})
	notProgram := writeImage(t, initramfs.File{Name: "init", Mode: 0o755, Data: []byte("no program")})
	for _, tc := range []struct {
		name  string
		opts  []Option
		check func(error) string
	}{
		{"guest that never answers", []Option{WithInitramfs(sleeper), WithBootTimeout(8 * time.Second)}, func(err error) string {
			var be *BootError
			if !errors.As(err, &be) || !errors.Is(err, ErrBootTimeout) || be.Stage < StageRunning {
				return "a BootError with ErrBootTimeout after the guest had started"
			}
			return ""
		}},
		{"init is no program: the kernel panics", []Option{WithInitramfs(notProgram)}, func(err error) string {
			var be *BootError
			var se *StoppedError
			if !errors.As(err, &be) || !errors.As(err, &se) || se.Reason != ReasonPanic || !bytes.Contains(be.Console, []byte("Kernel panic")) {
				return "a BootError for a panic with the console's end"
			}
			return ""
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := measure(t)
			sb, err := New(context.Background(), append([]Option{WithBootTimeout(bootTimeout)}, tc.opts...)...)
			if err == nil {
				sb.Close()
				t.Fatal("New succeeded")
			}
			t.Log(err)
			if want := tc.check(err); want != "" {
				t.Fatalf("got %v; want %s", err, want)
			}
			assertNothingLeft(t, base, 4)
		})
	}
}

// sleepELF is a static x86-64 program of one instruction pair: `pause; jmp -4`. Made by hand: a 64-byte ELF header, one PT_LOAD header that
// maps the file at 0x400000, and the code at offset 0x78.
var sleepELF = func() []byte {
	b := make([]byte, 0x7c)
	copy(b, "\x7fELF\x02\x01\x01")
	put := func(off int, size int, v uint64) {
		for i := range size {
			b[off+i] = byte(v >> (8 * i))
		}
	}
	put(16, 2, 2)        // ET_EXEC
	put(18, 2, 62)       // EM_X86_64
	put(20, 4, 1)        // version
	put(24, 8, 0x400078) // entry
	put(32, 8, 64)       // program headers
	put(52, 2, 64)       // header size
	put(54, 2, 56)       // program header size
	put(56, 2, 1)        // one of them
	put(64, 4, 1)        // PT_LOAD
	put(68, 4, 5)        // readable, executable
	put(80, 8, 0x400000) // virtual address
	put(88, 8, 0x400000)
	put(96, 8, 0x7c)
	put(104, 8, 0x7c)
	put(112, 8, 0x1000)
	copy(b[0x78:], "\xf3\x90\xeb\xfc") // pause; jmp to pause
	return b
}()

func TestBadKernelsAndImagesAreRefusedByName(t *testing.T) {
	needKVM(t)
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k, err := boot.Resolve(context.Background(), boot.ResolveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	image, err := os.ReadFile(k.Image)
	if err != nil {
		t.Fatal(err)
	}
	foreign := bytes.Clone(image)
	foreign[18], foreign[19] = 183, 0 // EM_AARCH64
	garbage := write("garbage", bytes.Repeat([]byte("no kernel "), 1000))
	truncated := write("truncated", image[:len(image)/2])
	arm := write("arm64", foreign)
	corrupt := write("corrupt.cpio", []byte(strings.Repeat("070701 but not really", 100)))
	empty := writeImage(t, initramfs.File{Name: "etc/motd", Data: []byte("no init here")})
	for _, tc := range []struct {
		name, value string
		opts        []Option
		is          error
	}{
		{"no such kernel", filepath.Join(dir, "missing"), []Option{WithKernel(filepath.Join(dir, "missing"))}, ErrNoKernel},
		{"garbage kernel", garbage, []Option{WithKernel(garbage)}, boot.ErrNotKernel},
		{"truncated kernel", truncated, []Option{WithKernel(truncated)}, boot.ErrTruncated},
		{"foreign kernel", arm, []Option{WithKernel(arm)}, boot.ErrForeignArch},
		{"no such initramfs", filepath.Join(dir, "none.cpio"), []Option{WithInitramfs(filepath.Join(dir, "none.cpio"))}, os.ErrNotExist},
		{"corrupt initramfs", corrupt, []Option{WithInitramfs(corrupt)}, initramfs.ErrFormat},
		{"initramfs without agent", empty, []Option{WithInitramfs(empty)}, ErrNoAgent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := measure(t)
			sb, err := New(context.Background(), append([]Option{WithBootTimeout(bootTimeout)}, tc.opts...)...)
			if err == nil {
				sb.Close()
				t.Fatal("New succeeded")
			}
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.value) {
				t.Fatalf("got %v; want %v, naming %s", err, tc.is, tc.value)
			}
			t.Log(err)
			assertNothingLeft(t, base, 4)
		})
	}
}
