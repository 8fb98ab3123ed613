//go:build linux

package initramfs

import (
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// checkTerminal drives the guest's shell on a terminal: each input is sent when what the one before must print has been seen.
func checkTerminal(t *testing.T, dir string) {
	cmd := exec.Command(filepath.Join(dir, "sh"))
	cmd.Env = []string{"PATH=" + dir, "PS1=ready> ", "TERM=vt100"}
	tty, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	watchdog := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	var seen strings.Builder
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		for {
			if i := strings.Index(seen.String(), want); i >= 0 {
				rest := seen.String()[i+len(want):]
				seen.Reset()
				seen.WriteString(rest)
				return
			}
			n, err := tty.Read(buf)
			if err != nil {
				t.Fatalf("%v while waiting for %q, got %q", err, want, seen.String())
			}
			seen.Write(buf[:n])
		}
	}
	expect("ready> ")
	for _, step := range []struct{ send, want string }{
		{"echo one $((1+1))\n", "\none 2\r\n"},
		{"echo dropped\x03", "ready> "}, // Ctrl-C gives up the line
		// Output of the command tells that the terminal is no longer the line editor's.
		{"echo go; cat\n", "\ngo\r\n"},
		{"for cat\n\x04", "for cat\r\nfor cat\r\n"},
		{"sh -c 'echo go; sleep 1000'\n", "\ngo\r\n"},
		{"\x03", "ready> "}, // Ctrl-C ends the command, not the shell
		{"for i in a b\n", "> "},
		{"do echo n$i; done\n", "\nna\r\nnb\r\n"},
		{"exit 7\n", "exit 7"},
	} {
		if _, err := tty.Write([]byte(step.send)); err != nil {
			t.Fatalf("send %q: %v", step.send, err)
		}
		expect(step.want)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("the shell ended with %v, want exit status 7", err)
	}
}

// checkTypedAhead writes all of a terminal's input before the shell runs, when its line discipline still takes lines.
func checkTypedAhead(t *testing.T, dir string) {
	for _, tc := range []struct {
		name, typed, want string
		code              int
	}{
		{"nothing but the end", "\x04", "ready> ", 0},
		{"a line and the end", "echo one $((1+1))\n\x04", "one 2\r\n", 0},
		{"half a line and the end", "echo one $((1+1))\x04\x04", "one 2\r\n", 0},
		{"a code", "sh -c 'exit 3'\n\x04", "ready> ", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tty, slave, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer tty.Close()
			defer slave.Close()
			if _, err := tty.Write([]byte(tc.typed)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(filepath.Join(dir, "sh"))
			cmd.Env = []string{"PATH=" + dir, "PS1=ready> ", "TERM=vt100"}
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			watchdog := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
			defer watchdog.Stop()
			slave.Close()
			shown, _ := io.ReadAll(tty) // a terminal ends with an error
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tc.code || !strings.Contains(string(shown), tc.want) {
				t.Errorf("code %d, shown %q; want %d and %q", code, shown, tc.code, tc.want)
			}
		})
	}
}
