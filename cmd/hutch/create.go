package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/sandbox"
)

// holdStatus is a line that a holder writes to the process that started it.
type holdStatus struct {
	Step  string `json:"step,omitempty"`
	Error string `json:"error,omitempty"`
	Ready bool   `json:"ready,omitempty"`
}

// holdFlags is the environment variable with a holder's flags, a JSON array.
const holdFlags = "HUTCH_HOLD_FLAGS"

// holdFD is the descriptor on which a holder reports.
const holdFD = 3

type createFlags struct {
	bootFlags
	cmdFlags
}

func newCreate() *cobra.Command {
	f := &createFlags{}
	c := &cobra.Command{
		Use:   "create [flags] NAME",
		Short: "Start a microVM that stays, under a name",
		Long: `create boots a microVM that a background process of hutch holds until hutch stop. hutch exec runs commands in it, from any terminal; hutch ls
lists what runs. -e, -w, -u, --timeout and --rlimit are defaults for its commands.`,
		Example: "  hutch create worker\n  hutch exec worker -- uname -a\n  hutch create -m 1G -c 2 -e LANG=C.UTF-8 builder",
		Args:    oneName,
		RunE:    func(c *cobra.Command, args []string) error { return create(c, f, args[0]) },
	}
	f.bootFlags.register(c)
	f.cmdFlags.register(c)
	return c
}

// oneName wants the name of a sandbox.
func oneName(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s: give the name of one sandbox (%d were given); hutch ls lists them", c.Name(), len(args))
	}
	return sandbox.CheckName(args[0])
}

// create starts a holder and waits until its sandbox can be used.
func create(c *cobra.Command, f *createFlags, name string) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.console == "-" {
		return errors.New("--console: - is this terminal, which the microVM outlives: give a file")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	var flags []string
	c.Flags().Visit(func(fl *pflag.Flag) { flags = append(flags, flagArgs(fl)...) })
	given, err := json.Marshal(flags)
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "hold", name)
	cmd.Env = append(os.Environ(), holdFlags+"="+string(given)) // not on the command line, which every user of the machine can read
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr // until it is ready: the reason of a crash
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return fmt.Errorf("starting the holder: %w", err)
	}
	w.Close()
	ctx, stop := endedBy(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	for dec := json.NewDecoder(r); ; {
		var st holdStatus
		if dec.Decode(&st) != nil { // it ended, or died in the middle of a line
			break
		}
		switch {
		case st.Ready:
			fmt.Println(name)
			return cmd.Process.Release()
		case st.Error != "":
			_ = cmd.Wait()
			return errors.New(st.Error)
		case f.verbose || stderrIsTerminal():
			fmt.Fprintln(os.Stderr, "hutch:", st.Step)
		}
	}
	r.Close()
	err = cmd.Wait()
	if code, ended := endingSignal(ctx); ended {
		return code
	}
	return fmt.Errorf("the holder ended before the microVM had booted: %v", err)
}

func newHold() *cobra.Command {
	f := &createFlags{}
	c := &cobra.Command{
		Use: "hold [flags] NAME", Hidden: true, Short: "Hold the microVM of hutch create", Args: oneName,
		RunE: func(c *cobra.Command, args []string) error {
			given, ok := os.LookupEnv(holdFlags)
			if !ok { // the status descriptor would tell as well, were it not that the runtime may have opened a file there
				return errors.New("hold: it is hutch create that starts this command")
			}
			var flags []string
			if err := json.Unmarshal([]byte(given), &flags); err != nil {
				return fmt.Errorf("hold: %s: %w", holdFlags, err)
			}
			os.Unsetenv(holdFlags)
			if err := c.Flags().Parse(flags); err != nil {
				return err
			}
			return hold(f, args[0])
		},
	}
	f.bootFlags.register(c)
	f.cmdFlags.register(c)
	return c
}

// hold is the process that holds a named sandbox.
func hold(f *createFlags, name string) error {
	status := os.NewFile(holdFD, "status")
	unix.CloseOnExec(holdFD)
	report := json.NewEncoder(status)
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := endedBy(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := f.check()
	if err == nil {
		err = holdSandbox(ctx, f, name, report, status)
	}
	if err != nil && report.Encode(holdStatus{Error: explainBoot(err).Error()}) == nil {
		return exitCode(exitFailed) // create says it
	}
	return err // create has gone: it is for holder.log
}

func holdSandbox(ctx context.Context, f *createFlags, name string, report *json.Encoder, status io.Closer) error {
	f.verbose = false
	opts, cleanup, err := f.options()
	if err != nil {
		return err
	}
	defer cleanup()
	opts = append(opts, sandbox.WithExecDefaults(f.execOptions()...),
		sandbox.WithProgress(func(step string) { _ = report.Encode(holdStatus{Step: step}) }))
	return sandbox.Hold(ctx, name, func(sb *sandbox.Sandbox) {
		moveOutput(filepath.Dir(sb.Info().Log))
		_ = report.Encode(holdStatus{Ready: true})
		status.Close()
	}, opts...)
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
