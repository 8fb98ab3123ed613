// Command sh is the guest's shell: the interpreter of mvdan.cc/sh with the command line of a POSIX shell.
//
//	sh [-eux...] [-o option] [-l] -c COMMAND [NAME [ARG...]]
//	sh [-eux...] [-o option] [-l] SCRIPT [ARG...]
//	sh [-eux...] [-o option] [-l] [-s] [-i]
//
// u-root has a shell on the same interpreter, but it drops positional parameters, knows no option except -c and pulls in a terminal user
// interface whose package initialisation every command of the combined binary would pay for.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Exit codes the shell makes up itself.
const (
	exitUsage     = 2
	exitCannotRun = 126
	exitNotFound  = 127
)

// cancelGrace is what the interpreter waits between interrupt and kill; nothing here cancels, so it only fills an argument.
const cancelGrace = 2 * time.Second

type options struct {
	command     string
	hasCommand  bool
	login       bool
	interactive bool
	stdin       bool
	set         []string // passed on to the interpreter's own "set" parser
	name        string   // $0 of a -c command, or the script
	args        []string
}

func main() {
	opts, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		os.Exit(exitUsage)
	}
	os.Exit(run(opts))
}

// parse reads the command line by the POSIX rules: options may be combined, "--" and the first other word end them.
func parse(argv []string) (options, error) {
	var o options
	for len(argv) > 0 {
		arg := argv[0]
		if arg == "-" || arg == "--" {
			argv = argv[1:]
			break
		}
		if len(arg) < 2 || (arg[0] != '-' && arg[0] != '+') {
			break
		}
		argv = argv[1:]
		if arg == "--login" {
			o.login = true
			continue
		}
		for _, f := range arg[1:] {
			switch {
			case f == 'c':
				o.hasCommand = true
			case f == 'l':
				o.login = true
			case f == 'i':
				o.interactive = true
			case f == 's':
				o.stdin = true
			case f == 'o':
				if len(argv) == 0 {
					return o, fmt.Errorf("option %co needs a name", arg[0])
				}
				o.set = append(o.set, arg[:1]+"o", argv[0])
				argv = argv[1:]
			case f == 'm' || f == 'b' || f == 'h':
				// Job control and hashing: accepted, without effect.
			default:
				o.set = append(o.set, arg[:1]+string(f))
			}
		}
	}
	o.name = "sh"
	if o.hasCommand {
		if len(argv) == 0 {
			return o, errors.New("option -c needs a command")
		}
		o.command, argv = argv[0], argv[1:]
	}
	if len(argv) > 0 && !o.stdin {
		o.name, argv = argv[0], argv[1:]
	}
	o.args = argv
	return o, nil
}

func run(o options) int {
	if _, ok := os.LookupEnv("PATH"); !ok {
		os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	params := append(append([]string{}, o.set...), "--")
	runner, err := interp.New(
		interp.StdIO(os.Stdin, os.Stdout, os.Stderr),
		interp.Params(append(params, o.args...)...),
		interp.Interactive(o.interactive),
		interp.CallHandler(replaceBuiltins),
		interp.ExecHandlers(execute),
	)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		return exitUsage
	}
	if o.login {
		if f, err := os.Open("/etc/profile"); err == nil {
			status, exited := runProgram(runner, f, "/etc/profile", false)
			f.Close()
			if exited {
				return status
			}
		}
	}
	switch {
	case o.hasCommand:
		status, _ := runProgram(runner, strings.NewReader(o.command), o.name, true)
		return status
	case o.name != "sh" && !o.stdin:
		f, err := os.Open(o.name)
		if err != nil {
			fmt.Fprintf(os.Stderr, "sh: %v\n", err)
			if os.IsPermission(err) {
				return exitCannotRun
			}
			return exitNotFound
		}
		defer f.Close()
		status, _ := runProgram(runner, f, o.name, true)
		return status
	case term.IsTerminal(0):
		return runTerminal(runner)
	}
	return runLines(runner, &oneByteReader{f: os.Stdin}, func(bool) {})
}

// runProgram parses all of r and runs it. A program that ends the shell runs as a file, so that its exit trap fires; a profile runs
// statement by statement, because the shell goes on after it.
func runProgram(runner *interp.Runner, r io.Reader, name string, last bool) (status int, exited bool) {
	prog, err := syntax.NewParser().Parse(r, name)
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		return exitUsage, true
	}
	if last {
		return exitStatus(runner.Run(context.Background(), prog)), true
	}
	for _, stmt := range prog.Stmts {
		status = exitStatus(runner.Run(context.Background(), stmt))
		if runner.Exited() {
			return status, true
		}
	}
	return status, false
}

// runLines runs statements as soon as their line is complete, reading no byte beyond it: the rest of the input belongs to the commands.
// prompt is called before a line is read; its argument tells a first line from a continued one.
func runLines(runner *interp.Runner, in io.Reader, prompt func(more bool)) int {
	parser := syntax.NewParser()
	status := 0
	prompt(false)
	for stmts, err := range parser.InteractiveSeq(in) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "sh: %v\n", err)
			return exitUsage
		}
		if parser.Incomplete() {
			prompt(true)
			continue
		}
		for _, stmt := range stmts {
			status = exitStatus(runner.Run(context.Background(), stmt))
			if runner.Exited() {
				return status
			}
		}
		prompt(false)
	}
	// An empty file ends the shell as the end of a script does: the exit trap fires.
	if end := exitStatus(runner.Run(context.Background(), &syntax.File{})); end != 0 {
		return end
	}
	return status
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	var es interp.ExitStatus
	if errors.As(err, &es) {
		return int(es)
	}
	fmt.Fprintf(os.Stderr, "sh: %v\n", err)
	return 1
}

// execute adds to the interpreter's way of running commands: the built-ins it lacks, and exit codes.
// A file that exists but cannot be run gives 126, not 127.
func execute(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		if name, ok := strings.CutPrefix(args[0], ours); ok {
			return builtins[name](hc, args[1:])
		}
		if _, err := interp.LookPathDir(hc.Dir, hc.Env, args[0]); err != nil {
			status := exitNotFound
			reason := "not found"
			if strings.Contains(args[0], "/") && exists(hc, args[0]) {
				status, reason = exitCannotRun, "cannot be executed"
			}
			fmt.Fprintf(hc.Stderr, "sh: %s: %s\n", args[0], reason)
			return interp.ExitStatus(status)
		}
		return next(ctx, args)
	}
}

func exists(hc interp.HandlerContext, path string) bool {
	if !strings.HasPrefix(path, "/") {
		path = hc.Dir + "/" + path
	}
	_, err := os.Stat(path)
	return err == nil
}

// runTerminal is the interactive shell: line editing and history, and signals from the keyboard are for the commands, not for the shell.
func runTerminal(runner *interp.Runner) int {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT, unix.SIGQUIT)
	go func() {
		for range interrupts {
		}
	}()
	// There is no job control: a stopped command could not be continued, so stopping is off for the commands too (ignoring is inherited).
	signal.Ignore(unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)

	editor := newLineEditor(os.Stdin, os.Stdout)
	status := runLines(runner, editor, func(more bool) {
		editor.terminal.SetPrompt(promptText(runner, more))
	})
	fmt.Fprint(os.Stdout, "\n")
	return status
}

func promptText(runner *interp.Runner, more bool) string {
	if more {
		return "> "
	}
	ps1, ok := runner.Vars["PS1"]
	if !ok {
		ps1 = runner.Env.Get("PS1")
	}
	// Texts with escapes or expansions are meant for other shells.
	if ps1.Kind == expand.String && ps1.Str != "" && !strings.ContainsAny(ps1.Str, "\\$`") {
		return ps1.Str
	}
	mark := "$ "
	if os.Geteuid() == 0 {
		mark = "# "
	}
	return runner.Dir + " " + mark
}

// oneByteReader never reads ahead of what the parser asks for.
type oneByteReader struct{ f *os.File }

func (r *oneByteReader) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return r.f.Read(p)
}
