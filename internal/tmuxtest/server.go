package tmuxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// deadline bounds each wait. A test that hangs needs it; one on a machine that is a hundred times slower must not.
const deadline = 3 * time.Minute

// pollEvery is how often the screen is looked at.
const pollEvery = 25 * time.Millisecond

// server is one private tmux server.
type server struct {
	t    testing.TB
	prog Program
	dir  string
	pids *[]int // the server's and its programs'
}

// Options says how a program is started.
type Options struct {
	Rows, Cols int      // of the terminal; zero is 24 and 80
	Env        []string // all of the environment but TERM; PATH is the test's when it is not set
	Dir        string   // working directory; empty is the test's
}

// A Pane is a terminal with a program.
type Pane struct {
	srv *server
	id  string
	pid int
	tty string
}

// Start runs a program in a terminal. Without a tmux the test is skipped, or fails when HUTCH_REQUIRE_KVM=1 says that nothing may be left out.
func Start(t testing.TB, opts Options, name string, args ...string) *Pane {
	t.Helper()
	prog, err := Find(context.Background(), func(line string) { t.Log("tmux: " + line) })
	if err != nil {
		if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
			t.Fatal(err)
		}
		const fix = "go run ./internal/tmuxtest/fetch fetches it"
		if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
			t.Fatalf("%v; %s", err, fix)
		}
		t.Skipf("%v; %s", err, fix)
	}
	dir, err := os.MkdirTemp("", "tmux-") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	srv := &server{t: t, prog: prog, dir: dir, pids: new([]int)}
	t.Cleanup(srv.kill)
	p := srv.start(opts, name, args)
	pid, err := strconv.Atoi(p.Format("#{pid}"))
	if err != nil {
		t.Fatal(err)
	}
	*srv.pids = append(*srv.pids, pid)
	return p
}

// Start runs another program in a terminal of its own on the same server.
func (p *Pane) Start(opts Options, name string, args ...string) *Pane {
	p.srv.t.Helper()
	return p.srv.start(opts, name, args)
}

// In is the pane for another test, whose failures it reports; it lives as long as before.
func (p *Pane) In(t testing.TB) *Pane {
	srv, pane := *p.srv, *p
	srv.t, pane.srv = t, &srv
	return &pane
}

func (s *server) start(opts Options, name string, args []string) *Pane {
	s.t.Helper()
	if opts.Rows == 0 {
		opts.Rows = 24
	}
	if opts.Cols == 0 {
		opts.Cols = 80
	}
	if opts.Dir == "" {
		opts.Dir = "."
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		s.t.Fatal(err)
	}
	// A dead pane stays, so that a failure can show what its program last printed.
	cmd := []string{"start-server", ";", "set-option", "-g", "remain-on-exit", "on", ";", "set-option", "-g", "status", "off", ";",
		"new-session", "-d", "-P", "-F", "#{pane_id} #{pane_pid} #{pane_tty}", "-x", strconv.Itoa(opts.Cols), "-y", strconv.Itoa(opts.Rows), "-c", dir}
	cmd = append(cmd, "env", "-i", "PATH="+os.Getenv("PATH"))
	cmd = append(cmd, opts.Env...)
	cmd = append(cmd, "TERM=screen", name)
	for _, a := range args {
		if strings.HasSuffix(a, ";") { // it would end the command for tmux
			a = a[:len(a)-1] + `\;`
		}
		cmd = append(cmd, a)
	}
	out := s.run(nil, cmd...)
	p := &Pane{srv: s}
	if n, err := fmt.Sscanf(out, "%s %d %s", &p.id, &p.pid, &p.tty); n != 3 {
		s.t.Fatalf("tmux new-session printed %q: %v", out, err)
	}
	*s.pids = append(*s.pids, p.pid)
	return p
}

// run runs a tmux command and returns what it prints.
func (s *server) run(stdin []byte, args ...string) string {
	s.t.Helper()
	out, err := s.try(stdin, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *server) try(stdin []byte, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.prog.Path, append([]string{"-u", "-f", os.DevNull, "-S", filepath.Join(s.dir, "socket")}, args...)...)
	cmd.Env = s.prog.env(s.dir)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("tmux %.200q: %w: %s", args, errors.Join(err, ctx.Err()), bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// kill ends the server and waits until it and its programs are gone.
func (s *server) kill() {
	_, _ = s.try(nil, "kill-server") // it fails when the server has ended, or never began
	end := time.Now().Add(deadline)
	for _, pid := range *s.pids {
		for alive(pid) {
			if time.Now().After(end) {
				s.t.Errorf("process %d of the terminal does not end", pid)
				break
			}
			time.Sleep(pollEvery)
		}
	}
	os.RemoveAll(s.dir)
}

// alive: the process runs. One that nobody reaps does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // the name before it may hold anything but is cut by the kernel
	return !bytes.HasPrefix(rest, []byte("Z")) && !bytes.HasPrefix(rest, []byte("X"))
}
