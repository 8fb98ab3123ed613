//go:build linux && amd64

package sandbox

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
)

const (
	benchBytes = 32 << 20 // of one streamed command
	benchBlock = 64 << 10
	benchExecs = 1000 // at once
)

// benchBoth runs a benchmark against an agent in this process and, where a guest can run, against the one in a guest of newGuest. The latter
// reports how many times as long it takes: only ratios within one run mean something on an emulated machine.
func benchBoth(b *testing.B, newGuest func(testing.TB) *Sandbox, bench func(*testing.B, *Sandbox)) {
	var agent float64 // ns/op
	b.Run("agent", func(b *testing.B) {
		b.ReportAllocs() // the agent's allocations are among them
		bench(b, agentSandbox(b))
		agent = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	})
	b.Run("guest", func(b *testing.B) {
		b.ReportAllocs()
		bench(b, newGuest(b))
		if agent > 0 {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/agent, "x-agent")
		}
	})
}

func BenchmarkExec(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		ctx := context.Background()
		for b.Loop() {
			if res, err := sb.Exec(ctx, "true", nil); err != nil || !res.Success() {
				b.Fatal(res, err)
			}
		}
	})
}

func BenchmarkShell(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		ctx := context.Background()
		for b.Loop() {
			if res, err := sb.Shell(ctx, "echo hi; exit 5"); err != nil || res.Stdout() != "hi\n" || res.ExitCode() != 5 {
				b.Fatal(res, err)
			}
		}
	})
}

// BenchmarkExecStream is BenchmarkExec through a handle.
func BenchmarkExecStream(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		ctx := context.Background()
		for b.Loop() {
			h, err := sb.ExecStream(ctx, "true", nil)
			if err != nil {
				b.Fatal(err)
			}
			if n, code := drain(b, h); n != 0 || code != 0 {
				b.Fatal(n, code)
			}
		}
	})
}

// drain receives the events of h to their end, and returns the bytes of output and the exit code.
func drain(b *testing.B, h *ExecHandle) (n, code int) {
	code = -1
	for {
		ev, err := h.Recv(context.Background())
		if err == io.EOF {
			return n, code
		}
		if err != nil {
			b.Fatal(err)
		}
		switch n += len(ev.Data); ev.Kind {
		case ExecEventExited:
			code = ev.ExitCode
		case ExecEventFailed:
			b.Fatal(ev.Err)
		}
	}
}

// printed is a command that prints benchBytes in blocks of benchBlock, swallowed one that reads to the end of its input.
var (
	printed   = []string{"if=/dev/zero", "bs=" + strconv.Itoa(benchBlock), "count=" + strconv.Itoa(benchBytes/benchBlock), "status=none"}
	swallowed = []string{"of=/dev/null", "bs=" + strconv.Itoa(benchBlock), "status=none"}
)

// tally counts what is written to it.
type tally struct{ n int }

func (c *tally) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

// BenchmarkStdoutCmd streams from the guest to a Writer.
func BenchmarkStdoutCmd(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			c, out := sb.Command(context.Background(), "dd", printed...), &tally{}
			c.Stdout = out
			if err := c.Run(); err != nil || out.n != benchBytes {
				b.Fatal(out.n, err)
			}
		}
	})
}

// BenchmarkStdoutExec streams from the guest into the memory of a Result.
func BenchmarkStdoutExec(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			res, err := sb.Exec(context.Background(), "dd", printed)
			if err != nil || len(res.StdoutBytes()) != benchBytes {
				b.Fatal(res, err)
			}
		}
	})
}

// BenchmarkStdoutHandle streams from the guest through Recv.
func BenchmarkStdoutHandle(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			h, err := sb.ExecStream(context.Background(), "dd", printed)
			if err != nil {
				b.Fatal(err)
			}
			if n, code := drain(b, h); n != benchBytes || code != 0 {
				b.Fatal(n, code)
			}
		}
	})
}

// BenchmarkStdinCmd streams from a Reader to the guest.
func BenchmarkStdinCmd(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		b.SetBytes(benchBytes)
		for b.Loop() {
			c := sb.Command(context.Background(), "dd", swallowed...)
			c.Stdin = io.LimitReader(zeros{}, benchBytes)
			if err := c.Run(); err != nil || c.ProcessState.Totals().Stdin != benchBytes {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkStdinHandle streams to the guest through an ExecSink.
func BenchmarkStdinHandle(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		b.SetBytes(benchBytes)
		block := make([]byte, benchBlock)
		for b.Loop() {
			h, err := sb.ExecStream(context.Background(), "dd", swallowed, WithExecStdinPipe())
			if err != nil {
				b.Fatal(err)
			}
			stdin := h.TakeStdin()
			for range benchBytes / benchBlock {
				if _, err := stdin.Write(block); err != nil {
					b.Fatal(err)
				}
			}
			stdin.Close()
			if res, err := h.Wait(context.Background()); err != nil || res.State().Totals().Stdin != benchBytes {
				b.Fatal(res, err)
			}
		}
	})
}

// BenchmarkThousandExecs has a thousand commands at once; one iteration is all of them.
func BenchmarkThousandExecs(b *testing.B) {
	large := func(t testing.TB) *Sandbox { return newSandbox(t, WithMemory(1<<30)) }
	benchBoth(b, large, func(b *testing.B, sb *Sandbox) {
		for b.Loop() {
			errs := make(chan error, benchExecs)
			var wg sync.WaitGroup
			for range benchExecs {
				wg.Go(func() {
					if res, err := sb.Exec(context.Background(), "true", nil); err != nil || !res.Success() {
						errs <- fmt.Errorf("%+v, %w", res, err)
					}
				})
			}
			wg.Wait()
			if len(errs) > 0 {
				b.Fatal(<-errs)
			}
		}
		b.ReportMetric(float64(benchExecs*b.N)/b.Elapsed().Seconds(), "execs/s")
	})
}

// BenchmarkSessionReplay comes back to an ended session that keeps 1 MiB of output.
func BenchmarkSessionReplay(b *testing.B) {
	const keep = 1 << 20
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		ctx := context.Background()
		x, err := sb.StartSession(ctx, "head", []string{"-c", strconv.Itoa(keep), "/dev/zero"}, WithExecDetachable(keep))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := x.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(keep)
		for b.Loop() {
			h, err := x.Stream(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if n, code := drain(b, h); n != keep || code != 0 {
				b.Fatal(n, code)
			}
		}
		b.StopTimer()
		if err := x.Forget(ctx); err != nil {
			b.Fatal(err)
		}
	})
}

// shownBytes passes on how many bytes a terminal has shown.
type shownBytes chan int

func (c shownBytes) Write(p []byte) (int, error) { c <- len(p); return len(p), nil }

// BenchmarkTerminalEcho is the time from a key to its echo on the screen: Enter, which shows as "\r\n".
func BenchmarkTerminalEcho(b *testing.B) {
	benchBoth(b, shared.get, func(b *testing.B, sb *Sandbox) {
		screen, ended := make(shownBytes), make(chan error, 1)
		r, keys := io.Pipe()
		go func() {
			_, err := sb.AttachWith(context.Background(), "sh", WithAttachArgs("-c", "cat >/dev/null"), WithAttachIO(r, screen, nil))
			ended <- err
		}()
		enter := []byte("\n")
		press := func() {
			if _, err := keys.Write(enter); err != nil {
				b.Fatal(err)
			}
			for n := 0; n < 2; {
				select {
				case m := <-screen:
					n += m
				case err := <-ended:
					b.Fatal("the attachment ended: ", err)
				}
			}
		}
		press() // the command has started
		for b.Loop() {
			press()
		}
		b.StopTimer()
		keys.Close() // types end of file
		for {
			select {
			case <-screen:
			case err := <-ended:
				if err != nil {
					b.Fatal(err)
				}
				return
			}
		}
	})
}
