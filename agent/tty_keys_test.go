//go:build linux

package agent_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// stateOf is a process's state letter. Source: proc_pid_stat(5).
func stateOf(pid string) string {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return ""
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[0]
}

// finish closes the keyboard, reads the screen to its end and returns the exit.
func (x *terminal) finish() *channel.Exit {
	x.t.Helper()
	x.in.Close()
	b := make([]byte, 4096)
	for {
		n, err := x.out.Read(b)
		x.got.Write(b[:n])
		if err != nil {
			break
		}
	}
	e, err := x.p.Wait()
	if err != nil {
		x.t.Fatalf("%+v, %v", e, err)
	}
	return e
}

func TestTTYControlCInterrupts(t *testing.T) {
	x := newTerminal(t, connect(t, agent.Options{}), ttyRequest("echo ready; exec sleep 1000"))
	x.expect("ready")
	x.typeKeys("\x03")
	if e := x.finish(); e.Signal != channel.SIGINT || e.Code != -1 {
		t.Fatalf("%+v", e)
	}
}

func TestTTYControlBackslashQuits(t *testing.T) {
	// It may dump core: not where the tests are.
	req := ttyRequest("ulimit -c 0; echo ready; exec sleep 1000")
	x := newTerminal(t, connect(t, agent.Options{}), req)
	x.expect("ready")
	x.typeKeys("\x1c")
	if e := x.finish(); e.Signal != channel.SIGQUIT || e.Code != -1 {
		t.Fatalf("%+v", e)
	}
}

// The kernel does not stop a process whose parent is outside its session
// (POSIX's orphaned process group), so that the job of a shell is what stops.
func TestTTYControlZStopsTheJobOfAShell(t *testing.T) {
	x := newTerminal(t, connect(t, agent.Options{}),
		ttyRequest(`set -m; sh -c 'echo "pid $$ ."; exec sleep 1000'; echo "stopped $?"; kill -KILL %1; fg >/dev/null; echo "killed $?"; exit 3`))
	line := x.expect(" .")
	pid := strings.Fields(line)[1]
	x.typeKeys("\x1a")
	x.expect("stopped 148") // 128 + SIGTSTP
	x.expect("killed 137")
	if e := x.finish(); e.Code != 3 {
		t.Fatalf("%+v", e)
	}
	eventually(t, "death of the job", func() bool { return dead(pid) })
}

func TestTTYStoppedJobIsStoppedUntilItIsContinued(t *testing.T) {
	x := newTerminal(t, connect(t, agent.Options{}),
		ttyRequest(`set -m; sh -c 'echo "pid $$ ."; exec sleep 1000'; echo stopped; read x; fg; exit 3`))
	pid := strings.Fields(x.expect(" ."))[1]
	x.typeKeys("\x1a")
	x.expect("stopped")
	if s := stateOf(pid); s != "T" {
		t.Fatalf("state %q of the stopped job, want T", s)
	}
	x.typeKeys("\n")
	eventually(t, "the job goes on", func() bool { return stateOf(pid) == "S" })
	x.typeKeys("\x03") // the shell gave the terminal to the job
	x.finish()
	eventually(t, "death of the job", func() bool { return dead(pid) })
}

func TestTTYEndOfFileCharacter(t *testing.T) {
	c := connect(t, agent.Options{})
	x := newTerminal(t, c, ttyRequest("cat; echo first; cat; exit 8")) // typed, not the end of our input
	x.typeKeys("a\n\x04")
	x.expect("a\r\na\r\nfirst\r\n")
	x.typeKeys("b\n\x04")
	x.expect("b\r\nb\r\n")
	if e := x.finish(); e.Code != 8 {
		t.Fatalf("%+v", e)
	}
	// Without canonical mode it is a byte as any other.
	x = newTerminal(t, c, ttyRequest("stty raw -echo; echo ready; head -c 3 | od -An -tx1"))
	x.expect("ready")
	x.typeKeys("\x04\x03\x1a")
	x.expect("04 03 1a")
	if e := x.finish(); e.Code != 0 {
		t.Fatalf("%+v", e)
	}
}

func TestTTYLastLineIsNeverLostUnderLoad(t *testing.T) {
	c, _ := connectProcess(t)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range 1000 {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r, err := tryRun(c, ttyRequest(fmt.Sprintf("echo one; printf 'last %d'; exit %d", i, i%256)), nil)
			if err != nil || r.stdout != fmt.Sprintf("one\r\nlast %d", i) || r.exit.Code != i%256 {
				t.Errorf("run %d: %q, %+v, %v", i, r.stdout, r.exit, err)
			}
		})
	}
	wg.Wait()
}

func TestComingBackAtTheSameSizeRedraws(t *testing.T) {
	connect := longAgent(t, agent.Options{})
	req := detachable(`trap 'echo "draws $(stty size)"' WINCH; echo ready; while :; do sleep 0.01; done`, "screen")
	req.TTY = &channel.TTY{Rows: 37, Cols: 91}
	c := connect()
	x := newTerminal(t, c, req)
	x.expect("ready")
	if err := x.p.Detach(); err != nil {
		t.Fatal(err)
	}
	for _, size := range [][2]uint16{{37, 91}, {37, 91}, {20, 30}} {
		p, got := attach(t, connect(), "screen", channel.AttachRequest{Rows: size[0], Cols: size[1], FromStdout: -1}, nil)
		eventually(t, "a screen of the size", func() bool { return strings.Contains(got.String(), fmt.Sprintf("draws %d %d", size[0], size[1])) })
		if err := p.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := attach(t, connect(), "screen", channel.AttachRequest{}, nil)
	_ = p.Kill()
	_, _ = p.Wait()
}
