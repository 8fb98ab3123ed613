//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/internal/tmuxtest"
)

// What a user sees of hutch in a real terminal emulator: a shell of the host in a pane, from which hutch is started, and to which the terminal
// must come back as it was. All tests share one sandbox as long as it lives, and two terminals.

const tmuxRows, tmuxCols = 24, 130 // a line of hutch's fits in

// hostPane is a terminal with a shell of the host.
type hostPane struct {
	*tmuxtest.Pane
	t     *testing.T
	modes unix.Termios // at the shell's prompt
	runs  int
}

func newHostPane(t *testing.T, start func(opts tmuxtest.Options, name string, args ...string) *tmuxtest.Pane) *hostPane {
	t.Helper()
	env := []string{"PS1=host> ", "ENV="}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "TERM" && name != "PS1" && name != "ENV" && !strings.HasPrefix(name, "TMUX") {
			env = append(env, kv)
		}
	}
	p := &hostPane{Pane: start(tmuxtest.Options{Rows: tmuxRows, Cols: tmuxCols, Env: env}, "sh", "-i"), t: t}
	p.WaitLast("host> ")
	p.modes = p.termios()
	return p
}

func (p *hostPane) termios() unix.Termios {
	p.t.Helper()
	tty, err := os.OpenFile(p.TTY(), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer tty.Close()
	modes, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *modes
}

// run types a command of the host on an empty screen; back shows its exit code.
func (p *hostPane) run(command string) {
	p.t.Helper()
	p.runs++
	p.Line(fmt.Sprintf("clear; %s; echo end %d, code $?", command, p.runs))
}

// back waits for the host's prompt: the command has ended with the code, what hutch said matches, and the terminal is as before.
func (p *hostPane) back(code int, says string) tmuxtest.Screen {
	p.t.Helper()
	end := fmt.Sprintf("end %d, code %d", p.runs, code)
	s := p.WaitFor(fmt.Sprintf("%q and a prompt", end), func(s tmuxtest.Screen) bool { return s.Last() == "host>" && s.Above() == end })
	if !regexp.MustCompile(says).MatchString(strings.Join(s, "\n")) {
		p.t.Errorf("nothing on the screen matches %q:\n%v", says, s)
	}
	if now := p.termios(); now != p.modes {
		p.t.Errorf("after %q the terminal is %+v, was %+v", end, now, p.modes)
	}
	return s
}

// in is the pane for another test.
func (p *hostPane) in(t *testing.T) *hostPane {
	q := *p
	q.t, q.Pane = t, p.In(t)
	q.modes = q.termios() // at the prompt
	return &q
}

// guestPrompt is what the guest's shell shows, as the screen has it.
const guestPrompt = "/ #"

func TestTmux(t *testing.T) {
	needKVM(t)
	dir, err := shortDir()
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	t.Setenv("XDG_STATE_HOME", state)
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Cleanup(func() {
		endHolders(state)
		os.RemoveAll(dir)
	})
	one := newHostPane(t, func(opts tmuxtest.Options, name string, args ...string) *tmuxtest.Pane {
		return tmuxtest.Start(t, opts, name, args...)
	})
	two := newHostPane(t, one.Start)
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, one, two *hostPane)
	}{
		{"prompt, size, Ctrl-C and detach, and on from another terminal", tmuxExec},
		{"hutch is killed and the session lives on", tmuxKilledClient},
		{"stop while a terminal is attached", tmuxStopped},
		{"the holder is killed while a terminal is attached", tmuxKilledHolder},
		{"run on a terminal", tmuxRun},
		{"shell", tmuxShell},
	} {
		if !t.Run(tc.name, func(t *testing.T) { tc.run(t, one.in(t), two.in(t)) }) {
			t.Fatal("the terminals may not be usable any more")
		}
		one.runs, two.runs = one.runs+100, two.runs+100 // the copies have counted
	}
}

func tmuxExec(t *testing.T, one, two *hostPane) {
	one.run("hutch create --boot-timeout 4m worker")
	one.back(0, `(?m)^worker$`)

	one.run("hutch exec -t worker")
	one.WaitLast(guestPrompt)
	if now := one.termios(); now.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("local flags %#x: not raw", now.Lflag)
	}
	one.Line("stty")
	one.WaitText(fmt.Sprintf("rows:%d cols:%d", tmuxRows, tmuxCols))
	one.Resize(20, 125)
	one.WaitLast(guestPrompt)
	one.Line("until stty | grep -q 'rows:20 cols:125'; do sleep 0.1; done; echo follows $((20+3))")
	one.WaitText("follows 23")
	one.Resize(tmuxRows, tmuxCols)

	one.Line("sh -c 'echo begun; exec sleep 1000'")
	one.WaitFor("begun", func(s tmuxtest.Screen) bool { return s.Count("begun") == 1 })
	one.Keys("C-c")
	one.WaitLast("^C" + guestPrompt)
	one.Line("x=kept; echo alive $((40+2))")
	one.WaitText("alive 42")
	one.WaitLast(guestPrompt)
	one.Keys("C-]")
	s := one.back(0, `(?m)^hutch: detached; .* hutch attach worker [0-9a-f]{32}$`)
	m := regexp.MustCompile(`hutch attach worker [0-9a-f]{32}`).FindString(strings.Join(s, "\n"))

	two.run(m) // as the first terminal said
	two.WaitText("alive 42")
	two.WaitLast(guestPrompt)
	two.Line("echo $x and $((50+6))")
	two.WaitText("kept and 56")
	one.run(m + " --read-only") // both look at once, and one types
	one.WaitText("kept and 56")
	two.WaitLast(guestPrompt)
	two.Line("exit 6")
	two.back(6, "exit 6")
	one.back(6, "exit 6")
}

// tmuxKilledClient: a hutch that gets SIGKILL cannot put the terminal right, but its guard can, and the session is none of its memory.
func tmuxKilledClient(t *testing.T, one, two *hostPane) {
	one.run("sh -c 'echo pid $$; exec hutch exec -t worker'")
	pid := screenPID(t, one.WaitLast(guestPrompt))
	one.Line("x=survived")
	one.WaitLast(guestPrompt)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.WaitText(fmt.Sprintf("end %d, code 137", one.runs))
	one.WaitFor("modes as before", func(tmuxtest.Screen) bool { return one.termios() == one.modes })

	two.run("hutch attach worker")
	two.WaitText("x=survived") // what was typed before
	two.Line("echo $x $((60+7))")
	two.WaitText("survived 67")
	two.WaitLast(guestPrompt)
	two.Line("exit 3")
	two.back(3, "exit 3")
}

func screenPID(t *testing.T, s tmuxtest.Screen) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^pid ([0-9]+)$`).FindStringSubmatch(strings.Join(s, "\n"))
	if m == nil {
		t.Fatalf("no pid on the screen:\n%v", s)
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func tmuxStopped(_ *testing.T, one, two *hostPane) {
	one.run("hutch exec -t worker")
	one.WaitLast(guestPrompt)
	two.run("hutch stop worker")
	two.back(0, "")
	one.back(exitFailed, `(?m)^/ #\nhutch: .*(closed|stopped|ended)`)
	two.run("hutch rm worker")
	two.back(0, "")
}

func tmuxKilledHolder(t *testing.T, one, two *hostPane) {
	two.run("hutch create --boot-timeout 4m worker")
	two.back(0, `(?m)^worker$`)
	var rec struct{ PID int }
	if o := hutch(t, "", "inspect", "worker"); json.Unmarshal([]byte(o.stdout), &rec) != nil || rec.PID < 2 {
		t.Fatalf("inspect: %+v", o)
	}
	one.run("hutch exec -t worker")
	one.WaitLast(guestPrompt)
	if err := syscall.Kill(rec.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.back(exitFailed, `(?m)^/ #\nhutch: .*holder`)
	two.run("hutch rm worker")
	two.back(0, "")
}

func tmuxRun(t *testing.T, one, two *hostPane) {
	one.run("hutch run -it -- sh")
	one.WaitLast(guestPrompt)
	one.Line("stty")
	one.WaitText(fmt.Sprintf("rows:%d cols:%d", tmuxRows, tmuxCols))
	one.WaitLast(guestPrompt)
	one.Line("x=left")
	one.WaitLast(guestPrompt)
	one.Keys("C-]")
	s := one.back(0, `(?m)^hutch: detached; .* hutch attach run-[0-9a-f]{8} [0-9a-f]{32}$`)

	two.run(regexp.MustCompile(`hutch attach run-[0-9a-f]{8} [0-9a-f]{32}`).FindString(strings.Join(s, "\n")))
	two.WaitText("x=left")
	two.Line("echo was $x")
	two.WaitText("was left")
	two.WaitLast(guestPrompt)
	two.Line("exit 5")
	two.back(5, "exit 5")
	waitFor(t, "nothing is left", func() bool { return hutch(t, "", "ls", "--json").stdout == "[]\n" })
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(untilDeadline); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// The shell's Ctrl-D ends it; a terminal at both ends is one for the guest.
func tmuxShell(_ *testing.T, one, two *hostPane) {
	one.run("hutch shell")
	two.run("hutch run tty")
	one.WaitLast(guestPrompt)
	one.Keys("C-d")
	one.back(0, "")
	two.back(0, "(?m)^/dev/pts/0$")
}
