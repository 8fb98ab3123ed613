package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/sandbox"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

// A holder is a process of this program that holds a named microVM: `hutch hold`, which only `hutch create` and `hutch run` start. It reports on
// one descriptor, and learns on the other whether who started it is still there.

// holdSpec says what a holder is to do. It travels in the environment: a command line can be read by every user of the machine.
type holdSpec struct {
	Flags  []string `json:"flags"`            // those of hutch create
	Once   bool     `json:"once,omitempty"`   // the microVM ends with who started it, or with the session that was left
	Remove bool     `json:"remove,omitempty"` // nothing of it stays
}

// holdEnv is the environment variable with a holder's holdSpec in JSON.
const holdEnv = "HUTCH_HOLD"

// The descriptors of a holder.
const (
	holdFD     = 3 // where it reports
	lifelineFD = 4 // ends with who started it
)

// holdStatus is a line that a holder writes to the process that started it.
type holdStatus struct {
	Step  string `json:"step,omitempty"`
	Error string `json:"error,omitempty"`
	Ready bool   `json:"ready,omitempty"`
}

// holder is a holder that this process has started, as seen from here.
type holder struct {
	cmd      *exec.Cmd
	lifeline *os.File
}

// givenFlags are c's flags as they were given, those that a holder knows.
func givenFlags(c *cobra.Command) []string {
	known := newHold().Flags()
	var flags []string
	c.Flags().Visit(func(fl *pflag.Flag) {
		if known.Lookup(fl.Name) != nil {
			flags = append(flags, flagArgs(fl)...)
		}
	})
	return flags
}

// startHolder starts a holder and waits until its microVM can be used. The end of ctx, which is endedBy's, ends the holder.
func startHolder(ctx context.Context, name string, spec *holdSpec, verbose bool) (*holder, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	given, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	reports, report, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reports.Close()
	far, lifeline, err := os.Pipe()
	if err != nil {
		report.Close()
		return nil, err
	}
	cmd := exec.Command(self, "hold", name)
	cmd.Env = append(os.Environ(), holdEnv+"="+string(given))
	cmd.ExtraFiles = []*os.File{report, far}
	cmd.Stderr = os.Stderr // until it is ready: the reason of a crash
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	report.Close()
	far.Close()
	h := &holder{cmd, lifeline}
	if err != nil {
		lifeline.Close()
		return nil, fmt.Errorf("starting the holder: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	for dec := json.NewDecoder(reports); ; {
		var st holdStatus
		if dec.Decode(&st) != nil { // it ended, or died in the middle of a line
			break
		}
		switch {
		case st.Ready:
			return h, nil
		case st.Error != "":
			_ = h.end()
			return nil, holderError(ctx, errors.New(st.Error))
		case verbose || stderrIsTerminal():
			fmt.Fprintln(os.Stderr, "hutch:", st.Step)
		}
	}
	reports.Close()
	_ = h.end()
	return nil, holderError(ctx, fmt.Errorf("the holder ended before the microVM had booted: %v", h.cmd.ProcessState))
}

// holderError is err, unless it is only what a signal that ended ctx looks like to the holder: then the signal's exit code.
func holderError(ctx context.Context, err error) error {
	if code, ended := endingSignal(ctx); ended {
		return code
	}
	return err
}

// release leaves the holder to itself.
func (h *holder) release() {
	h.lifeline.Close()
	_ = h.cmd.Process.Release()
}

// leave leaves a holder that ends with who started it to a session: it ends with that one.
func (h *holder) leave(session string) error {
	if _, err := fmt.Fprintln(h.lifeline, session); err != nil {
		return fmt.Errorf("the holder is gone: %w", err)
	}
	h.release()
	return nil
}

// end waits for the holder, which knows that nobody is there any more. One that does not end, such as one that was stopped, is killed.
func (h *holder) end() error {
	h.lifeline.Close()
	kill := time.AfterFunc(endTime, func() { _ = h.cmd.Process.Kill() })
	defer kill.Stop()
	return h.cmd.Wait()
}

// endTime is what a holder gets to end: it removes a machine, and writes a record, which takes well under a second on an idle machine.
const endTime = time.Minute

func newHold() *cobra.Command {
	f := &createFlags{}
	c := &cobra.Command{
		Use: "hold [flags] NAME", Hidden: true, Short: "Hold the microVM of hutch create", Args: oneName,
		RunE: func(c *cobra.Command, args []string) error {
			given, ok := os.LookupEnv(holdEnv)
			if !ok { // the status descriptor would tell as well, were it not that the runtime may have opened a file there
				return errors.New("hold: it is hutch create that starts this command")
			}
			var spec holdSpec
			if err := json.Unmarshal([]byte(given), &spec); err != nil {
				return fmt.Errorf("hold: %s: %w", holdEnv, err)
			}
			os.Unsetenv(holdEnv)
			if err := c.Flags().Parse(spec.Flags); err != nil {
				return err
			}
			return hold(f, args[0], &spec)
		},
	}
	f.bootFlags.register(c)
	f.cmdFlags.register(c)
	return c
}

// hold is the process that holds a named sandbox.
func hold(f *createFlags, name string, spec *holdSpec) error {
	status, lifeline := os.NewFile(holdFD, "status"), os.NewFile(lifelineFD, "lifeline")
	unix.CloseOnExec(holdFD)
	unix.CloseOnExec(lifelineFD)
	report := json.NewEncoder(status)
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := endedBy(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := f.check()
	if err == nil {
		var end context.CancelFunc
		ctx, end = context.WithCancel(ctx)
		defer end()
		err = holdSandbox(ctx, f, name, report, func(sb *sandbox.Sandbox) {
			moveOutput(filepath.Dir(sb.Info().Log))
			if spec.Once {
				go func() {
					defer end()
					outlive(ctx, sb, lifeline)
				}()
			}
			_ = os.Chdir("/") // it must not keep a file system busy
			_ = report.Encode(holdStatus{Ready: true})
			status.Close()
		})
	}
	if spec.Remove && !errors.Is(err, sandbox.ErrNameTaken) {
		if rerr := sandbox.Remove(name); !errors.Is(rerr, sandbox.ErrNoSuchSandbox) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil && report.Encode(holdStatus{Error: explainBoot(err).Error()}) == nil {
		return exitCode(exitFailed) // who started it says it
	}
	return err // that one has gone: it is for holder.log
}

// lastWords is how long those who follow a session, and then the log, get to read its end before the microVM goes.
const lastWords = 10 * time.Second

// outlive returns when a microVM that is there for one command is to end: its starter has gone, or the session that this one has left has ended.
func outlive(ctx context.Context, sb *sandbox.Sandbox, lifeline io.Reader) {
	line, err := bufio.NewReader(lifeline).ReadString('\n')
	if err != nil {
		return
	}
	session := sb.Session(strings.TrimSpace(line))
	if _, err := session.Wait(ctx); err != nil {
		return
	}
	awaitReaders(ctx, lastWords, session.Info)
	awaitLog(ctx, lastWords, session.ID(), sb.Logs)
}

// awaitLog waits until the end of the session is in the log, behind its output, at most for d.
func awaitLog(ctx context.Context, d time.Duration, session string, logs func(context.Context, execlog.Query) iter.Seq2[execlog.Entry, error]) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	q := execlog.Query{Session: session, Sources: []execlog.Source{execlog.System}, Follow: true, Poll: 10 * time.Millisecond}
	for e := range logs(ctx, q) { // an error is of one entry, or the last thing
		if e.Event != nil && (e.Event.Kind == execlog.Exit || e.Event.Kind == execlog.Failed) {
			return
		}
	}
}

// awaitReaders waits until nobody follows the session that info tells of, at most for d, also when the guest tells nothing.
func awaitReaders(ctx context.Context, d time.Duration, info func(context.Context) (sandbox.SessionInfo, error)) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if s, err := info(ctx); err != nil || s.Watchers == 0 {
			return
		}
	}
}

func holdSandbox(ctx context.Context, f *createFlags, name string, report *json.Encoder, ready func(*sandbox.Sandbox)) error {
	f.verbose = false
	opts, cleanup, err := f.options()
	if err != nil {
		return err
	}
	defer cleanup()
	opts = append(opts, sandbox.WithExecDefaults(f.execOptions()...),
		sandbox.WithProgress(func(step string) { _ = report.Encode(holdStatus{Step: step}) }))
	return sandbox.Hold(ctx, name, ready, opts...)
}

// moveOutput lets go of the terminal of hutch create: what the holder still says, should it crash, is beside the sandbox's log.
func moveOutput(dir string) {
	f, err := os.OpenFile(filepath.Join(dir, "holder.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		if f, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
			return
		}
	}
	defer f.Close()
	for _, fd := range []int{1, 2} {
		_ = replaceFD(fd, f)
	}
}
