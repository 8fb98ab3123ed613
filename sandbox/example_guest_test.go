//go:build linux && amd64

package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/hutchvm/hutch/sandbox"
)

// seedPage is every example that takes a sandbox and prints the same each time, with what it must print.
var seedPage = []struct {
	name      string
	run       func(context.Context, *sandbox.Sandbox) error
	prepare   string // shell script; what it makes would litter a host
	agentOnly bool   // the guest's tests have it already, and time is short in the lab
	meanwhile func(*stage)
	stdout    string // a regular expression if it begins with ^
	stderr    string
}{
	{name: "Exec", run: execute, stdout: "hello\ntrue\n0\n"},
	{
		name: "ExecOptions", run: executeWithOptions, prepare: appFolder,
		stdout: "/app /app/lib\n512 1024\n",
	},
	{
		name: "Shell", run: runScript, prepare: appFolder,
		stdout: "drwxr-xr-x root root 80 Jan  2 03:04 .\n-rw-r--r-- root root 60 Jan  2 03:04 compute.sh\ndrwxr-xr-x root root 40 Jan  2 03:04 lib\ndone\n",
	},
	{
		name: "ExecStream", run: follow, prepare: "mkdir -p /var/log && echo first entry >/var/log/app.log", meanwhile: growLog,
		stdout: "first entry\nsecond entry\nExited: -1\n",
	},
	{name: "Attach", run: interact, meanwhile: typeAtTerminal, stdout: "^(?s).*shell exited with 3\n.*from the keyboard\r\nfrom the keyboard\r\ncat exited with 0\n$"},
	{name: "AttachWith", run: interactWithOptions, stdout: "world\r\nhello world\r\n/tmp\r\nDEBUG=1\r\nsh exited with 3\n"},
	{name: "TakeStdin", run: drive, stdout: "hello\nexit code 3\n"},
	{name: "ID", run: identify, stdout: "^session [0-9a-f]{32}\n$"},
	{name: "Session", run: comeBack, stdout: "got a line\n"},
	// These are in the package comment, not on the seed page.
	{name: "Command", agentOnly: true, run: commandLikeOSExec, stdout: "SHOUT\n"},
	{name: "Errors", agentOnly: true, run: explain, stdout: "not started, at the stage lookup with no-such-program true\na mistake in Cmd.Dir \"not/absolute\"\nexit code 3\nno such session: true\n"},
	{name: "Concurrent", agentOnly: true, run: squares, stdout: "0\n1\n4\n9\n16\n25\n36\n49\n"},
}

const appFolder = `mkdir -p /app/lib && echo 'echo $PWD $PYTHONPATH; echo $(ulimit -S -n) $(ulimit -H -n)' >/app/compute.sh &&
	touch -d 2026-01-02T03:04:05Z /app /app/lib /app/compute.sh`

func TestSeedPageExamplesInAGuest(t *testing.T) {
	sb := sandbox.SharedGuest(t)
	for i, example := range seedPage {
		if example.agentOnly {
			continue
		}
		t.Run(example.name, func(t *testing.T) {
			if example.prepare != "" {
				res, err := sb.Shell(t.Context(), example.prepare)
				if err != nil || !res.Success() {
					t.Fatalf("preparing: %v, %q", err, res.Stderr())
				}
				defer sb.Shell(context.Background(), "rm -rf /app /var/log/app.log")
			}
			runExample(t, sb, i)
		})
	}
}

// The examples that need no files of their own run against an agent on this machine, too.
func TestSeedPageExamplesAgainstAnAgent(t *testing.T) {
	sb := sandbox.AgentSandbox(t)
	for i, example := range seedPage {
		if example.prepare == "" {
			t.Run(example.name, func(t *testing.T) { runExample(t, sb, i) })
		}
	}
}

func runExample(t *testing.T, sb *sandbox.Sandbox, i int) {
	example := seedPage[i]
	ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Minute, errors.New("the example hangs"))
	defer cancel()
	st := &stage{t: t, sb: sb, ctx: ctx}
	var err error
	st.play(func() { err = example.run(ctx, sb) }, example.meanwhile)
	if err != nil {
		t.Errorf("the example failed: %v (%v)", err, context.Cause(ctx))
	}
	got := st.stdout.String()
	if re, ok := strings.CutPrefix(example.stdout, "^"); ok {
		if !regexp.MustCompile("^" + re).MatchString(got) {
			t.Errorf("it printed %q, which does not match %q", got, example.stdout)
		}
	} else if got != example.stdout {
		t.Errorf("it printed %q\nwant       %q", got, example.stdout)
	}
	if got := st.stderr.String(); got != example.stderr {
		t.Errorf("on standard error it printed %q, want %q", got, example.stderr)
	}
}

// growLog appends to the log that is followed, and then ends tail.
func growLog(st *stage) {
	st.shell("echo second entry >>/var/log/app.log", st.stdout.has("first entry\n"))
	st.shell("kill $(pidof tail)", st.stdout.has("second entry\n"))
}

// typeAtTerminal leaves the shell, and then types a line for cat and the end of its input: not before the answer, because only then is the
// terminal sure to be raw and the key the program's.
func typeAtTerminal(st *stage) {
	st.press("exit 3\n", nil)
	st.press("from the keyboard\n", st.stdout.has("shell exited with 3\n"))
	st.press("\x04", st.stdout.has("from the keyboard\r\nfrom the keyboard\r\n"))
}

// stage is the process as an example sees it: its standard files are a terminal to type at and two files that are collected.
type stage struct {
	t              *testing.T
	sb             *sandbox.Sandbox
	ctx            context.Context
	stdout, stderr collected
	keyboard       *os.File
}

// play runs the example, and meanwhile beside it.
func (st *stage) play(example func(), meanwhile func(*stage)) {
	keyboard, tty, err := pty.Open()
	if err != nil {
		st.t.Fatal(err)
	}
	defer keyboard.Close()
	defer tty.Close()
	st.keyboard = keyboard
	stdin, stdout, stderr := os.Stdin, os.Stdout, os.Stderr
	closeStdout, closeStderr := st.stdout.pipe(st.t, &os.Stdout), st.stderr.pipe(st.t, &os.Stderr)
	os.Stdin = tty
	var wg sync.WaitGroup
	if meanwhile != nil {
		wg.Go(func() { meanwhile(st) })
	}
	example()
	wg.Wait()
	os.Stdin, os.Stdout, os.Stderr = stdin, stdout, stderr
	closeStdout()
	closeStderr()
}

// shell runs a script in the sandbox once wait has returned.
func (st *stage) shell(script string, wait func(context.Context) bool) {
	if !wait(st.ctx) {
		return
	}
	if res, err := st.sb.Shell(st.ctx, script); err != nil || !res.Success() {
		st.t.Errorf("%s: %v, %+v", script, err, res)
	}
}

// press types once wait, if any, has returned.
func (st *stage) press(keys string, wait func(context.Context) bool) {
	if wait != nil && !wait(st.ctx) {
		return
	}
	if _, err := st.keyboard.WriteString(keys); err != nil {
		st.t.Errorf("typing %q: %v", keys, err)
	}
}

// collected is what was written to a file.
type collected struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next write
}

func (c *collected) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
	return c.text.Write(p)
}

func (c *collected) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// pipe makes *f a pipe to c. The function that it returns waits for everything that was written.
func (c *collected) pipe(t *testing.T, f **os.File) (drain func()) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	*f = w
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.WriteTo(c)
		r.Close()
	}()
	return func() { w.Close(); <-done }
}

// has waits until want was written; false when ctx ended first.
func (c *collected) has(want string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		for {
			c.mu.Lock()
			if strings.Contains(c.text.String(), want) {
				c.mu.Unlock()
				return true
			}
			if c.changed == nil {
				c.changed = make(chan struct{})
			}
			changed := c.changed
			c.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
				return false
			}
		}
	}
}
