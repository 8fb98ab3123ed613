//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

func TestScreenModesThatAProgramLeavesAreReset(t *testing.T) {
	const alternateOff = "\x1b[m\x1b[r\x1b[?1049l"
	for _, tc := range []struct{ name, shown, want string }{
		{"nothing", "text \x1b[31mred\x1b[m\r\n", ""},
		{"alternate screen", "\x1b[?1049h\x1b[2J~", alternateOff},
		{"one that was left again", "\x1b[?1049h\x1b[?1049l", ""},
		{"an editor", "\x1b[?1049h\x1b[>4;2m\x1b[?1h\x1b=\x1b[?2004h\x1b[?1004h\x1b[?25l\x1b[?1002;1006h",
			"\x1b>\x1b[>4m\x1b[?1l\x1b[?25h\x1b[?1002l\x1b[?1004l\x1b[?1006l\x1b[?2004l" + alternateOff},
		{"and its end", "\x1b[?1h\x1b=\x1b[>4;2m\x1b[?2004h\x1b[?25l\x1b[?2004l\x1b[>4;m\x1b[>4m\x1b[?1l\x1b>\x1b[?25h", ""},
		{"the old alternate screens", "\x1b[?47h\x1b[?1047h", "\x1b[?47l\x1b[?1047l"},
		{"modes without a default", "\x1b[?12h\x1b[?2026h\x1b[4h\x1b[?h\x1b[?;h\x1b[?99999999999999999999h", ""},
		{"a full reset", "\x1b[?1000h\x1b=\x1bc", ""},
		{"a broken sequence before it", "\x1b[?1\x1b[?1000h", "\x1b[?1000l"},
		{"a control character inside", "\x1b[?10\n00h", "\x1b[?1000l"},
		{"an endless sequence", "\x1b[?" + strings.Repeat("1", 1<<16) + "h\x1b[?7l", "\x1b[?7h"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for cut := 0; cut <= len(tc.shown); cut += 1 + len(tc.shown)/100 {
				var m screenModes
				m.scan([]byte(tc.shown[:cut]))
				m.scan([]byte(tc.shown[cut:]))
				if got := string(m.reset()); got != tc.want {
					t.Fatalf("cut at %d: %q, want %q", cut, got, tc.want)
				}
				if again := m.reset(); len(again) != 0 {
					t.Fatalf("a second reset is %q", again)
				}
			}
		})
	}
}

func FuzzScreenModes(f *testing.F) {
	f.Add([]byte("\x1b[?1049h\x1b[?25l\x1b=\x1b[>4;2m"), 3)
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		cut = min(max(cut, 0), len(p))
		var whole, parts screenModes
		whole.scan(p)
		parts.scan(p[:cut])
		parts.scan(p[cut:])
		if cap(whole.seq) > 4*maxScreenSequence || len(whole.changed) > len(screenDefaults) {
			t.Fatalf("%d bytes, %d modes are kept", cap(whole.seq), len(whole.changed))
		}
		reset := whole.reset()
		if got := parts.reset(); !bytes.Equal(got, reset) {
			t.Fatalf("%q in parts, %q as a whole", got, reset)
		}
		whole.scan(reset)
		if left := whole.reset(); len(left) != 0 {
			t.Fatalf("after the reset %q remains", left)
		}
	})
}

func BenchmarkScreenModes(b *testing.B) {
	text := []byte(strings.Repeat("some text \x1b[1;31mand colours\x1b[m, as usual\r\n", 1000))
	b.SetBytes(int64(len(text)))
	var m screenModes
	for b.Loop() {
		m.scan(text)
	}
}

// What a full-screen program has set is reset however the attachment ends, after all it printed.
func TestScreenIsLeftHoweverAnAttachmentEnds(t *testing.T) {
	const enter, reset = "\x1b[?1049h\x1b[?1000h\x1b[?2004hready", "\x1b[?1000l\x1b[?2004l\x1b[m\x1b[r\x1b[?1049l"
	for _, tc := range []struct {
		name, keys string
		end        func(*Sandbox, context.CancelFunc)
		want       error
	}{
		{"detach keys", "\x1d", nil, ErrDetached},
		{"crash", "\x1c", nil, nil},
		{"context", "", func(_ *Sandbox, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"end of the machine", "", func(sb *Sandbox, _ context.CancelFunc) {
			sb.life.cause = &StoppedError{Reason: ReasonPanic}
			close(sb.life.ended)
			sb.client.Close()
		}, ErrStopped},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sb := agentSandbox(t)
			user, tty, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer user.Close()
			defer tty.Close()
			s := newScreen()
			go io.Copy(s, user)
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			result := make(chan error, 1)
			go func() {
				_, err := sb.AttachWith(ctx, "sh", WithAttachArgs("-c", `stty -echo; printf "$1"; exec cat`, "sh", strings.ReplaceAll(enter, "\x1b", `\033`)), withTestTerminal(tty, tty))
				result <- err
			}()
			s.expect(t, enter)
			if tc.end != nil {
				tc.end(sb, cancel)
			} else if _, err := io.WriteString(user, tc.keys); err != nil {
				t.Fatal(err)
			}
			soon(t, "AttachWith", func() { err = <-result })
			if !errors.Is(err, tc.want) {
				t.Errorf("%v; want %v", err, tc.want)
			}
			if _, err := io.WriteString(tty, "after"); err != nil {
				t.Fatal(err)
			}
			s.expect(t, "after")
			if got := s.text.String(); got != enter+reset+"after" {
				t.Errorf("the screen got %q, want %q", got, enter+reset+"after")
			}
		})
	}
}

// A terminal that takes no output, as one whose window hangs, must not hold the program.
func TestScreenOfAHangingTerminalIsNotWaitedFor(t *testing.T) {
	user, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer tty.Close()
	x, err := newTerminal(tty, tty)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.enterRaw(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(x.out(), "\x1b[?1049h"); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(tty.Name(), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for fill := []byte("x"); err == nil; {
		_, err = unix.Write(fd, fill)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	before := x.saved
	soon(t, "close", x.close)
	if now, err := term.GetState(fd); err != nil || *now != *before {
		t.Errorf("the terminal is %+v, %v; was %+v", now, err, before)
	}
	s := newScreen()
	go io.Copy(s, user) // the window wakes up
	s.expect(t, "xx\x1b[m\x1b[r\x1b[?1049l")
}
