package tmuxtest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Screen is what a terminal shows, one string per row, without the spaces at the end.
type Screen []string

// String draws the screen with a frame, for failure messages.
func (s Screen) String() string {
	width := 0
	for _, row := range s {
		width = max(width, len([]rune(row)))
	}
	var b strings.Builder
	line := "+" + strings.Repeat("-", width) + "+\n"
	b.WriteString(line)
	for _, row := range s {
		fmt.Fprintf(&b, "|%-*s|\n", width, row)
	}
	b.WriteString(line)
	return b.String()
}

// Contains: the text stands in one row.
func (s Screen) Contains(text string) bool {
	for _, row := range s {
		if strings.Contains(row, text) {
			return true
		}
	}
	return false
}

// Last returns the last row that is not empty.
func (s Screen) Last() string {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] != "" {
			return s[i]
		}
	}
	return ""
}

// Count returns how many rows are exactly row.
func (s Screen) Count(row string) (n int) {
	for _, r := range s {
		if r == row {
			n++
		}
	}
	return n
}

// Above returns the row above the last one that is not empty.
func (s Screen) Above() string {
	for i := len(s) - 1; i > 0; i-- {
		if s[i] != "" {
			return s[i-1]
		}
	}
	return ""
}

// PID is the process that was started in the pane.
func (p *Pane) PID() int { return p.pid }

// TTY is the path of the pane's terminal.
func (p *Pane) TTY() string { return p.tty }

// Format expands a tmux format for the pane, such as #{alternate_on}.
func (p *Pane) Format(format string) string {
	p.srv.t.Helper()
	return strings.TrimSuffix(p.srv.run(nil, "display-message", "-p", "-t", p.id, format), "\n")
}

// Keys presses keys by their tmux names: "C-c", "Enter", "Escape", "Up".
func (p *Pane) Keys(names ...string) {
	p.srv.t.Helper()
	p.srv.run(nil, append([]string{"send-keys", "-t", p.id}, names...)...)
}

// Type types text as it is.
func (p *Pane) Type(text string) {
	p.srv.t.Helper()
	p.Paste([]byte(text))
}

// Line types text and Enter.
func (p *Pane) Line(text string) {
	p.srv.t.Helper()
	p.Type(text + "\r")
}

// Paste types bytes of any value and number, exactly.
func (p *Pane) Paste(data []byte) {
	p.srv.t.Helper()
	p.srv.run(data, "load-buffer", "-b", "typed", "-")
	p.srv.run(nil, "paste-buffer", "-d", "-r", "-b", "typed", "-t", p.id)
}

// PasteBracketed pastes text as a terminal emulator does: between marks, when the program has asked for them.
func (p *Pane) PasteBracketed(text string) {
	p.srv.t.Helper()
	p.srv.run([]byte(text), "load-buffer", "-b", "pasted", "-")
	p.srv.run(nil, "paste-buffer", "-d", "-r", "-p", "-b", "pasted", "-t", p.id)
}

// Capture returns the screen.
func (p *Pane) Capture() Screen {
	p.srv.t.Helper()
	rows := strings.Split(strings.TrimSuffix(p.srv.run(nil, "capture-pane", "-p", "-t", p.id), "\n"), "\n")
	for i := range rows {
		rows[i] = strings.TrimRight(rows[i], " ")
	}
	return rows
}

// WaitText waits until text stands in one row of the screen.
func (p *Pane) WaitText(text string) Screen {
	p.srv.t.Helper()
	return p.WaitFor(strconv.Quote(text), func(s Screen) bool { return s.Contains(text) })
}

// WaitLast waits until row is the last of the screen's that are not empty: a prompt, for example.
func (p *Pane) WaitLast(row string) Screen {
	p.srv.t.Helper()
	return p.WaitFor("last row "+strconv.Quote(row), func(s Screen) bool { return s.Last() == strings.TrimRight(row, " ") })
}

// WaitFor waits until ok returns true of the screen, and returns it. what is for the failure message, which holds the last screen. It fails at
// once when the program has ended and the screen is not it.
func (p *Pane) WaitFor(what string, ok func(Screen) bool) Screen {
	p.srv.t.Helper()
	end := time.Now().Add(deadline)
	for {
		dead := p.Format("#{pane_dead} #{pane_dead_status} #{pane_dead_signal}")
		s := p.Capture()
		switch {
		case ok(s):
			return s
		case strings.HasPrefix(dead, "1"):
			p.srv.t.Fatalf("the program has ended (dead, status, signal = %s) before %s; the screen:\n%v", dead, what, s)
		case time.Now().After(end):
			p.srv.t.Fatalf("no %s; the screen:\n%v", what, s)
		}
		time.Sleep(pollEvery)
	}
}

// WaitDead waits until the program has ended, and returns its exit status, or 128+n when signal n ended it.
func (p *Pane) WaitDead() int {
	p.srv.t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(pollEvery) {
		// A pane is dead as soon as its terminal is closed; how the program ended is known when it was waited for.
		var status, signal int
		dead := p.Format("#{pane_dead} #{pane_dead_status};#{pane_dead_signal}")
		if n, _ := fmt.Sscanf(dead, "1 ;%d", &signal); n == 1 {
			return 128 + signal
		}
		if n, _ := fmt.Sscanf(dead, "1 %d;", &status); n == 1 {
			return status
		}
		if strings.HasPrefix(dead, "1") {
			// tmux 3.3a sometimes misses that a program has ended (it stays a zombie, seen once in about 35 runs). The end of any other
			// makes it look at all of them.
			p.srv.run(nil, "run-shell", "-b", "true")
		}
		if time.Now().After(end) {
			p.srv.t.Fatalf("the program goes on (dead, status, signal = %s); the screen:\n%v", dead, p.Capture())
		}
	}
}

// Resize sets the terminal's size; its programs get SIGWINCH.
func (p *Pane) Resize(rows, cols int) {
	p.srv.t.Helper()
	p.srv.run(nil, "resize-window", "-t", p.id, "-x", strconv.Itoa(cols), "-y", strconv.Itoa(rows))
}
