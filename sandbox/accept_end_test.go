//go:build linux && amd64

package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pendingCalls starts one call of every kind that waits for the guest. Each sends its error when it returns.
func pendingCalls(t *testing.T, sb *Sandbox) map[string]chan error {
	t.Helper()
	ctx, waiter := context.Background(), install(t, sb, "wait")
	calls := make(map[string]chan error)
	call := func(name string, f func() error) {
		ch := make(chan error, 1)
		calls[name] = ch
		go func() { ch <- f() }()
	}
	open := func(opts ...ExecOption) *ExecHandle {
		h, err := sb.ExecStream(ctx, waiter, nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	x, err := sb.StartSession(ctx, waiter, nil)
	if err != nil {
		t.Fatal(err)
	}
	follower, err := x.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	call("Exec", func() error { _, err := sb.Exec(ctx, waiter, nil); return err })
	c := sb.Command(ctx, waiter)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	call("Cmd.Wait", c.Wait)
	wait, collect, events, input := open(), open(), open(), open(WithExecStdinPipe())
	call("ExecHandle.Wait", func() error { _, err := wait.Wait(ctx); return err })
	call("ExecHandle.Collect", func() error { _, err := collect.Collect(ctx); return err })
	call("ExecHandle.Recv", func() error {
		var failed error
		for ev, err := range events.Events(ctx) {
			if err != nil {
				return err
			}
			if ev.Kind == ExecEventFailed {
				failed = ev.Err
			}
		}
		return failed
	})
	call("ExecSink.Write", func() error {
		_, err := io.Copy(input.TakeStdin(), zeros{})
		if err == nil {
			return errors.New("an endless copy ended")
		}
		_, err = input.Wait(ctx)
		return err
	})
	call("Session.Wait", func() error { _, err := x.Wait(ctx); return err })
	call("Session.Stream", func() error { _, err := follower.Wait(ctx); return err })
	call("AttachWith", func() error {
		r, w := io.Pipe()
		defer w.Close() // ends the attachment's reader
		_, err := sb.AttachWith(ctx, waiter, WithAttachIO(r, io.Discard, nil))
		return err
	})
	call("Sandbox.Wait", func() error { return sb.Wait(ctx) })
	return calls
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Whatever ends the machine, every pending call returns the same error, soon, and nothing is left.
func TestAcceptEveryPendingCallEndsWithTheMachineInAGuest(t *testing.T) {
	needKVM(t)
	for _, tc := range []struct {
		name    string
		end     func(t *testing.T, sb *Sandbox) func()
		reasons []Reason
	}{
		{"kernel panic", sysrq("c"), []Reason{ReasonPanic}},
		{"power off", sysrq("o"), []Reason{ReasonPowerOff, ReasonAgent}}, // the connection goes first, in the lab seconds before,
		{"reboot", sysrq("b"), []Reason{ReasonReboot}},
		{"sockets of the agent shut down by the guest", func(t *testing.T, sb *Sandbox) func() {
			path := install(t, sb, "steal")
			return func() { sb.Exec(context.Background(), path, nil) }
		}, []Reason{ReasonAgent, ReasonReboot}}, // the agent starts the machine anew when it has lost its host
		{"agent killed", func(t *testing.T, sb *Sandbox) func() {
			path := install(t, sb, "doom")
			return func() { sb.Exec(context.Background(), path, nil) }
		}, []Reason{ReasonPanic}},
		{"socket device reset by the host", func(_ *testing.T, sb *Sandbox) func() {
			return sb.host.(*machine).sock.TransportReset
		}, []Reason{ReasonAgent, ReasonReboot}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := measure(t)
			sb, err := New(context.Background(), WithBootTimeout(bootTimeout))
			if err != nil {
				t.Fatal(err)
			}
			defer sb.Close()
			end := tc.end(t, sb)
			calls := pendingCalls(t, sb)
			time.Sleep(100 * time.Millisecond) // let the calls reach the guest; nothing depends on it
			event := time.Now()
			go end()
			select {
			case <-sb.life.ended:
			case <-time.After(time.Minute):
				t.Fatalf("the machine does not end; its console: %s", sb.Console())
			}
			begin := time.Now()
			t.Logf("the machine ended %v after it was told to: %v", begin.Sub(event), sb.life.cause.(*StoppedError).brief())
			for name, ch := range calls {
				select {
				case err := <-ch:
					var se *StoppedError
					if !errors.Is(err, ErrStopped) || !errors.As(err, &se) || !slices.Contains(tc.reasons, se.Reason) || len(se.Console) == 0 && se.Reason != ReasonAgent || se != sb.life.cause {
						t.Errorf("%s: %v; want the sandbox's *StoppedError of %v with what the console showed", name, err, tc.reasons)
					}
				case <-time.After(time.Minute):
					t.Errorf("%s hangs", name)
				}
			}
			t.Logf("every call was over %v after the machine", time.Since(begin))
			if _, err := sb.Exec(context.Background(), "true", nil); !errors.Is(err, ErrStopped) {
				t.Errorf("Exec afterwards: %v", err)
			}
			sb.Close()
			assertNothingLeft(t, base, 6)
		})
	}
}

// sysrq ends the guest by its magic key.
func sysrq(key string) func(t *testing.T, sb *Sandbox) func() {
	return func(_ *testing.T, sb *Sandbox) func() {
		return func() { sb.Shell(context.Background(), "echo "+key+" >/proc/sysrq-trigger") }
	}
}

func TestAcceptThousandSessionsAndTheOneTooManyInAGuest(t *testing.T) {
	sb := newSandbox(t, WithMemory(1<<30))
	ctx, path := testContext(t), install(t, sb, "wait")
	const max = 1024
	handles := make([]*ExecHandle, max)
	var wg sync.WaitGroup
	jobs := make(chan int)
	for range 32 {
		wg.Go(func() {
			for i := range jobs {
				h, err := sb.ExecStream(ctx, path, nil)
				if err != nil {
					t.Errorf("command %d: %v", i, err)
					continue
				}
				handles[i] = h
			}
		})
	}
	for i := range max {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	if t.Failed() {
		return
	}
	_, err := sb.ExecStream(ctx, path, nil)
	var le *LimitError
	if !errors.As(err, &le) || le.Max != max {
		t.Errorf("one too many: %v; want a *LimitError of %d", err, max)
	}
	handles[0].Close() // room for the command that counts
	if n := running(t, sb, path); n != max-1 {
		t.Errorf("%d commands run", n)
	}
	for _, h := range handles {
		wg.Go(func() { h.Close() })
	}
	wg.Wait()
	waitUntil(t, "the agent holds nothing", func() bool {
		s, err := sb.client.Stats(ctx)
		return err == nil && s.Sessions == 0
	})
	if res, err := sb.Exec(ctx, "echo", []string{"fine"}); err != nil || res.Stdout() != "fine\n" {
		t.Errorf("afterwards: %+v, %v", res, err)
	}
}

// The shell is what most commands are, and in a slow lab five thousand of them take minutes: with HUTCH_SOAK=1.
func TestAcceptFiveThousandShellCommandsInAGuest(t *testing.T) {
	if os.Getenv("HUTCH_SOAK") != "1" {
		t.Skip("set HUTCH_SOAK=1: it takes minutes in the lab")
	}
	sb, ctx := shared.get(t), testContext(t)
	inParallel(64, 5000, func(i int) {
		if res, err := sb.Shell(ctx, "echo hi; exit 5"); err != nil || res.Stdout() != "hi\n" || res.Stderr() != "" || res.ExitCode() != 5 {
			t.Errorf("command %d: %+v, %v", i, res, err)
		}
	})
}

// 1 GiB each way takes minutes in the lab: with HUTCH_SOAK=1.
func TestAcceptGibibyteEachWayInAGuest(t *testing.T) {
	if os.Getenv("HUTCH_SOAK") != "1" {
		t.Skip("set HUTCH_SOAK=1: it takes minutes in the lab")
	}
	sb, ctx := shared.get(t), testContext(t)
	const size = 1 << 30
	begin := time.Now()
	in := &pattern{n: size, h: sha256.New()}
	res, err := sb.Exec(ctx, "sha256sum", nil, WithExecStdin(in))
	if err != nil || !strings.HasPrefix(res.Stdout(), fmt.Sprintf("%x", in.h.Sum(nil))) || res.State().Totals().Stdin != size {
		t.Errorf("into the guest: %q, %v, want %s", res.Stdout(), err, fmt.Sprintf("%x", in.h.Sum(nil)))
	}
	t.Logf("into the guest: %v", time.Since(begin))
	begin = time.Now()
	out := sha256.New()
	c := sb.Command(ctx, "head", "-c", "1073741824", "/dev/zero")
	c.Stdout = out
	want := sha256.New()
	io.CopyN(want, zeros{}, size)
	if err := c.Run(); err != nil || string(out.Sum(nil)) != string(want.Sum(nil)) || c.ProcessState.Totals().Stdout != size {
		t.Errorf("out of the guest: %v, %+v", err, c.ProcessState.Totals())
	}
	t.Logf("out of the guest: %v", time.Since(begin))
}
