//go:build linux

package initramfs

import (
	"os/exec"
	"path/filepath"
	"strings"
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
