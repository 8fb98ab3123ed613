//go:build linux && amd64

package sandbox

import (
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// A shell that takes the terminal back while the host program is stopped sets its own modes; fg does not undo that.
func TestContinuedProgramTakesItsTerminalBack(t *testing.T) {
	sb := agentSandbox(t)
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer tty.Close()
	before := termios(t, tty)
	shell, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	s := newScreen()
	go io.Copy(s, user)
	result := make(chan error, 1)
	var code int
	go func() {
		var err error
		code, err = sb.AttachWith(testContext(t), "sh", WithAttachArgs("-c", "echo ready; exec cat"), withTestTerminal(tty, tty))
		result <- err
	}()
	s.expect(t, "ready")
	for range 3 {
		if err := term.Restore(int(tty.Fd()), shell); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(os.Getpid(), unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		soon(t, "raw mode", func() {
			for termios(t, tty).Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
				time.Sleep(time.Millisecond)
			}
		})
	}
	if _, err := io.WriteString(user, "typed\r"); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "typed\r\ntyped\r\n")                       // cat runs
	if _, err := io.WriteString(user, "\x03"); err != nil { // a key of the command's terminal, not of this process's
		t.Fatal(err)
	}
	soon(t, "AttachWith", func() { err = <-result })
	if err != nil || code != 130 {
		t.Errorf("code %d, %v; want 130", code, err)
	}
	if after := termios(t, tty); after != before {
		t.Errorf("terminal is %+v, was %+v", after, before)
	}
}
