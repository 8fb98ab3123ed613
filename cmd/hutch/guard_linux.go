package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// guardEnv marks the process that guardTerminal starts.
const guardEnv = "HUTCH_TERMINAL_GUARD"

// guardFD is the descriptor that tells a guard what to restore, and whether to.
const guardFD = 3

// guardTerminal sees to it that the terminal of standard input is usable again when this process is killed while it is raw: a process of its
// own waits for this one's end. The caller calls release at the end of its raw time. Without a terminal, or when no process can be started,
// there is no guard.
func guardTerminal() (release func()) {
	none := func() {}
	modes, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err != nil {
		return none
	}
	line, err := json.Marshal(modes)
	if err != nil {
		return none
	}
	self, err := os.Executable()
	if err != nil {
		return none
	}
	r, w, err := os.Pipe()
	if err != nil {
		return none
	}
	defer r.Close()
	cmd := exec.Command(self, "guard")
	cmd.Env = append(os.Environ(), guardEnv+"=1")
	cmd.Stdin, cmd.ExtraFiles, cmd.Dir = os.Stdin, []*os.File{r}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the keyboard's signals, and what kills this process's group, are not for it
	if cmd.Start() != nil {
		w.Close()
		return none
	}
	_, _ = w.Write(append(line, '\n')) // a guard that has died already guards nothing
	return func() {
		_, _ = w.Write([]byte("."))
		w.Close()
		_ = cmd.Wait()
	}
}

func newGuard() *cobra.Command {
	return &cobra.Command{
		Use: "guard", Hidden: true, Short: "Restore the terminal after a crash", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if os.Getenv(guardEnv) == "" {
				return errors.New("guard: hutch starts this command itself")
			}
			unix.CloseOnExec(guardFD)
			signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGPIPE)
			return guard(os.NewFile(guardFD, "guarded"), os.Stdin)
		},
	}
}

// guard waits for the end of what is guarded, and restores the terminal unless that was said to be in order.
func guard(guarded io.Reader, tty *os.File) error {
	in := bufio.NewReader(guarded)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil // it has not begun
	}
	var modes unix.Termios
	if err := json.Unmarshal(line, &modes); err != nil {
		return err
	}
	if _, err := in.ReadByte(); err == nil {
		return nil
	}
	if now, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil || now.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG|unix.IEXTEN) != 0 {
		return nil // it is gone, or a shell with a line editor has put it right already, its own way
	}
	_ = unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, &modes) // it fails when the terminal is gone, as the next
	_, _ = tty.WriteString(resetScreen)                          // last: a terminal whose output is stopped holds it up
	return nil
}

// resetScreen undoes what full-screen programs leave set: the other screen, reports of the mouse, pastes in brackets, a hidden cursor, colours.
// It changes nothing where nothing was set. Source: XTerm Control Sequences, DECRST.
const resetScreen = "\x1b[?1047l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[0m"
