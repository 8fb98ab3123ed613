package main

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Keys of a terminal.
const (
	ctrlC = 0x03
	ctrlD = 0x04
	ctrlE = 0x05 // to the end of the line
	ctrlU = 0x15 // delete to the beginning of the line
)

// lineEditor hands the parser one edited line per Read. The terminal is raw only while a line is edited: commands find it as they expect.
type lineEditor struct {
	terminal *term.Terminal
	keys     *keyReader
	rest     string
}

func newLineEditor(in *os.File, out io.Writer) *lineEditor {
	keys := &keyReader{f: in}
	screen := struct {
		io.Reader
		io.Writer
	}{keys, out}
	return &lineEditor{terminal: term.NewTerminal(screen, ""), keys: keys}
}

func (e *lineEditor) Read(p []byte) (int, error) {
	if e.rest == "" {
		fd := int(e.keys.f.Fd())
		state, err := term.MakeRaw(fd)
		if err != nil {
			return 0, err
		}
		if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
			e.keys.ahead = n
		}
		if w, h, err := term.GetSize(fd); err == nil && w > 0 {
			e.terminal.SetSize(w, max(h, 1))
		}
		e.keys.plain, e.keys.last = true, 0
		line, err := e.terminal.ReadLine()
		term.Restore(fd, state)
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			return 0, io.EOF
		}
		e.rest = line + "\n"
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// keyReader reads one byte at a time, so that what was typed ahead stays for the next command. It turns Ctrl-C into "drop this line", and
// sees to it that an end of file ends the shell also where a terminal's own line discipline would have seen it and the editor does not.
type keyReader struct {
	f       *os.File
	pending []byte
	ahead   int  // bytes that the terminal took before it was raw
	plain   bool // nothing but text was typed in this line, so that the cursor is at its end
	last    byte // the key before
}

func (k *keyReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(k.pending) == 0 {
		var b [1]byte
		if _, err := io.ReadFull(k.f, b[:]); err != nil {
			return 0, err
		}
		k.pending = k.keysFor(b[0])
	}
	p[0] = k.pending[0]
	k.pending = k.pending[1:]
	return 1, nil
}

// keysFor is what the editor gets for the key c.
func (k *keyReader) keysFor(c byte) []byte {
	if k.ahead > 0 {
		k.ahead--
		if c == 0 {
			c = ctrlD // an end of file that was typed while the terminal was not raw is a zero byte when it is read raw
		}
	}
	before := k.last
	k.last = c
	switch {
	case c == ctrlC:
		return []byte{ctrlE, ctrlU, '\r'}
	case c == '\n':
		return []byte{'\r'}
	case c == ctrlD && before == ctrlD && k.plain:
		return []byte{'\r', ctrlD} // twice at the end of a line: the line as it is, and the end of the file
	case c < ' ' && c != ctrlD:
		k.plain = false
	}
	return []byte{c}
}
