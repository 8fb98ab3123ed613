package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestExecKeepsStreamsApartAndReportsTheCode(t *testing.T) {
	sb := shared.get(t)
	res, err := sb.Shell(testContext(t), "echo out; echo err >&2; exit 42")
	if err != nil {
		t.Fatal(err)
	}
	if res.Stdout() != "out\n" || res.Stderr() != "err\n" || res.ExitCode() != 42 || res.Success() {
		t.Fatalf("stdout %q, stderr %q, code %d", res.Stdout(), res.Stderr(), res.ExitCode())
	}
	if got, want := res.State().Totals(), (Totals{Stdout: 4, Stderr: 4}); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
	var ee *ExitError
	if !errors.As(res.Err(), &ee) || ee.ExitCode() != 42 {
		t.Errorf("Err = %v, want an ExitError with code 42", res.Err())
	}
}

func TestExecReportsDeathBySignal(t *testing.T) {
	sb := shared.get(t)
	res, err := sb.Shell(testContext(t), "kill -9 $$")
	if err != nil {
		t.Fatal(err)
	}
	if res.ExitCode() != -1 || res.ShellExitCode() != 137 || res.State().Signal() != 9 {
		t.Fatalf("code %d, shell code %d, signal %v; want -1, 137 and SIGKILL", res.ExitCode(), res.ShellExitCode(), res.State().Signal())
	}
}

func TestGuestRunsTheKernelThatWasAskedFor(t *testing.T) {
	sb := shared.get(t)
	res, err := sb.Exec(testContext(t), "uname", []string{"-r"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := res.Stdout(), sb.Info().Kernel+"\n"; got != want {
		t.Fatalf("uname -r = %q, Info says %q", got, want)
	}
}

func TestNilStdinIsEndOfFileAtOnce(t *testing.T) {
	sb := shared.get(t)
	res, err := sb.Exec(testContext(t), "cat", nil)
	if err != nil || res.Stdout() != "" || res.ExitCode() != 0 {
		t.Fatalf("cat with nil stdin: %+v, %v", res, err)
	}
}

// hashed counts and hashes what passes through.
type hashed struct {
	h hash.Hash
	n int64
}

func (h *hashed) Write(p []byte) (int, error) { h.n += int64(len(p)); return h.h.Write(p) }

func TestStdinThroughCatToStdoutIsByteExact(t *testing.T) {
	sb := shared.get(t)
	size := int64(soak(32, 256)) << 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	in, out := &hashed{h: sha256.New()}, &hashed{h: sha256.New()}
	c := sb.Command(testContext(t), "cat")
	c.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8(key), size), in)
	c.Stdout = out
	begin := time.Now()
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB each way in %v", size>>20, time.Since(begin).Round(time.Millisecond))
	if in.n != size || out.n != size {
		t.Fatalf("%d bytes in, %d bytes out, want %d", in.n, out.n, size)
	}
	if !bytes.Equal(in.h.Sum(nil), out.h.Sum(nil)) {
		t.Fatal("what came out is not what went in")
	}
	if got := c.ProcessState.Totals(); got.Stdin != size || got.Stdout != size {
		t.Fatalf("totals %+v", got)
	}
}

// Two processors have the stock kernels' guests.
func TestGuestSeesItsProcessors(t *testing.T) {
	for cpus, want := range map[int]string{1: "1\n0\n", 4: "4\n0-3\n"} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			sb := shared.get(t) // has one
			if cpus > 1 {
				sb = newSandbox(t, WithCPUs(cpus))
			}
			res, err := sb.Shell(testContext(t), "grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online")
			if err != nil || res.Stdout() != want {
				t.Fatalf("guest sees %+v, want %q, %v", res, want, err)
			}
		})
	}
}

func TestTimeoutEndsTheCommandAndKeepsItsOutput(t *testing.T) {
	sb := shared.get(t)
	res, err := sb.Shell(testContext(t), "echo before; sleep 1000", WithExecTimeout(3*time.Second))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err = %v, want DeadlineExceeded", err)
	}
	if res == nil || res.Stdout() != "before\n" {
		t.Fatalf("result %+v: the output before the timeout is missing", res)
	}
}

func TestCancelledContextEndsTheCommand(t *testing.T) {
	sb := shared.get(t)
	ctx, cancel := context.WithCancel(context.Background())
	c := sb.Command(ctx, "sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := c.Wait(); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait = %v, want Canceled", err)
	}
}

func TestOptionsReachTheCommand(t *testing.T) {
	sb := shared.get(t)
	res, err := sb.Shell(testContext(t), "pwd; echo $WHO; id -u; ulimit -n", WithExecCwd("/tmp"), WithExecUser("nobody"),
		WithExecEnv(map[string]string{"WHO": "me"}), WithExecRlimit("nofile", 77, 88))
	if err != nil {
		t.Fatal(err)
	}
	if want := "/tmp\nme\n65534\n77\n"; res.Stdout() != want {
		t.Fatalf("stdout %q, want %q (stderr %q)", res.Stdout(), want, res.Stderr())
	}
}

func TestReaderThatNeverReadsStallsNobodyElse(t *testing.T) {
	sb := shared.get(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	blocked := sb.Command(ctx, "sh", "-c", "while true; do echo flood flood flood flood flood flood; done")
	gate := make(chan struct{})
	blocked.Stdout = writerFunc(func(p []byte) (int, error) { <-gate; return len(p), nil })
	if err := blocked.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		res, err := sb.Exec(testContext(t), "echo", []string{fmt.Sprint(i)})
		if err != nil || res.Stdout() != fmt.Sprintf("%d\n", i) {
			t.Fatalf("beside a stalled command: %+v, %v", res, err)
		}
	}
	close(gate)
	cancel()
	if err := blocked.Wait(); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait = %v, want Canceled", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestCmdBehavesLikeOSExec(t *testing.T) {
	sb := shared.get(t)
	ctx := testContext(t)
	t.Run("Output puts stderr into the error", func(t *testing.T) {
		out, err := sb.Command(ctx, "sh", "-c", "echo out; echo why >&2; exit 3").Output()
		var ee *ExitError
		if string(out) != "out\n" || !errors.As(err, &ee) || ee.ExitCode() != 3 || string(ee.Stderr) != "why\n" {
			t.Fatalf("Output = %q, %v", out, err)
		}
	})
	t.Run("CombinedOutput keeps the order", func(t *testing.T) {
		out, err := sb.Command(ctx, "sh", "-c", "echo 1; echo 2 >&2; echo 3; echo 4 >&2").CombinedOutput()
		if string(out) != "1\n2\n3\n4\n" || err != nil {
			t.Fatalf("CombinedOutput = %q, %v", out, err)
		}
	})
	t.Run("pipes", func(t *testing.T) {
		c := sb.Command(ctx, "sh", "-c", "cat; echo done >&2")
		stdin, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := c.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(stdin, "through the pipe")
		stdin.Close()
		out, _ := io.ReadAll(stdout) // its end must not wait for stderr's reader
		errs, _ := io.ReadAll(stderr)
		if err := c.Wait(); err != nil || string(out) != "through the pipe" || string(errs) != "done\n" {
			t.Fatalf("stdout %q, stderr %q, Wait %v", out, errs, err)
		}
	})
	t.Run("a command that ignores its stdin is no error", func(t *testing.T) {
		c := sb.Command(ctx, "true")
		c.Stdin = strings.NewReader(strings.Repeat("x", 8<<20))
		if err := c.Run(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a background child does not hold Wait beyond WaitDelay", func(t *testing.T) {
		c := sb.Command(ctx, "sh", "-c", "sleep 1000 & sleep 1; echo started")
		var out bytes.Buffer
		c.Stdout, c.WaitDelay = &out, 100*time.Millisecond
		if err := c.Run(); !errors.Is(err, ErrWaitDelay) || out.String() != "started\n" {
			t.Fatalf("Run = %v, stdout %q; want ErrWaitDelay", err, out.String())
		}
	})
}
