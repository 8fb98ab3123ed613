//go:build linux && amd64

package sandbox

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/internal/tmuxtest"
)

// hostShell is an interactive shell of the host in a terminal.
func hostShell(t *testing.T) *tmuxtest.Pane {
	t.Helper()
	needsNoGuest(t)
	// Rows that a shell's stty -g fits in.
	p := tmuxtest.Start(t, tmuxtest.Options{Rows: 30, Cols: 250, Env: append(tmuxEnviron(""), "PS1=shell> ", "ENV=", "SELF="+testBinary(t))}, "sh", "-i")
	p.WaitLast("shell> ")
	return p
}

// A program with an attachment leaves the shell's terminal as it was, however it ends.
func TestTmuxShellIsUsableAfterwards(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, p *tmuxtest.Pane, pid int)
		code int
	}{
		{"end of file", func(_ *testing.T, p *tmuxtest.Pane, _ int) { p.Keys("C-d") }, 0},
		{"Ctrl-C", func(_ *testing.T, p *tmuxtest.Pane, _ int) { p.Keys("C-c") }, 130},
		{`Ctrl-\`, func(_ *testing.T, p *tmuxtest.Pane, _ int) { p.Keys(`C-\`) }, 131},
		{"Ctrl-]", func(_ *testing.T, p *tmuxtest.Pane, _ int) { p.Keys("C-]") }, 255},
		{"SIGTERM", func(t *testing.T, _ *tmuxtest.Pane, pid int) { send(t, pid, unix.SIGTERM) }, 99},
		{"SIGHUP", func(t *testing.T, _ *tmuxtest.Pane, pid int) { send(t, pid, unix.SIGHUP) }, 99},
		{"SIGINT from elsewhere", func(t *testing.T, _ *tmuxtest.Pane, pid int) { send(t, pid, unix.SIGINT) }, 99},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := hostShell(t)
			p.Line("stty -g; " + tmuxEnv + "=once $SELF; echo code $?; stty -g; echo")
			s := p.WaitText("attached")
			pid := pidOn(t, s)
			p.Line("typed")
			p.WaitFor("echo and copy", func(s tmuxtest.Screen) bool { return s.Count("typed") == 2 })
			tc.end(t, p, pid)
			s = p.WaitLast("shell> ")
			if !s.Contains(fmt.Sprintf("code %d", tc.code)) {
				t.Errorf("not code %d:\n%v", tc.code, s)
			}
			var modes []string
			for _, row := range s {
				if strings.Count(row, ":") > 20 {
					modes = append(modes, row)
				}
			}
			if len(modes) != 2 || modes[0] != modes[1] {
				t.Errorf("stty -g before and after: %q", modes)
			}
			p.Line("echo usable $((1+1))")
			p.WaitText("usable 2")
		})
	}
}

func pidOn(t *testing.T, s tmuxtest.Screen) int {
	t.Helper()
	for _, row := range s {
		if _, digits, ok := strings.Cut(row, "pid "); ok {
			pid, err := strconv.Atoi(digits)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no pid on the screen:\n%v", s)
	return 0
}

func send(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// A program that was stopped from elsewhere makes the terminal raw again when it goes on: the shell had it in between.
func TestTmuxStoppedHostIsRawAgainWhenItGoesOn(t *testing.T) {
	p := hostShell(t)
	before := paneTermios(t, p)
	p.Line(tmuxEnv + "=raw $SELF; echo code $?")
	pid := pidOn(t, p.WaitText("raw, pid"))
	send(t, pid, unix.SIGSTOP)
	p.WaitText("Stopped")
	shellModes(t, p)
	p.Line("fg")
	p.WaitFor("raw terminal", func(tmuxtest.Screen) bool { return paneTermios(t, p).Lflag&rawLocals == 0 })
	p.Keys("C-c")
	p.WaitText("read 03 <nil>")
	p.Keys("q")
	p.WaitLast("shell> ")
	if now := paneTermios(t, p); now != before {
		t.Errorf("the terminal is %+v, was %+v", now, before)
	}
}

// shellModes makes the stopped program's shell set the terminal's modes: many do that by themselves.
func shellModes(t *testing.T, p *tmuxtest.Pane) {
	t.Helper()
	p.Type("stty sane; clear\n") // the shell reads the line feed: Enter has no meaning in raw mode
	p.WaitFor("clear screen", func(s tmuxtest.Screen) bool { return s[0] == "shell>" })
	if now := paneTermios(t, p); now.Lflag&rawLocals != rawLocals {
		t.Fatalf("local flags %#x: still raw", now.Lflag)
	}
}

// In the background it must leave the terminal alone, which is somebody else's.
func TestTmuxHostThatGoesOnInTheBackgroundLeavesTheTerminal(t *testing.T) {
	p := hostShell(t)
	p.Line(tmuxEnv + "=raw $SELF; echo code $?")
	pid := pidOn(t, p.WaitText("raw, pid"))
	send(t, pid, unix.SIGSTOP)
	p.WaitText("Stopped")
	shellModes(t, p)
	p.Line("bg; echo in the background")
	p.WaitText("in the background")
	p.Line("echo still $((40+2))")
	p.WaitText("still 42") // a raw terminal would not have ended the line
	p.Line("fg")
	p.WaitFor("raw terminal", func(tmuxtest.Screen) bool { return paneTermios(t, p).Lflag&rawLocals == 0 })
	p.Keys("q")
	p.WaitLast("shell> ")
}

func TestTmuxEndOfTheMachineRestoresTheTerminal(t *testing.T) {
	c := startConsole(t, "agent")
	c.do("attach cat")
	c.attached()
	send(t, c.PID(), unix.SIGUSR2)
	c.back("code -1, stopped")
}

func TestTmuxPanicOfAGuestRestoresTheTerminal(t *testing.T) {
	needKVM(t)
	c := startConsole(t, "guest")
	c.do("attach sh")
	c.WaitLast("guest> ")
	c.Line("echo c >/proc/sysrq-trigger")
	c.back("code -1, stopped")
}

// A shell with job control in the sandbox: the guest's own has none, so this one is the host's.
func TestTmuxJobControl(t *testing.T) {
	c := startConsole(t, "agent")
	c.do("attach sh")
	c.WaitLast("guest> ")
	c.Line("cat")
	c.Line("before")
	c.WaitFor("echo and copy", func(s tmuxtest.Screen) bool { return s.Count("before") == 2 })
	c.Keys("C-z")
	c.WaitText("Stopped")
	c.WaitLast("guest> ")
	c.Line("fg")
	c.Line("after")
	c.WaitFor("echo and copy", func(s tmuxtest.Screen) bool { return s.Count("after") == 2 })
	c.Keys("C-c")
	c.WaitLast("guest> ")
	c.Line("exit 4")
	c.back("code 4")
}

// Full-screen programs that people use, where they are installed; painter shows the same without them.
func TestTmuxEditor(t *testing.T) {
	needProgram(t, "vi")
	c := startConsole(t, "agent")
	file := filepath.Join(t.TempDir(), "file")
	c.do("attach sh")
	c.WaitLast("guest> ")
	c.Line("vi -u NONE -N " + file)
	tildes := func(n int) func(tmuxtest.Screen) bool {
		return func(s tmuxtest.Screen) bool { return s.Count("~") == n }
	}
	c.WaitFor("an empty file", tildes(consoleRows-2))
	c.Type("ione töne")
	c.Keys("Enter")
	c.Type("two")
	c.Keys("Escape")
	c.WaitText("two")
	c.Resize(50, 120)
	c.WaitFor("two lines", tildes(50-3))
	c.Keys("C-z")
	c.WaitText("Stopped")
	c.WaitLast("guest> ")
	c.Line("fg")
	c.WaitFor("two lines", tildes(50-3))
	c.Type(":wq")
	c.Keys("Enter")
	c.WaitLast("guest> ")
	if got, err := os.ReadFile(file); err != nil || string(got) != "one töne\ntwo\n" {
		t.Errorf("the file is %q, %v", got, err)
	}
	c.Line("exit")
	c.back("code 0")
}

func TestTmuxPager(t *testing.T) {
	needProgram(t, "less")
	c := startConsole(t, "agent")
	file := filepath.Join(t.TempDir(), "file")
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.do("attach less " + file)
	shows := func(first, last int) func(tmuxtest.Screen) bool {
		return func(s tmuxtest.Screen) bool {
			return s[0] == fmt.Sprint("line ", first) && s[last-first] == fmt.Sprint("line ", last)
		}
	}
	c.WaitFor("first page", shows(0, consoleRows-2))
	c.Keys("Space")
	c.WaitFor("second page", shows(consoleRows-1, 2*consoleRows-3))
	c.Resize(40, 90)
	c.WaitFor("longer page", shows(consoleRows-1, consoleRows-1+38))
	c.Type("q")
	c.back("code 0")
}

func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%v; install it to run this test (TestTmux shows the same with a program of its own)", err)
	}
}

// The size is the terminal's from the first moment: the report of a change that follows at once would hide a wrong one.
func TestFirstSizeOfTheCallersTerminalNeedsNoChange(t *testing.T) {
	sb := agentSandbox(t)
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer tty.Close()
	if err := pty.Setsize(user, &pty.Winsize{Rows: 43, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	s := newScreen()
	go io.Copy(s, user)
	withoutChanges := func(a *attachment) error {
		a.open = func() (*terminal, error) {
			x, err := newTerminal(tty, tty)
			if err == nil {
				x.sizes = nil // what follows it is told by enterRaw
			}
			return x, err
		}
		return nil
	}
	code, err := sb.AttachWith(testContext(t), "stty", WithAttachArgs("size"), withoutChanges)
	if err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	s.expect(t, "43 132\r\n")
}
