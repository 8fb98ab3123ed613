//go:build linux && amd64

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// tmuxEnv makes the test binary one of the programs below: what runs on a terminal in the tests with tmux, on both sides of Attach.
const tmuxEnv = "HUTCH_TEST_TMUX"

var tmuxPrograms = map[string]func() int{
	"console agent": func() int { return runConsole(agentSandbox, true) },
	"console guest": func() int {
		return runConsole(func(t testing.TB, opts ...Option) *Sandbox {
			sb := newSandbox(t, opts...)
			self, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer self.Close()
			if res, err := sb.Exec(testContext(t), "sh", []string{"-c", "cat >" + guestSelf + " && chmod +x " + guestSelf}, WithExecStdin(self)); err != nil || !res.Success() {
				t.Fatalf("delivery of the test's programs: %v, %v", err, res)
			}
			return sb
		}, false)
	},
	"once":    once,
	"raw":     rawForever,
	"painter": painter,
	"signals": countSignals,
	"paste":   checkPaste,
}

// guestSelf is the test binary in a guest.
const guestSelf = "/tmp/self"

func init() {
	name := os.Getenv(tmuxEnv)
	if name == "" {
		return
	}
	program, ok := tmuxPrograms[name]
	if !ok {
		fmt.Println("no program", name)
		os.Exit(125)
	}
	os.Exit(program())
}

// programTB is the testing.TB of a program that is no test.
type programTB struct {
	testing.TB
	cleanups []func()
}

func (p *programTB) Helper()                   { /* nothing to mark */ }
func (p *programTB) Cleanup(f func())          { p.cleanups = append(p.cleanups, f) }
func (p *programTB) Fatal(a ...any)            { fmt.Println(a...); os.Exit(125) }
func (p *programTB) Fatalf(f string, a ...any) { p.Fatal(fmt.Sprintf(f, a...)) }
func (p *programTB) Skipf(f string, a ...any)  { p.Fatalf(f, a...) }

func (p *programTB) end() {
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		p.cleanups[i]()
	}
}

// runConsole reads commands from its terminal, one per line, and runs them with one sandbox:
//
//	attach PROGRAM ARGS     self PROGRAM (one of tmuxPrograms)
//	keys LIST ONE-OF-THESE  reattach ID [TERMINAL]  sessions   clear
//
// SIGUSR1 ends the context of an attachment, SIGUSR2 the machine that an agent in this process has not.
func runConsole(open func(testing.TB, ...Option) *Sandbox, native bool) int {
	t := &programTB{}
	defer t.end()
	sb := open(t)
	self := guestSelf
	if native {
		var err error
		if self, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
		usr2 := make(chan os.Signal, 1)
		signal.Notify(usr2, unix.SIGUSR2)
		go func() {
			<-usr2
			sb.life.cause = &StoppedError{Reason: ReasonPanic}
			close(sb.life.ended)
			sb.client.Close()
		}()
	}
	env := map[string]string{"PS1": "guest> ", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HISTFILE": "/dev/null"}
	lines := bufio.NewReader(os.Stdin)
	count := 0
	for {
		fmt.Print("host> ")
		line, err := lines.ReadString('\n')
		if err != nil {
			return 0
		}
		args := append(strings.Fields(line), "")
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGUSR1)
		opts := []AttachOption{WithAttachEnv(env)}
		switch args = args[:len(args)-1]; {
		case len(args) == 0:
		case args[0] == "clear":
			fmt.Print("\x1b[H\x1b[2J")
		case args[0] == "sessions":
			list, err := sb.Sessions(ctx)
			for _, s := range list {
				fmt.Printf("%s running %t watchers %d\n", s.ID, s.Running, s.Watchers)
			}
			fmt.Println("sessions:", len(list), err)
		case args[0] == "reattach":
			var opts []AttachOption
			if len(args) > 2 {
				tty, err := os.OpenFile(args[2], os.O_RDWR|syscall.O_NOCTTY, 0)
				if err != nil {
					t.Fatal(err)
				}
				opts = append(opts, withTestTerminal(tty, tty))
			}
			code, err := sb.Session(args[1]).Attach(ctx, opts...)
			count++
			report(count, code, err)
		default:
			if args[0] == "keys" {
				opts = append(opts, WithAttachDetachKeys(args[1]))
				args = args[2:]
			}
			if args[0] == "self" {
				opts = append(opts, WithAttachEnv(map[string]string{tmuxEnv: strings.Join(args[1:], " ")}))
				args = []string{"", self}
			}
			code, err := sb.AttachWith(ctx, args[1], append(opts, WithAttachArgs(args[2:]...))...)
			count++
			report(count, code, err)
		}
		stop()
	}
}

// report prints how the n-th attachment ended, on a row of its own.
func report(n, code int, err error) {
	var de *DetachedError
	how := fmt.Sprintf("code %d", code)
	switch {
	case errors.As(err, &de):
		how = "detached: " + de.SessionID
	case errors.Is(err, context.Canceled):
		how += ", cancelled"
	case errors.Is(err, ErrStopped):
		how += ", stopped"
	case err != nil:
		how += ", " + err.Error()
	}
	fmt.Printf("\n\x1b[J%d. %s\n", n, how) // a program that was killed may have left something below
}

// once is what a careful program does: signals end its context. It attaches cat and exits with what Attach returns.
func once() int {
	t := &programTB{}
	defer t.end()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	defer stop()
	fmt.Println("pid", os.Getpid())
	code, err := agentSandbox(t).Attach(ctx, "sh", "-c", "echo attached; exec cat")
	report(1, code, err)
	if ctx.Err() != nil {
		return 99
	}
	return code
}

// rawForever holds a terminal as an attachment does, and says what it reads.
func rawForever() int {
	x, err := openTerminal()
	if err == nil {
		err = x.enterRaw()
	}
	if err != nil {
		fmt.Println(err)
		return 125
	}
	fmt.Printf("raw, pid %d\r\n", os.Getpid())
	for buf := make([]byte, 100); ; {
		n, err := x.Read(buf)
		fmt.Printf("read %x %v\r\n", buf[:n], err)
		if err != nil || buf[0] == 'q' {
			x.close()
			return 0
		}
	}
}

// painter is a full-screen program, as editors are: on the alternate screen it draws a frame along the edges and what was typed last, in
// hexadecimal; a change of the size draws it anew. # forgets what was typed, q ends it.
func painter() int {
	old, err := term.MakeRaw(0)
	if err != nil {
		fmt.Println(err)
		return 125
	}
	defer term.Restore(0, old)
	fmt.Print("\x1b[?1049h\x1b[?1000h\x1b[?1006h\x1b[?2004h") // alternate screen, mouse, its SGR form, bracketed paste
	defer fmt.Print("\x1b[?2004l\x1b[?1006l\x1b[?1000l\x1b[?1049l")
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, unix.SIGWINCH)
	keys := make(chan []byte)
	go func() {
		for {
			buf := make([]byte, 4096)
			n, err := os.Stdin.Read(buf)
			if err != nil {
				close(keys)
				return
			}
			keys <- buf[:n]
		}
	}()
	var typed []byte
	for {
		paint(typed)
		select {
		case <-winch:
		case k, ok := <-keys:
			typed = append(typed, k...)
			if !ok || k[len(k)-1] == 'q' {
				return 5
			}
			if k[len(k)-1] == '#' {
				typed = nil
			}
		}
	}
}

func paint(typed []byte) {
	cols, rows, err := term.GetSize(0)
	if err != nil {
		return
	}
	fmt.Print("\x1b[2J")
	for row := 1; row <= rows; row++ {
		line := "|" + strings.Repeat(" ", cols-2) + "|"
		if row == 1 || row == rows {
			line = "+" + strings.Repeat("─", cols-2) + "+"
		}
		fmt.Printf("\x1b[%d;1H%s", row, line)
	}
	fmt.Printf("\x1b[3;3H%d x %d", rows, cols)
	fmt.Printf("\x1b[4;3Htyped %x.", typed)
	fmt.Printf("\x1b[%d;%dH", rows-1, cols-1)
}

// countSignals says which of the keys' signals it gets. SIGQUIT ends it.
func countSignals() int {
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, unix.SIGINT, unix.SIGTSTP, unix.SIGQUIT)
	cols, rows, err := term.GetSize(0)
	fmt.Println("ready", rows, cols, err)
	for sig := range ch {
		fmt.Println("signal:", sig)
		if sig == unix.SIGQUIT {
			break
		}
	}
	return 9
}

// pasteSize is more than the buffers of all the terminals between the user and a program.
const pasteSize = 100 << 10

// pasted is a text with every byte value, the detach key and the terminal's special characters among them; no part of it repeats.
func pasted() []byte {
	data := make([]byte, 0, pasteSize)
	for x := uint32(1); len(data) < pasteSize; {
		x = x*1664525 + 1013904223
		if b := byte(x >> 24); b != 0x1d {
			data = append(data, b)
		}
	}
	return data
}

// checkPaste reads pasted from a raw terminal, and one more byte, which it prints.
func checkPaste() int {
	old, err := term.MakeRaw(0)
	if err != nil {
		fmt.Println(err)
		return 125
	}
	defer term.Restore(0, old)
	fmt.Print("ready\r\n")
	want := pasted()
	got := make([]byte, len(want)+1)
	if _, err := io.ReadFull(os.Stdin, got); err != nil {
		fmt.Print(err, "\r\n")
		return 1
	}
	for i := range want {
		if got[i] != want[i] {
			fmt.Printf("byte %d is %#x, want %#x\r\n", i, got[i], want[i])
			return 2
		}
	}
	fmt.Printf("exact, and then %c\r\n", got[len(want)])
	return 0
}
