package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hutchvm/hutch/sandbox"
)

// The examples are compiled here; examples/stream, examples/attach and examples/stdin-repl run the same calls against a guest.

func ExampleSandbox_Exec() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	output, err := sb.Exec(ctx, "echo", []string{"hello"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(output.Stdout())     // "hello\n"
	fmt.Println(output.Success())  // true
	fmt.Println(output.ExitCode()) // 0
}

func ExampleWithExecEnv() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	output, err := sb.Exec(ctx, "sh", []string{"-c", "pwd; echo $GREETING"},
		sandbox.WithExecCwd("/tmp"),
		sandbox.WithExecEnv(map[string]string{"GREETING": "hello"}),
		sandbox.WithExecTimeout(30*time.Second),
		sandbox.WithExecRlimit("nofile", 1024, 1024),
	)
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Println("too slow; until then it printed", output.Stdout())
	}
}

func ExampleSandbox_Shell() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	output, err := sb.Shell(ctx, "ls -la /bin && echo done")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(output.Stdout())
}

func ExampleSandbox_ExecStream() {
	follow := func(ctx context.Context, sb *sandbox.Sandbox) error {
		handle, err := sb.ExecStream(ctx, "tail", []string{"-f", "/var/log/app.log"})
		if err != nil {
			return err
		}
		defer handle.Close()
		for {
			event, err := handle.Recv(ctx)
			if err != nil {
				return err
			}
			switch event.Kind {
			case sandbox.ExecEventStdout:
				os.Stdout.Write(event.Data)
			case sandbox.ExecEventStderr:
				os.Stderr.Write(event.Data)
			case sandbox.ExecEventExited:
				fmt.Printf("Exited: %d\n", event.ExitCode)
			case sandbox.ExecEventDone:
				return nil
			}
		}
	}
	_ = follow
}

func ExampleExecHandle_TakeStdin() {
	drive := func(ctx context.Context, sb *sandbox.Sandbox) error {
		handle, err := sb.ExecStream(ctx, "sh", nil, sandbox.WithExecStdinPipe())
		if err != nil {
			return err
		}
		stdin := handle.TakeStdin()
		if _, err := io.WriteString(stdin, "echo hello\nexit\n"); err != nil {
			return err
		}
		if err := stdin.Close(); err != nil {
			return err
		}
		_, err = handle.Wait(ctx)
		return err
	}
	_ = drive
}

func ExampleExecHandle_ID() {
	start := func(ctx context.Context, sb *sandbox.Sandbox) (string, error) {
		handle, err := sb.ExecStream(ctx, "sleep", []string{"60"})
		if err != nil {
			return "", err
		}
		defer handle.Close()
		return handle.ID()
	}
	_ = start
}

func ExampleSandbox_Attach() {
	interactive := func(ctx context.Context, sb *sandbox.Sandbox) error {
		// Attach to the default shell.
		exitCode, err := sb.AttachShell(ctx)
		if err != nil {
			return err
		}
		fmt.Println("shell exited with", exitCode)

		// Attach to a specific command.
		exitCode, err = sb.AttachWith(ctx, "sh",
			sandbox.WithAttachEnv(map[string]string{"DEBUG": "1"}),
			sandbox.WithAttachCwd("/tmp"),
			sandbox.WithAttachDetachKeys("ctrl-q"),
		)
		if errors.Is(err, sandbox.ErrDetached) {
			fmt.Println("detached")
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Println("sh exited with", exitCode)
		return nil
	}
	_ = interactive
}
