// Command hutch runs commands in throw-away Linux microVMs that live inside its own process.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hutchvm/hutch/sandbox"
)

// Exit codes of hutch itself; everything else is the guest command's own code.
const (
	exitTimeout       = 124 // --timeout ended the command
	exitFailed        = 125 // hutch could not do its part
	exitNotExecutable = 126 // the command exists but cannot be executed
	exitNotFound      = 127 // there is no such command
)

// exitCode is an error that only carries the code to exit with: what there was to say has been said, or is the guest's business.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintf(os.Stderr, "hutch: %v\n", optionError(err))
		return exitFailed
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:     "hutch",
		Version: version(),
		Short:   "Run commands in Linux microVMs that live inside this program",
		Long: `hutch boots a Linux microVM inside a process of hutch and runs a command in it: no daemon, no root, only access to /dev/kvm.

It needs a kernel and a userland for the guest, once: hutch kernel fetch and hutch image build put them into the user's cache. hutch doctor says
what is missing.

The command's standard output, standard error and exit code are hutch's own. Exit codes of hutch itself:

    124    the --timeout ended the command
    125    hutch failed; the reason is on standard error
    126    the command is not executable
    127    there is no such command
    128+n  signal n ended the command

Environment variables:

    HUTCH_KERNEL     the kernel to boot where no --kernel is given
    HUTCH_INITRAMFS  the initial file system to boot where no --initramfs is given
    HUTCH_CACHE      the folder for kernels and images (default hutch in the user's cache folder, ~/.cache)
    XDG_STATE_HOME   the parent of the folder hutch with records and logs of named microVMs (default ~/.local/state)
    XDG_RUNTIME_DIR  the parent of the folder hutch with their sockets (default hutch-UID in the temporary folder)
    NO_COLOR         not empty: no colours`,
		Example: `  hutch doctor
  hutch run -- uname -a
  echo hello | hutch run -- cat
  hutch run -m 512M -c 2 -e GREETING=hi -- sh -c 'echo $GREETING'
  hutch create worker
  hutch exec worker -- uname -a`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (%s --help lists the flags)", flagError(err), c.CommandPath())
	})
	root.AddCommand(newRun(), newShell(), newCreate(), newHold(), newExec(), newAttach(), newSessions(), newLogs(), newLs(), newInspect(), newStop(), newRm(), newKernel(), newImage(), newDoctor(), newDocs(), newVersion(), newGuard())
	strictDefaults(root)
	return root
}

// strictDefaults makes the commands that cobra adds by itself refuse a name that they do not know: of their own they show help and exit with 0.
func strictDefaults(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Args = cobra.ArbitraryArgs // group says it better
			group(c)
		case "help":
			c.Args = func(_ *cobra.Command, args []string) error {
				_, _, err := root.Find(args)
				return err
			}
		}
	}
}

// flagError says of a flag's wrong value what to give instead.
func flagError(err error) error {
	var wrong *pflag.InvalidValueError
	if !errors.As(err, &wrong) {
		return err
	}
	give := map[string]string{"duration": "a duration with its unit, such as 30s or 5m", "int": "a whole number", "bool": "true or false"}[wrong.GetFlag().Value.Type()]
	if give == "" {
		return err
	}
	return fmt.Errorf("--%s: %q: give %s", wrong.GetFlag().Name, wrong.GetValue(), give)
}

// optionError gives options of package sandbox the names of their flags.
func optionError(err error) error {
	var ce *sandbox.ConfigError
	if !errors.As(err, &ce) {
		return err
	}
	flag := map[string]string{"WithMemory": "memory", "WithCPUs": "cpus", "WithBootTimeout": "boot-timeout", "WithAttachDetachKeys": "detach-keys", "WithExecUser": "user"}[ce.Option]
	if flag == "" {
		return err
	}
	return fmt.Errorf("--%s: %s: %s", flag, ce.Value, ce.Reason)
}

// version is what the Go toolchain recorded about this build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version + " " + info.GoVersion
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print hutch's version", Long: "version prints hutch's version and that of the Go toolchain which built it.", Example: "  hutch version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Println("hutch", version())
			return err
		},
	}
}

// noArgs is cobra.NoArgs in other words: what is too much here is no command that hutch does not know.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments; got %q (%s --help lists the flags)", c.CommandPath(), args[0], c.CommandPath())
	}
	return nil
}

// group makes c, a command that only holds others, refuse a name that none of them has: cobra would show help and exit with 0.
func group(c *cobra.Command) *cobra.Command {
	c.DisableFlagsInUseLine = true
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		hint := "run: " + c.CommandPath() + " --help"
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, " or ") + "?"
		}
		return fmt.Errorf("unknown command %q for %q; %s", args[0], c.CommandPath(), hint)
	}
	return c
}
