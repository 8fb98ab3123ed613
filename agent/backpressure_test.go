//go:build linux

package agent_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// written is how many bytes a process has written. Source: proc_pid_io(5), wchar.
func written(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Skipf("needs /proc/PID/io (CONFIG_TASK_IO_ACCOUNTING): %v", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "wchar: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	t.Fatalf("no wchar in %q", b)
	return 0
}

// standStill waits until no process writes any more and returns what each wrote.
func standStill(t *testing.T, ps []*channel.Process) []int64 {
	t.Helper()
	last := make([]int64, len(ps))
	same := 0
	eventually(t, "the processes are held in write", func() bool {
		time.Sleep(10 * time.Millisecond)
		same++
		for i, p := range ps {
			if n := written(t, p.PID()); n == 0 || n != last[i] {
				last[i], same = n, 0
			}
		}
		return same == 20
	})
	return last
}

func TestProcessWhoseOutputNobodyTakesIsHeldInWrite(t *testing.T) {
	c, _ := connectProcess(t)
	run(t, c, sh("true"), nil)
	before, err := c.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	const n = 8
	gate := make(chan struct{})
	var ps []*channel.Process
	for range n {
		p, err := c.Start(context.Background(), &channel.Request{Path: "head", Args: []string{"head", "-c", "20000000", "/dev/zero"}},
			channel.Stdio{Stdout: writerFunc(func(p []byte) (int, error) { <-gate; return len(p), nil })})
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	for i, w := range standStill(t, ps) {
		// The host's window of 1 MiB, a pipe of 256 KiB, a few chunks on the way.
		if w > 3<<20 {
			t.Errorf("process %d wrote %d bytes that nobody took", i, w)
		}
	}
	quickExecs(t, c, 100, 8) // others are not disturbed
	after, err := c.Stats(context.Background())
	if err != nil || after.HeapBytes-before.HeapBytes > n<<20 {
		t.Errorf("the agent's heap grew from %d to %d bytes, %v", before.HeapBytes, after.HeapBytes, err)
	}
	close(gate)
	for _, p := range ps {
		if e, err := p.Wait(); err != nil || e.Code != 0 || e.Stdout != 20000000 {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

func TestStdinThatTheProcessDoesNotReadDisturbsNobody(t *testing.T) {
	c, _ := connectProcess(t)
	p, err := c.Start(context.Background(), &channel.Request{Path: "sleep", Args: []string{"sleep", "1000"}},
		channel.Stdio{Stdin: io.LimitReader(zeros{}, 10<<20)})
	if err != nil {
		t.Fatal(err)
	}
	quickExecs(t, c, 100, 8)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	e, err := p.Wait()
	if err != nil || e.Signal != channel.SIGKILL || !errors.Is(e.StdinErr, channel.ErrStdinClosed) || e.Stdin >= 10<<20 {
		t.Fatalf("%+v, %v", e, err)
	}
}

// through sends size bytes through cat and compares SHA-256.
func through(t *testing.T, c *channel.Client, size int64) {
	t.Helper()
	seed := rand.Uint64()
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	in, out := sha256.New(), sha256.New()
	src := io.TeeReader(io.LimitReader(rand.NewChaCha8(key), size), in)
	p, err := c.Start(context.Background(), &channel.Request{Path: "cat"}, channel.Stdio{Stdin: src, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Wait()
	if err != nil || e.Code != 0 || e.Stdin != size || e.Stdout != size || e.StdinErr != nil || string(in.Sum(nil)) != string(out.Sum(nil)) {
		t.Fatalf("%d bytes, seed %d: %+v, %v, same hash %v", size, seed, e, err, string(in.Sum(nil)) == string(out.Sum(nil)))
	}
}

func TestManyMebibytesThroughCatArriveWhole(t *testing.T) {
	c, _ := connectProcess(t)
	through(t, c, 256<<20)
	if os.Getenv("HUTCH_CAMPAIGN") != "" {
		through(t, c, 1<<30) // seconds on an idle machine
	}
}
