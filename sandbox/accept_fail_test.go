//go:build linux && amd64

package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

// acceptDistinctFailures: every reason why a command cannot start has an error of its own, which is the same however the command was to run.
func acceptDistinctFailures(t *testing.T, sb *Sandbox) {
	ctx := testContext(t)
	if res, err := sb.Shell(ctx, "printf '\\177ELF....' >/tmp/hutch-elf; chmod 755 /tmp/hutch-elf"); err != nil || !res.Success() {
		t.Fatal(err, res)
	}
	many := make([]string, 30)
	for i := range many {
		many[i] = strings.Repeat("x", 100_000) // each is allowed, all of them are not
	}
	modes := map[string][]ExecOption{
		"pipes": nil, "terminal": {WithExecTTY(24, 80)}, "detachable": {WithExecDetachable(0)}, "detachable, terminal": {WithExecDetachable(0), WithExecTTY(24, 80)},
	}
	seen := make(map[string]string)
	for _, tc := range []struct {
		name  string
		cmd   string
		args  []string
		opt   ExecOption
		stage string
		errno syscall.Errno
	}{
		{"missing command", "no-such-command", nil, nil, "lookup", syscall.ENOENT},
		{"missing file", "/no/such/file", nil, nil, "lookup", syscall.ENOENT},
		{"not executable", "/etc/passwd", nil, nil, "lookup", syscall.EACCES},
		{"bad ELF", "/tmp/hutch-elf", nil, nil, "exec", syscall.ENOEXEC},
		{"missing directory", "true", nil, WithExecCwd("/no/such/dir"), "chdir", syscall.ENOENT},
		{"directory is a file", "true", nil, WithExecCwd("/etc/passwd"), "chdir", syscall.ENOTDIR},
		{"unknown user", "true", nil, WithExecUser("nobody-at-all"), "user", 0},
		{"unknown group", "true", nil, WithExecUser("root:nobody-at-all"), "user", 0},
		{"limit above the kernel's", "true", nil, WithExecRlimit("nofile", 1<<31, 1<<31), "rlimit", syscall.EPERM},
		{"argument too large", "true", []string{strings.Repeat("x", 200_000)}, nil, "exec", syscall.E2BIG},
		{"NUL in an argument", "true", []string{"a\x00b"}, nil, "request", syscall.EINVAL},
		{"NUL in the path", "/bin/tr\x00ue", nil, nil, "request", syscall.EINVAL},
		{"NUL in the directory", "true", nil, WithExecCwd("/t\x00mp"), "request", syscall.EINVAL},
		{"NUL in the user", "true", nil, WithExecUser("ro\x00ot"), "request", syscall.EINVAL},
	} {
		text := ""
		for mode, opts := range modes {
			if tc.opt != nil {
				opts = append(opts[:len(opts):len(opts)], tc.opt)
			}
			res, err := sb.Exec(ctx, tc.cmd, tc.args, opts...)
			var se *StartError
			if !errors.As(err, &se) || res != nil {
				t.Errorf("%s, %s: %+v, %.300v; want a *StartError", tc.name, mode, res, err)
				continue
			}
			if se.Stage != tc.stage || tc.errno != 0 && syscall.Errno(se.Errno) != tc.errno || StartStage(err) != tc.stage {
				t.Errorf("%s, %s: stage %q, errno %v; want %q, %v", tc.name, mode, se.Stage, se.Errno, tc.stage, tc.errno)
			}
			if text == "" {
				text = err.Error()
			}
			if err.Error() != text {
				t.Errorf("%s, %s: %q, in another mode %q", tc.name, mode, err, text)
			}
		}
		if other, ok := seen[text]; ok && text != "" {
			t.Errorf("%s and %s are both %q", tc.name, other, text)
		}
		seen[text] = tc.name
	}
	var le *LimitError
	if _, err := sb.Exec(ctx, "true", many); !errors.As(err, &le) || le.Max != 1<<20 || !errors.Is(err, syscall.E2BIG) {
		t.Errorf("3 MB of arguments: %.300v; want a *LimitError of the request's size that is E2BIG", err)
	}
	var ce *ConfigError
	if _, err := sb.Exec(ctx, "true", nil, WithExecEnv(map[string]string{"A": "b\x00c"})); !errors.As(err, &ce) {
		t.Errorf("NUL in the environment: %v, want a *ConfigError", err)
	}
	// They hold nothing: not the name of a session, not a place in the agent.
	for range 3 {
		if _, err := sb.Exec(ctx, "no-such-command", nil, WithExecID("failed-start"), WithExecDetachable(0)); StartStage(err) != "lookup" {
			t.Errorf("again: %v", err)
		}
	}
	if _, err := sb.Session("failed-start").Info(ctx); !errors.Is(err, ErrSessionNotFound) {
		t.Errorf("the session of a failed start: %v", err)
	}
}

// When the guest is out of processes a start says so, and goes again when there is room.
func TestAcceptStartWithoutRoomForAProcessInAGuest(t *testing.T) {
	sb := newSandbox(t)
	ctx := testContext(t)
	// The shell leaves the group whose limit it sets, so that its own threads do not meet it.
	const limit = "/sys/fs/cgroup/hutch/pids.max"
	h, err := sb.ShellStream(ctx, "echo $$ >/sys/fs/cgroup/cgroup.procs && echo 0 >"+limit+" && echo set; read x; echo max >"+limit+" && echo lifted; read x", WithExecStdinPipe())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	untilOutput(t, h, "set\n")
	for _, opts := range [][]ExecOption{nil, {WithExecTTY(24, 80)}, {WithExecDetachable(0)}, {WithExecLimits(Limits{Pids: 10})}} {
		_, err := sb.Exec(ctx, "true", nil, opts...)
		var se *StartError
		if !errors.As(err, &se) || se.Stage != "fork" || syscall.Errno(se.Errno) != syscall.EAGAIN || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, context.Canceled) {
			t.Errorf("without room for a process: %v; want a *StartError of fork with EAGAIN", err)
		}
	}
	in := h.TakeStdin()
	if _, err := io.WriteString(in, "\n"); err != nil {
		t.Fatal(err)
	}
	untilOutput(t, h, "lifted\n")
	if res, err := sb.Exec(ctx, "echo", []string{"fine"}); err != nil || res.Stdout() != "fine\n" {
		t.Errorf("afterwards: %+v, %v", res, err)
	}
}
