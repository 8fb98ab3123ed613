package sandbox

import (
	"bytes"
	"errors"
	"testing"
)

func TestDetachKeysFollowTheGrammar(t *testing.T) {
	for in, want := range map[string]string{
		"ctrl-]": "\x1d", "ctrl-p,ctrl-q": "\x10\x11", "ctrl-P": "\x10", "ctrl-@": "\x00", "ctrl-[": "\x1b", `ctrl-\`: "\x1c", "ctrl-^": "\x1e",
		"ctrl-_": "\x1f", "a,b,~": "ab~", "": "", "ctrl-a,x": "\x01x", "-": "-",
	} {
		if got, err := parseDetachKeys(in); err != nil || string(got) != want {
			t.Errorf("%q = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{",", "a,", "ctrl-", "ctrl-ab", "ctrl-1", "Ctrl-a", "ab", "é", "ctrl-é", "ctrl-,", "ctrl-~"} {
		var ce *ConfigError
		if got, err := parseDetachKeys(in); !errors.As(err, &ce) {
			t.Errorf("%q = %q, %v; want a ConfigError", in, got, err)
		}
	}
}

func TestDetachKeysAreHeldBackAndReleasedWhenTheMatchFails(t *testing.T) {
	for _, tc := range []struct {
		keys  string
		reads []string
		pass  []string
		found bool
		left  string
	}{
		{"\x1d", []string{"abc\x1ddef"}, []string{"abc"}, true, ""},
		{"\x10\x11", []string{"x\x10", "y"}, []string{"x", "\x10y"}, false, ""},
		{"\x10\x11", []string{"x\x10", "\x11y"}, []string{"x", ""}, true, ""},
		{"\x10\x11", []string{"\x10\x10\x11"}, []string{"\x10"}, true, ""},
		{"aab", []string{"aaab"}, []string{"a"}, true, ""},
		{"aab", []string{"a", "a", "a", "c"}, []string{"", "", "a", "aac"}, false, ""},
		{"ab", []string{"a"}, []string{""}, false, "a"},
		{"", []string{"\x1d"}, []string{"\x1d"}, false, ""},
	} {
		m := &keyMatcher{keys: []byte(tc.keys)}
		found := false
		for i, r := range tc.reads {
			var pass []byte
			if pass, found = m.feed([]byte(r)); string(pass) != tc.pass[i] {
				t.Errorf("keys %q, reads %q: read %d passes %q, want %q", tc.keys, tc.reads, i, pass, tc.pass[i])
			}
		}
		if left := m.flush(); found != tc.found || string(left) != tc.left {
			t.Errorf("keys %q, reads %q: found %v, left %q", tc.keys, tc.reads, found, left)
		}
	}
}

// FuzzDetachKeys: nothing typed is lost or reordered, however the reads are cut.
func FuzzDetachKeys(f *testing.F) {
	f.Add([]byte("aab"), []byte("aaaabx"), uint8(2))
	f.Fuzz(func(t *testing.T, keys, typed []byte, cut uint8) {
		m := &keyMatcher{keys: keys}
		var pass []byte
		at := bytes.Index(typed, keys)
		for rest := typed; len(rest) > 0; {
			n := min(int(cut)+1, len(rest))
			p, found := m.feed(rest[:n])
			pass = append(pass, p...)
			rest = rest[n:]
			if found {
				if len(keys) == 0 || at < 0 || !bytes.Equal(pass, typed[:at]) {
					t.Fatalf("keys %q found in %q after %q", keys, typed, pass)
				}
				return
			}
		}
		if pass = append(pass, m.flush()...); len(keys) > 0 && at >= 0 || !bytes.Equal(pass, typed) {
			t.Fatalf("keys %q: %q became %q", keys, typed, pass)
		}
	})
}
