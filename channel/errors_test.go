package channel

import (
	"strings"
	"testing"
	"unicode"
)

// Whatever a hostile agent says, an error about it is some lines of text.
func TestErrorsNeitherPrintNorFloodWhatTheAgentSends(t *testing.T) {
	key := strings.Repeat("\x1b[2J", 8000)
	text := append([]byte{0x79, byte(len(key) >> 8), byte(len(key))}, key...) // a text string of CBOR
	twice := append([]byte{0xa2}, text...)                                    // a map with this key twice
	twice = append(append(append(twice, 1), text...), 1)
	var m agentMsg
	for name, err := range map[string]error{
		"a key twice":        &ProtocolError{Op: "exec", Msg: "control stream", Err: decodeFrame(twice, decMode, &m)},
		"a path":             (&failedMsg{Stage: StageLookup, Errno: int(ENOENT), Path: key}).err(&Request{}),
		"a stage":            (&failedMsg{Stage: key, Msg: key}).err(&Request{}),
		"direction marks":    (&failedMsg{Stage: StageExec, Msg: "a\u202etxt.\u2066b"}).err(&Request{}),
		"a line separator":   (&failedMsg{Stage: StageExec, Msg: "a\u2028b"}).err(&Request{}),
		"control characters": (&failedMsg{Stage: StageExec, Msg: "a\u009b2Jb\x7f"}).err(&Request{}),
		"no UTF-8":           (&failedMsg{Stage: StageExec, Msg: "a\xffb"}).err(&Request{}),
		"a build":            &VersionError{Agent: 2, Host: 1, Build: key},
	} {
		s := err.Error()
		if len(s) > 16<<10 {
			t.Errorf("%s: %d bytes", name, len(s))
		}
		if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%s: %.300q", name, s)
		}
	}
	if got := printable("größer 走"); got != "größer 走" {
		t.Errorf("text is changed: %q", got)
	}
}
