package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/hutchvm/hutch/sandbox"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

// What a guest says is shown by --json on a terminal, too.
func TestJSONHasNoCharacterThatSteersATerminal(t *testing.T) {
	const text = "a\x1b[2J\x7f\u009b2J\u202etxt\u2028\U000e0001 größer 走"
	for _, v := range []any{
		[]sandbox.SessionInfo{{ID: text, Args: []string{text}}},
		&execlog.Entry{Source: execlog.Stdout, Session: text, Data: []byte(text), Seq: 1},
	} {
		var b bytes.Buffer
		if err := writeJSON(&b, v, "  "); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(b.String(), func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }) || !strings.Contains(b.String(), "größer 走") {
			t.Errorf("it prints %q", b.String())
		}
		var list []sandbox.SessionInfo
		var e execlog.Entry
		if json.Unmarshal(b.Bytes(), &list) == nil {
			if list[0].ID != text || list[0].Args[0] != text {
				t.Errorf("it means %+v", list[0])
			}
		} else if err := json.Unmarshal(b.Bytes(), &e); err != nil || e.Session != text || string(e.Data) != text {
			t.Errorf("it means %+v, %v", e, err)
		}
	}
}
