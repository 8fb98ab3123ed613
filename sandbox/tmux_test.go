//go:build linux && amd64

package sandbox

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/internal/tmuxtest"
)

// What a user sees of Attach in a real terminal emulator. The program in the terminal is the console of tmux_program_test.go.

// tmuxTests run with the console's agent in its own process and, where a guest can run, with the one in a guest.
var tmuxTests = []struct {
	name string
	run  func(*testing.T, *consolePane)
}{
	{"first size", tmuxFirstSize},
	{"full screen and resize", tmuxFullScreen},
	{"special keys reach a raw program unchanged", tmuxKeysUnchanged},
	{"Ctrl-C, Ctrl-Z and Ctrl-\\ are the program's", tmuxSignals},
	{"Ctrl-C ends the program and not the host", tmuxInterrupt},
	{"paste is exact", tmuxPaste},
	{"detach, and find it again on another terminal", tmuxReattach},
	{"detach keys of two keys", tmuxTwoDetachKeys},
	{"end of the context", tmuxContext},
}

func TestTmux(t *testing.T) {
	for _, tc := range tmuxTests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, startConsole(t, "agent")) })
	}
}

func TestTmuxInAGuest(t *testing.T) {
	needKVM(t)
	c := startConsole(t, "guest") // one guest for all
	for _, tc := range tmuxTests {
		ok := t.Run(tc.name, func(t *testing.T) { tc.run(t, c.in(t)) })
		if !ok {
			t.Fatal("the terminal may not be usable any more")
		}
	}
}

// consolePane is a terminal with the console.
type consolePane struct {
	*tmuxtest.Pane
	t      *testing.T
	native bool
	modes  unix.Termios // before any attachment
	count  *int         // of the attachments
}

const consoleRows, consoleCols = 30, 100

func startConsole(t *testing.T, kind string) *consolePane {
	t.Helper()
	if kind == "agent" {
		needsNoGuest(t)
	}
	p := tmuxtest.Start(t, tmuxtest.Options{Rows: consoleRows, Cols: consoleCols, Env: tmuxEnviron("console " + kind)}, testBinary(t))
	c := &consolePane{Pane: p, t: t, native: kind == "agent", count: new(int)}
	p.WaitLast("host> ")
	c.modes = c.termios()
	return c
}

// in is the console for a test that shares it: the screen is cleared and has the size of the start.
func (c *consolePane) in(t *testing.T) *consolePane {
	d := *c
	d.t = t
	d.Pane = c.Pane.In(t)
	d.Resize(consoleRows, consoleCols)
	d.Line("clear")
	d.WaitFor("clear screen", func(s tmuxtest.Screen) bool { return s.Last() == "host>" && s.Last() == s[0] })
	return &d
}

// do types a command of the console that attaches.
func (c *consolePane) do(command string) {
	c.t.Helper()
	*c.count++
	c.Line(command)
}

// tmuxEnviron is the test's environment for one of tmuxPrograms: a guest needs what chooses its kernel, a build its caches.
func tmuxEnviron(program string) []string {
	env := []string{tmuxEnv + "=" + program}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "TERM" && !strings.HasPrefix(name, "TMUX") && name != tmuxEnv && name != "LC_ALL" {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C.UTF-8")
}

func testBinary(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// termios reads the modes of the pane's terminal from outside.
func (c *consolePane) termios() unix.Termios {
	c.t.Helper()
	return paneTermios(c.t, c.Pane)
}

func paneTermios(t *testing.T, p *tmuxtest.Pane) unix.Termios {
	t.Helper()
	tty, err := os.OpenFile(p.TTY(), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	return termios(t, tty)
}

const rawLocals = unix.ICANON | unix.ECHO | unix.ISIG // off in raw mode

// attached checks that the terminal is raw: after the first output of the program it is.
func (c *consolePane) attached() {
	c.t.Helper()
	c.WaitFor("raw terminal", func(tmuxtest.Screen) bool { return c.termios().Lflag&rawLocals == 0 })
}

// back waits for the console's report and checks that the terminal is as before.
func (c *consolePane) back(how string) {
	c.t.Helper()
	report := fmt.Sprintf("%d. %s", *c.count, how)
	c.WaitFor(fmt.Sprintf("report %q and a prompt", report), func(s tmuxtest.Screen) bool {
		return s.Last() == "host>" && s.Above() == report
	})
	if now := c.termios(); now != c.modes {
		c.t.Errorf("after %q the terminal is %+v, was %+v", report, now, c.modes)
	}
}

func tmuxFirstSize(t *testing.T, c *consolePane) {
	c.do("self signals")
	c.WaitText(fmt.Sprintf("ready %d %d <nil>", consoleRows, consoleCols))
	c.attached()
	c.Keys(`C-\`)
	c.WaitText("signal: quit")
	c.back("code 9")
}

// painted: the frame stands exactly along the edges.
func painted(rows, cols int) func(tmuxtest.Screen) bool {
	edge, side := "+"+strings.Repeat("─", cols-2)+"+", "|"+strings.Repeat(" ", cols-2)+"|"
	return func(s tmuxtest.Screen) bool {
		if len(s) != rows || s[0] != edge || s[rows-1] != edge || !strings.Contains(s[2], fmt.Sprintf(" %d x %d ", rows, cols)) {
			return false
		}
		for _, row := range s[4 : rows-1] {
			if row != side {
				return false
			}
		}
		return true
	}
}

func tmuxFullScreen(t *testing.T, c *consolePane) {
	c.do("self painter")
	c.WaitFor("painting", painted(consoleRows, consoleCols))
	if got := c.Format("#{alternate_on} #{mouse_standard_flag} #{mouse_sgr_flag}"); got != "1 1 1" {
		t.Errorf("alternate screen, mouse, its form = %s; want all on", got)
	}
	for _, size := range [][2]int{{20, 60}, {45, 132}, {10, 33}} {
		c.Resize(size[0], size[1])
		c.WaitFor(fmt.Sprintf("painting of %v", size), painted(size[0], size[1]))
	}
	c.Type("q")
	c.back("code 5")
	if got := c.Format("#{alternate_on} #{mouse_standard_flag}"); got != "0 0" {
		t.Errorf("alternate screen, mouse = %s; want them off", got)
	}
	c.WaitText("self painter") // what was there before has come back
}

func tmuxKeysUnchanged(t *testing.T, c *consolePane) {
	c.do("self painter")
	c.WaitText("typed .")
	for _, tc := range []struct{ name, typed string }{
		{"UTF-8", "grüße 漢字 🙂"},
		{"mouse", "\x1b[<0;17;5M\x1b[<0;17;5m"},
		{"old mouse", "\x1b[M \xf0\xf1"},
		{"arrows", "\x1b[A\x1bOB\x1b[1;5C"},
		{"controls", "\x00\x01\x03\x04\x11\x13\x1a\x1c\x7f\r\n\t"},
	} {
		c.Type(tc.typed)
		c.WaitText(fmt.Sprintf("typed %x.", tc.typed))
		c.Type("#") // forgets it
		c.WaitText("typed .")
	}
	c.PasteBracketed("two words\nlines")
	c.WaitText(fmt.Sprintf("typed %x.", "\x1b[200~two words\nlines\x1b[201~"))
	c.Type("q")
	c.back("code 5")
}

func tmuxSignals(t *testing.T, c *consolePane) {
	c.do("self signals")
	c.WaitText("ready")
	c.attached()
	c.Keys("C-c")
	c.WaitText("signal: interrupt")
	c.Keys("C-z")
	c.WaitText("signal: stopped")
	c.Keys(`C-\`)
	c.WaitText("signal: quit")
	c.back("code 9")
}

func tmuxInterrupt(t *testing.T, c *consolePane) {
	c.do("attach cat")
	c.attached()
	c.Line("one")
	c.WaitFor("echo and copy", func(s tmuxtest.Screen) bool { return s.Count("one") == 2 })
	c.Keys("C-c")
	c.back("code 130")
}

func tmuxPaste(t *testing.T, c *consolePane) {
	c.do("self paste")
	c.WaitText("ready")
	c.attached()
	c.Paste(pasted())
	c.Type("Z")
	c.WaitText("exact, and then Z")
	c.back("code 0")
}

func tmuxReattach(t *testing.T, c *consolePane) {
	c.do("attach sh")
	c.WaitLast("guest> ")
	c.Line("echo $((6*7)) is shown; x=kept")
	c.WaitText("42 is shown")
	c.WaitLast("guest> ")
	c.Keys("C-]")
	id := c.detached()
	c.Line("sessions")
	c.WaitText(id + " running true")

	other := c.Start(tmuxtest.Options{Rows: 17, Cols: 71}, "sh", "-c", "echo another; exec sleep 100000")
	other.WaitText("another") // tmux has set the modes before
	before := paneTermios(t, other)
	c.do("reattach " + id + " " + other.TTY())
	other.WaitText("42 is shown") // replayed
	other.WaitLast("guest> ")
	other.Line("echo $x again")
	other.WaitText("kept again")
	if now := paneTermios(t, other); now.Lflag&rawLocals != 0 {
		t.Errorf("local flags %#x: not raw", now.Lflag)
	}
	if c.native {
		other.Line("stty size")
		other.WaitText("17 71")
	}
	other.WaitLast("guest> ")
	other.Keys("C-]")
	if again := c.detached(); again != id {
		t.Errorf("detached from %q, want %q", again, id)
	}
	if now := paneTermios(t, other); now != before {
		t.Errorf("the other terminal is %+v, was %+v", now, before)
	}

	c.do("reattach " + id) // and on the first again
	c.WaitText("kept again")
	c.WaitLast("guest> ")
	c.Line("exit 6")
	c.back("code 6")
	c.do("reattach " + id) // an ended one shows its screen and its code
	c.back("code 6")
}

// detached waits for the report of it and returns the session's ID.
func (c *consolePane) detached() (id string) {
	c.t.Helper()
	mark := fmt.Sprintf("%d. detached: ", *c.count)
	s := c.WaitFor(fmt.Sprintf("%q and a prompt", mark), func(s tmuxtest.Screen) bool {
		return s.Last() == "host>" && strings.HasPrefix(s.Above(), mark)
	})
	id = strings.TrimPrefix(s.Above(), mark)
	c.back("detached: " + id)
	return id
}

func tmuxTwoDetachKeys(t *testing.T, c *consolePane) {
	c.do("keys ctrl-p,ctrl-q self painter")
	c.WaitFor("painting", painted(consoleRows, consoleCols))
	c.Keys("a")
	c.WaitText("typed 61.")
	c.Keys("C-p")
	c.Keys("C-]") // it is no detach key now; the Ctrl-P before it was none either
	c.WaitText("typed 61101d.")
	c.Keys("C-p")
	c.Keys("C-p") // of the two one is typed
	c.WaitText("typed 61101d10.")
	c.Keys("C-q")
	id := c.detached()
	c.do("reattach " + id)
	c.WaitText("typed 61101d10.")
	c.Keys("q")
	c.back("code 5")
}

func tmuxContext(t *testing.T, c *consolePane) {
	c.do("self painter")
	c.WaitFor("painting", painted(consoleRows, consoleCols))
	c.attached()
	if err := syscall.Kill(c.PID(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	// The program had no chance to leave the alternate screen, but the modes of the terminal are back.
	c.back("code 137, cancelled")
}
