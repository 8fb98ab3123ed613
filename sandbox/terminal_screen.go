package sandbox

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// screenDefaults are the terminal's private modes (ECMA-48's SM and RM with "?", numbers as in xterm's control sequences) that a full-screen program
// changes and resets at its end, and how a shell expects them. Left as a program had them, they make a terminal unusable.
var screenDefaults = map[int]bool{
	1: false, 66: false, // cursor keys and keypad for applications
	5: false, 6: false, 7: true, 25: true, // reverse video, origin, line wrap, cursor
	9: false, 1000: false, 1001: false, 1002: false, 1003: false, 1004: false, 1005: false, 1006: false, 1015: false, 1016: false, // mouse and focus
	2004: false,                           // bracketed paste
	47:   false, 1047: false, 1049: false, // alternate screen
}

// maxScreenSequence bounds what is kept of an unfinished control sequence; those that matter are shorter.
const maxScreenSequence = 128

// screenModes follows the modes that a program's output sets. Its state spans writes. The zero value is a terminal as a shell expects it.
type screenModes struct {
	inside  bool         // after an ESC
	seq     []byte       // what came after it
	changed map[int]bool // private modes that are not as in screenDefaults
	keypad  bool         // the keypad is for applications, by DECKPAM
	keys    bool         // modified keys are told apart, by xterm's modifyOtherKeys
}

// scan looks through output.
func (m *screenModes) scan(p []byte) {
	for len(p) > 0 {
		if !m.inside {
			i := bytes.IndexByte(p, 0x1b)
			if i < 0 {
				return
			}
			m.inside, m.seq, p = true, m.seq[:0], p[i+1:]
			continue
		}
		m.next(p[0])
		p = p[1:]
	}
}

// next takes a byte of a sequence.
func (m *screenModes) next(b byte) {
	switch {
	case b == 0x1b: // another one begins
		m.seq = m.seq[:0]
		return
	case b < 0x20: // a control character within a sequence is no part of it
		return
	}
	m.seq = append(m.seq, b)
	switch {
	case len(m.seq) == 1 && b == '[':
		return
	case len(m.seq) == 1:
		switch b {
		case '=', '>':
			m.keypad = b == '='
		case 'c': // full reset
			*m = screenModes{seq: m.seq}
		}
	case b >= 0x40 && b <= 0x7e: // the last one
		m.control(string(m.seq[1:len(m.seq)-1]), b)
	case len(m.seq) < maxScreenSequence:
		return
	}
	m.inside = false
}

// control takes a whole control sequence.
func (m *screenModes) control(params string, final byte) {
	list, private := strings.CutPrefix(params, "?")
	switch {
	case private && (final == 'h' || final == 'l'):
		for _, s := range strings.Split(list, ";") {
			n, err := strconv.Atoi(s)
			usual, known := screenDefaults[n]
			switch {
			case err != nil || !known:
			case usual == (final == 'h'):
				delete(m.changed, n)
			default:
				if m.changed == nil {
					m.changed = make(map[int]bool)
				}
				m.changed[n] = true
			}
		}
	case final == 'm' && strings.HasPrefix(params, ">4"):
		m.keys = strings.HasPrefix(params, ">4;") && params != ">4;0"
	}
}

// reset returns what makes the terminal as a shell expects it, nothing when it is, and takes it for done. The alternate screen is left last: what
// precedes shall not show.
func (m *screenModes) reset() []byte {
	var out []byte
	add := func(mode int) {
		final := byte('l')
		if screenDefaults[mode] {
			final = 'h'
		}
		out = fmt.Appendf(out, "\x1b[?%d%c", mode, final)
	}
	modes := slices.Sorted(maps.Keys(m.changed))
	alternate := func(mode int) bool { return mode == 47 || mode == 1047 || mode == 1049 }
	if m.keypad {
		out = append(out, "\x1b>"...)
	}
	if m.keys {
		out = append(out, "\x1b[>4m"...)
	}
	for _, mode := range modes {
		if !alternate(mode) {
			add(mode)
		}
	}
	if m.changed[1049] {
		out = append(out, "\x1b[m\x1b[r"...) // colours, and the part of the screen that scrolls; the cursor comes back with the other screen
	}
	for _, mode := range modes {
		if alternate(mode) {
			add(mode)
		}
	}
	*m = screenModes{}
	return out
}
