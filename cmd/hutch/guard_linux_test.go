package main

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func TestGuardRestoresTheTerminalAfterACrashOnly(t *testing.T) {
	for _, tc := range []struct {
		name    string
		said    string
		shell   bool // a shell's line editor has set its own modes already
		restore bool
	}{
		{"killed", "", false, true},
		{"in order", ".", false, false},
		{"a shell was there first", "", true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			user, tty, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer user.Close()
			defer tty.Close()
			modes := func() unix.Termios {
				m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
				if err != nil {
					t.Fatal(err)
				}
				return *m
			}
			before := modes()
			line, err := json.Marshal(&before)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := term.MakeRaw(int(tty.Fd())); err != nil {
				t.Fatal(err)
			}
			if tc.shell {
				m := modes()
				m.Lflag |= unix.ISIG
				if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, &m); err != nil {
					t.Fatal(err)
				}
			}
			raw := modes()
			if err := guard(strings.NewReader(string(line)+"\n"+tc.said), tty); err != nil {
				t.Fatal(err)
			}
			want := raw
			if tc.restore {
				want = before
				shown := make([]byte, len(resetScreen))
				if _, err := io.ReadFull(user, shown); err != nil || string(shown) != resetScreen {
					t.Errorf("shown %q, %v", shown, err)
				}
			}
			if got := modes(); got != want {
				t.Errorf("modes %+v, want %+v", got, want)
			}
		})
	}
}

func TestGuardIsNotForUsers(t *testing.T) {
	if got := hutch(t, "", "guard"); got.code != exitFailed || !strings.Contains(got.stderr, "hutch starts this command itself") {
		t.Errorf("%+v", got)
	}
	if os.Getenv(guardEnv) != "" {
		t.Errorf("%s is set", guardEnv)
	}
}
