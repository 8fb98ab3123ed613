package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// agentPort is the port on the host (CID 2) that the guest agent connects to once it can run commands.
const agentPort = 1024

// A Sandbox is a running Linux microVM inside this process, with an agent in it that runs commands.
//
// Make it with New and end it with Close. Safe for concurrent use.
type Sandbox struct {
	cfg    *config
	host   host
	life   *life
	client *channel.Client
	info   Info
	logs   *execLog // nil = none

	closeOnce sync.Once
	watch     sync.WaitGroup
}

// Info is what is known of a sandbox once it has booted.
type Info struct {
	Kernel     string    `json:"kernel"`         // the guest kernel's release, as `uname -r` prints it
	KernelPath string    `json:"kernelPath"`     // the kernel file on the host
	Initramfs  string    `json:"initramfs"`      // the initial file system's file on the host
	CPUs       int       `json:"cpus"`           // virtual CPUs
	Memory     int64     `json:"memory"`         // guest memory in bytes
	Boot       BootTimes `json:"boot"`           // when each phase of the boot was over
	Agent      string    `json:"agent"`          // the agent's build
	Shell      string    `json:"shell"`          // what Shell and AttachShell run
	Name       string    `json:"name,omitempty"` // of a named sandbox
	Log        string    `json:"log,omitempty"`  // the log of a named sandbox, a file for execlog.Read
}

// New makes a sandbox: it builds a virtual machine in this process, boots Linux in it and returns when the guest's agent has answered.
//
// ctx bounds the boot only; the sandbox outlives it. Without options the kernel comes from the ladder of package boot, the userland from the
// cache.
//
// Errors, all with nothing left behind: *ConfigError for an option; errors.Is ErrUnsupported, ErrNoKVM, ErrKVMPermission, ErrSoftwareKVM,
// ErrNoKernel with what to do about it; otherwise a *BootError with the stage reached and the end of the guest's console, whose cause is
// ctx's error, ErrBootTimeout, a *StoppedError when the guest ended by itself, an error of package boot for a kernel that does not do, or a
// *VersionError for an image of another version of hutch. docs/errors.md has the messages with cause and fix.
func New(ctx context.Context, opts ...Option) (*Sandbox, error) {
	if ctx == nil {
		return nil, &ConfigError{"New", "nil", "the context is nil; give context.Background()"}
	}
	cfg, err := resolve(opts)
	if err != nil {
		return nil, err
	}
	if !supported() {
		return nil, ErrUnsupported
	}
	return bootSandbox(ctx, cfg)
}

// Info returns what is known of the sandbox. It does not change.
func (s *Sandbox) Info() Info { return s.info }

// Done returns a channel that is closed when the virtual machine is gone, closed or ended by itself.
func (s *Sandbox) Done() <-chan struct{} { return s.life.done }

// Wait waits until the virtual machine is gone. It returns nil after Close, a *StoppedError when the machine ended by itself, or ctx's error
// when that ends first.
func (s *Sandbox) Wait(ctx context.Context) error {
	select {
	case <-s.life.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(s.life.cause, ErrClosed) {
		return nil
	}
	return s.life.cause
}

// Close ends the virtual machine and returns when every goroutine, thread, descriptor and mapping of it is gone. Commands that still run get
// ErrClosed. Idempotent; always nil.
func (s *Sandbox) Close() error {
	s.closeOnce.Do(func() {
		s.host.end(ErrClosed)
		s.client.Close()
	})
	<-s.life.done
	s.watch.Wait()
	return nil
}

// Console returns the last bytes of the guest's serial console, at most 256 KiB.
func (s *Sandbox) Console() []byte { return s.host.tail(consoleRing) }

// agentGrace is how long a lost connection waits for the virtual machine to say why: a kernel panic takes the agent down before the reset.
const agentGrace = 500 * time.Millisecond

// watchAgent ends the machine when the agent's connection is lost: without it nothing can be run any more.
func (s *Sandbox) watchAgent() {
	defer s.watch.Done()
	select {
	case <-s.life.ended:
	case <-s.client.Done():
		select {
		case <-s.life.ended:
		case <-time.After(agentGrace):
			s.host.end(&StoppedError{Reason: ReasonAgent, Err: s.client.Err()})
		}
	}
	s.client.Close()
	s.logs.close(s.life.cause)
}

// failure says why an operation on a sandbox failed: a machine that has ended explains it better than the broken connection.
func (s *Sandbox) failure(err error) error {
	var start *StartError
	if err == nil || errors.As(err, &start) || errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if errors.Is(err, channel.ErrAgentLost) || errors.Is(err, channel.ErrClosed) {
		// The connection breaks first; who watches it ends the machine after agentGrace, later where processors are short.
		select {
		case <-s.life.ended:
		case <-time.After(10 * agentGrace):
			return err
		}
	}
	select {
	case <-s.life.ended:
		return s.life.cause
	default:
		return err
	}
}

// wrapBoot makes a BootError unless err explains itself.
func wrapBoot(stage Stage, tail []byte, err error) error {
	for _, self := range []error{ErrNoKVM, ErrKVMPermission, ErrSoftwareKVM, ErrNoKernel, ErrUnsupported} {
		if errors.Is(err, self) {
			return fmt.Errorf("sandbox: %w", err)
		}
	}
	return &BootError{Stage: stage, Console: tail, Err: err}
}
