package sandbox

import (
	"bytes"
	"strconv"
	"strings"
)

// DefaultDetachKeys is the key sequence that detaches a terminal unless WithAttachDetachKeys says otherwise.
const DefaultDetachKeys = "ctrl-]"

// parseDetachKeys reads docker's grammar: a comma-separated list in which each part is one ASCII character or "ctrl-" with a letter or one of
// @ [ \ ] ^ _. The empty string is no key at all.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for _, part := range strings.Split(s, ",") {
		key, ctrl := strings.CutPrefix(part, "ctrl-")
		switch {
		case len(key) != 1 || key[0] >= 0x80:
			return nil, badDetachKeys(s, part)
		case !ctrl:
			keys = append(keys, key[0])
		case key[0] >= 'a' && key[0] <= 'z':
			keys = append(keys, key[0]-'a'+1)
		case key[0] >= '@' && key[0] <= '_': // these are the control characters in ASCII's order, A to Z among them
			keys = append(keys, key[0]-'@')
		default:
			return nil, badDetachKeys(s, part)
		}
	}
	return keys, nil
}

func badDetachKeys(s, part string) error {
	return &ConfigError{"WithAttachDetachKeys", strconv.Quote(s), strconv.Quote(part) +
		` is no key; give a comma-separated list of single characters and ctrl-X, where X is a letter or one of @ [ \ ] ^ _`}
}

// A keyMatcher looks for the detach keys in what is typed. Its state spans reads.
type keyMatcher struct {
	keys []byte
	held []byte // a prefix of keys: typed, and not passed on
}

// feed takes what was typed and returns what to pass on. found = the whole sequence was typed; it and what follows are not passed on.
func (m *keyMatcher) feed(p []byte) (pass []byte, found bool) {
	if len(m.keys) == 0 {
		return p, false
	}
	for _, b := range p {
		m.held = append(m.held, b)
		for !bytes.HasPrefix(m.keys, m.held) {
			pass = append(pass, m.held[0])
			m.held = m.held[1:]
		}
		if len(m.held) == len(m.keys) {
			m.held = nil
			return pass, true
		}
	}
	return pass, false
}

// flush returns what is held back when nothing more will be typed.
func (m *keyMatcher) flush() []byte {
	held := m.held
	m.held = nil
	return held
}
