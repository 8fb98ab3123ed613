//go:build linux

package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// failures are starts that fail, each for another reason.
func failures(t *testing.T) map[string]channel.Request {
	t.Helper()
	dir := t.TempDir()
	plain, bad := filepath.Join(dir, "plain"), filepath.Join(dir, "bad")
	for path, mode := range map[string]os.FileMode{plain: 0o644, bad: 0o755} {
		if err := os.WriteFile(path, []byte("\x7fELF garbage"), mode); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]channel.Request{
		"missing command": {Path: "no-such-command"},
		"missing file":    {Path: "/no/such/file"},
		"not executable":  {Path: plain},
		"bad ELF":         {Path: bad},
		"missing cwd":     {Path: "true", Dir: "/no/such/dir"},
		"cwd is a file":   {Path: "true", Dir: plain},
		"unknown user":    {Path: "true", User: "nobody-here"},
		"bad rlimit":      {Path: "true", Rlimits: []channel.Rlimit{{Name: "nofiles"}}},
		"argv too large":  {Path: "true", Args: []string{"true", strings.Repeat("x", 200<<10)}},
		"NUL in argv":     {Path: "true", Args: []string{"true", "a\x00b"}},
	}
}

func TestStartFailuresReadTheSameInEveryModeAndDifferFromEachOther(t *testing.T) {
	c := connect(t, agent.Options{})
	texts := make(map[string]string)
	for name, req := range failures(t) {
		var want string
		for mode, change := range map[string]func(*channel.Request){
			"pipe":            func(*channel.Request) {},
			"tty":             func(r *channel.Request) { r.TTY = &channel.TTY{} },
			"detachable":      func(r *channel.Request) { r.Detachable = true },
			"detachable, tty": func(r *channel.Request) { r.Detachable, r.TTY = true, &channel.TTY{} },
		} {
			r := req
			change(&r)
			res, err := tryRun(c, &r, strings.NewReader("x"))
			if err == nil || res.exit != nil || res.stdout != "" || res.stderr != "" {
				t.Fatalf("%s, %s: %+v, %v", name, mode, res, err)
			}
			if want == "" {
				want = err.Error()
			}
			if err.Error() != want {
				t.Errorf("%s, %s: %q, in another mode %q", name, mode, err, want)
			}
		}
		if other, ok := texts[want]; ok {
			t.Errorf("%s and %s are both %q", name, other, want)
		}
		texts[want] = name
	}
	// They left no session behind, and their IDs are free.
	for name, req := range failures(t) {
		req.Session, req.Detachable = "again", true
		if _, err := tryRun(c, &req, nil); err == nil {
			t.Fatal(name)
		}
	}
	req := detachable("echo ran", "again")
	want(t, run(t, c, req, nil), "ran\n", "", 0)
}
