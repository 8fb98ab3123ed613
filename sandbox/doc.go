// Package sandbox boots Linux microVMs inside the calling process and runs commands in them, for code that must not touch the host and for tests
// that need a kernel of their own.
//
// A sandbox is a virtual machine: one or more virtual CPUs, memory, a kernel, a small userland in memory, and an agent as its first process. It
// has no network and sees no file of the host. It needs Linux on amd64, read and write access to /dev/kvm, and hardware virtualisation behind that;
// it needs neither root nor cgo, and no process but this one. On macOS, FreeBSD and arm64 the package compiles, and New returns ErrUnsupported.
//
// What follows is a tutorial. Every snippet is part of an example that compiles, and all take a context ctx and a sandbox sb.
//
// # New
//
// New boots a sandbox, and Close ends it with everything that runs in it:
//
//	sb, err := sandbox.New(ctx, sandbox.WithMemory(512<<20), sandbox.WithCPUs(2))
//	if err != nil {
//		return err // it says what is missing, and what helps
//	}
//	defer sb.Close()
//
// Without options a sandbox has 256 MiB and one virtual CPU, and boots the first kernel of the ladder: the one that the environment variable
// HUTCH_KERNEL names, hutch's own from the cache, the latest fetched one, the host's. `hutch kernel fetch linux-image-cloud-amd64` puts Debian's
// into the cache. The userland is built once with the Go toolchain; a program for machines without one ships it as a file (WithInitramfs). The
// context given to New bounds the boot only.
//
// Check tells what New would find, without booting. A test skips with it where no sandbox can be:
//
//	checks, err := sandbox.Check(t.Context())
//	if err != nil {
//		t.Fatal(err)
//	}
//	for _, c := range checks {
//		if c.Status == sandbox.CheckFail {
//			t.Skipf("%s: %s; %s", c.Name, c.Detail, c.Fix)
//		}
//	}
//
// # Exec and Shell
//
// Exec runs a program and waits for it; Shell runs a script. An exit code other than 0 is a result and not an error: an error says that the
// command was not started, was cut short, or that its end is not known.
//
//	output, err := sb.Exec(ctx, "sh", []string{"-c", "echo hello"})
//	if err != nil {
//		return err // it did not run to its end; an exit code other than 0 is no error
//	}
//	fmt.Print(output.Stdout())     // "hello\n"
//	fmt.Println(output.Success())  // true
//	fmt.Println(output.ExitCode()) // 0
//
// Options belong to one command. Where the timeout ended it, the Result has what it printed until then:
//
//	output, err := sb.Exec(ctx, "sh", []string{"compute.sh"},
//		sandbox.WithExecCwd("/app"),
//		sandbox.WithExecEnv(map[string]string{"PYTHONPATH": "/app/lib"}),
//		sandbox.WithExecTimeout(30*time.Second),
//		sandbox.WithExecRlimit("nofile", 512, 1024),
//	)
//	if errors.Is(err, context.DeadlineExceeded) {
//		return fmt.Errorf("too slow; until then it printed %q: %w", output.Stdout(), err)
//	}
//
// Programs start as root, in "/", with the null device as standard input and a small default environment. WithExecDefaults changes that for
// every command of a sandbox. What is collected is bounded by DefaultMaxOutput; WithExecMaxOutput keeps the start and the end of more.
//
// # Command
//
// Command returns a Cmd with the fields, methods and errors of os/exec, for code that is written for that. Here an exit code other than 0 is an
// *ExitError:
//
//	cmd := sb.Command(ctx, "tr", "a-z", "A-Z")
//	cmd.Stdin = strings.NewReader("shout\n")
//	out, err := cmd.Output()
//	var ee *sandbox.ExitError
//	if errors.As(err, &ee) {
//		return fmt.Errorf("%v: exit code %d: %s", cmd, ee.ExitCode(), ee.Stderr)
//	}
//
// It differs from os/exec where a virtual machine asks for it: the end of the context ends everything that the command started, as does Kill;
// Output is bounded; paths, users and the environment are the guest's. Cmd.User, Cmd.TTY, Cmd.Limits and Cmd.Rlimits have no counterpart there.
//
// # ExecStream
//
// ExecStream starts a command and returns at once. Its events are received one by one: Started, the pieces of output as they come, Exited, Done.
// A piece is what one read gave, not a line.
//
//	handle, err := sb.ExecStream(ctx, "tail", []string{"-f", "/var/log/app.log"})
//	if err != nil {
//		return err
//	}
//	defer handle.Close() // ends the command if it still runs
//	for {
//		event, err := handle.Recv(ctx)
//		if err != nil {
//			return err
//		}
//		switch event.Kind {
//		case sandbox.ExecEventStdout:
//			os.Stdout.Write(event.Data)
//		case sandbox.ExecEventStderr:
//			os.Stderr.Write(event.Data)
//		case sandbox.ExecEventExited:
//			fmt.Printf("Exited: %d\n", event.ExitCode)
//		case sandbox.ExecEventFailed:
//			return event.Err
//		case sandbox.ExecEventDone:
//			return nil
//		}
//	}
//
// ExecHandle.Events is the same as an iterator. A command whose events nobody receives is stalled at its next write, and only that command;
// Close ends it. WithExecStdinPipe lets the handle's owner write the command's standard input:
//
//	stdin := handle.TakeStdin()
//	_, _ = stdin.Write([]byte("echo hello\n"))
//	_, _ = stdin.Write([]byte("exit 3\n"))
//	_ = stdin.Close()
//	output, err := handle.Collect(ctx) // Wait, if nobody wants to see the output
//
// # Attach
//
// Attach and AttachShell put the program's terminal into the guest: keys, screen, size and signals such as Ctrl-C. The detach keys, Ctrl-] by default,
// leave the guest's program running:
//
//	exitCode, err := sb.AttachShell(ctx)
//	if errors.Is(err, sandbox.ErrDetached) {
//		return nil // the user typed ctrl-] and left the shell running
//	}
//
// AttachWith connects any reader and writer (WithAttachIO), such as a network connection, instead of the terminal.
//
// # Sessions
//
// Every command is a session with an ID: random, or the one of WithExecID. A detachable one (WithExecDetachable, StartSession, a terminal) goes on when
// its starter leaves, and Session comes back to it by its ID, from the same process or another one. What it printed is replayed from a cursor on:
//
//	stdout, stderr := handle.Cursors() // nothing is shown twice
//	handle, err = sb.Session(sessionID).Stream(ctx, sandbox.WithStdin(), sandbox.WithCursor(stdout, stderr))
//
// The guest keeps the last bytes of each stream. Where a follower comes too late for some, the error is a *GapError with their bounds; WithGaps goes on
// behind them. Sandbox.Sessions lists the sessions, Session.Kill ends one, Session.Wait waits for its end.
//
// # Logs
//
// WithLogs keeps what every command prints in sinks of package execlog: a rotating file, memory, an io.Writer, a slog handler. A file and a ring can be read
// back, by session, source and time:
//
//	for entry, err := range sb.Logs(ctx, execlog.Query{Session: "build", Sources: []execlog.Source{execlog.Stderr}}) {
//		if err != nil {
//			return err
//		}
//		fmt.Printf("%s %s", entry.Time.Format(time.TimeOnly), entry.Data)
//	}
//
// What a command printed is in the log before Exec returns it; the entry of its exit, and what a detachable command printed, may come a little later,
// and before Close returns.
//
// # Named sandboxes
//
// A sandbox lives in its process. `hutch create NAME` starts a process that holds one; Hold does the same in a program of one's own. Other processes
// of the user get it with Connect, and have the whole API on it:
//
//	sb, err := sandbox.Connect(ctx, "worker")
//	if errors.Is(err, sandbox.ErrNotRunning) {
//		return fmt.Errorf("start it with: hutch create worker: %w", err)
//	}
//	if err != nil {
//		return err
//	}
//	defer sb.Close() // of the connection; sb.Stop ends the sandbox
//
// Close ends what was started through this connection and not detached. Named, Inspect and Remove work on the records, also of sandboxes that
// have ended. Whoever can open the socket can run commands as root in the guest: it is in a folder of the user's alone. Serve and
// ConnectSocket are for other places.
//
// # Limits
//
// The machine as a whole has what WithMemory and WithCPUs give it. WithExecLimits bounds one command with all its descendants, by a control group in
// the guest, and the state of its end says whether memory ran out:
//
//	output, err := sb.Shell(ctx, script,
//		sandbox.WithExecUser("nobody"),
//		sandbox.WithExecLimits(sandbox.Limits{Memory: 64 << 20, CPUs: 0.5, Pids: 32}),
//		sandbox.WithExecTimeout(10*time.Second),
//		sandbox.WithExecMaxOutput(64<<10),
//	)
//	switch {
//	case errors.Is(err, context.DeadlineExceeded):
//		fmt.Println("it took too long")
//	case err != nil:
//		return err
//	case output.State().OOMKilled():
//		fmt.Println("it ran out of memory")
//	default:
//		fmt.Println("exit code", output.ExitCode())
//	}
//
// # Errors
//
// Errors name the operation and the value, and say what helps. They are told apart with errors.Is and errors.As:
//
//	what happened                              errors.Is                              errors.As
//	the platform has no KVM                    ErrUnsupported
//	/dev/kvm is not there                      ErrNoKVM
//	/dev/kvm may not be opened                 ErrKVMPermission
//	there is no hardware behind it             ErrSoftwareKVM
//	no kernel was found                        ErrNoKernel
//	the image has no agent                     ErrNoAgent
//	an option or a field cannot work                                                  *ConfigError
//	the boot failed at some stage                                                     *BootError
//	- because it took too long                 ErrBootTimeout                         *BootError
//	- the image is of another version of hutch                                        *VersionError, *BootError
//	a command was not started                  exec.ErrNotFound, fs.ErrNotExist,      *StartError
//	                                           fs.ErrPermission
//	a Cmd did not exit with 0                                                         *ExitError
//	the timeout or ctx's deadline ended it     context.DeadlineExceeded               *ExitError
//	ctx ended it                               context.Canceled                       *ExitError
//	it printed more than is collected                                                 *OutputLimitError
//	its output was cut off                     ErrWaitDelay
//	too many commands at once                                                         *LimitError
//	the guest panicked, rebooted, ...          ErrStopped                             *StoppedError
//	the sandbox was closed                     ErrClosed
//	the handle was closed                      ErrHandleClosed
//	somebody detached                          ErrDetached                            *DetachedError
//	there is no such session                   ErrSessionNotFound
//	the session still runs                     ErrSessionRunning
//	the command is not detachable              ErrNotDetachable
//	another follower writes its input          ErrStdinBusy
//	its input is not open                      ErrNoStdin
//	output is not kept any more                ErrGap                                 *GapError
//	standard input is no terminal              ErrNotTerminal                         *TerminalError
//	no sandbox of that name runs               ErrNotRunning, ErrNoSuchSandbox
//	the name is taken                          ErrNameTaken
//	a running sandbox cannot be removed        ErrRunning
//	the holder was killed                      ErrHolderLost, ErrStopped              *StoppedError
//	the holder is of another version of hutch                                         *HolderVersionError
//	a named sandbox's socket has too long a path                                      *SocketPathError
//	no sink of the log can be read             ErrNoLog
//	a signal for a process that has gone       os.ErrProcessDone
//
// # Concurrency
//
// A Sandbox, a Session and an ExecHandle are safe for concurrent use, and so are any number of commands in one sandbox, up to 1024 at once:
//
//	results := make([]*sandbox.Result, 8)
//	errs := make([]error, len(results))
//	var wg sync.WaitGroup
//	for i := range results {
//		wg.Go(func() { results[i], errs[i] = sb.Shell(ctx, fmt.Sprintf("echo $((%d * %d))", i, i)) })
//	}
//	wg.Wait()
//
// A Cmd is used by one goroutine at a time, but its pipes may each be used by another one. No command waits for the reader of another one's output.
// Any number of sandboxes can be in one process; each has its own memory, threads and guest.
//
// # How to test
//
// go test ./sandbox runs most tests against an agent in the same process. The tests that boot a guest skip where that cannot be, and fail instead
// with HUTCH_REQUIRE_KVM=1; the lab (cmd/kvmlab) runs them on machines without hardware virtualisation.
package sandbox
