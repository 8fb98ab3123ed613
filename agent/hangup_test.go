//go:build linux

package agent_test

import (
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/agent"
)

// The kernel's race is too rare to be waited for: this is what the copies of a
// terminal do about it.
func TestTerminalIsReadOnceMoreAfterAHangup(t *testing.T) {
	for name, steps := range map[string][]struct {
		err   error // of a read
		again bool
	}{
		"end":                          {{nil, false}, {unix.EIO, true}, {unix.EIO, false}},
		"last line after the first":    {{unix.EIO, true}, {nil, false}, {unix.EIO, true}, {unix.EIO, false}},
		"lines between several":        {{unix.EIO, true}, {nil, false}, {unix.EIO, true}, {nil, false}, {unix.EIO, true}, {unix.EIO, false}},
		"another error is the end":     {{io.EOF, false}},
		"another error after a hangup": {{unix.EIO, true}, {unix.EBADF, false}},
	} {
		var h agent.Hangup
		for i, s := range steps {
			if got := h.Again(s.err); got != s.again {
				t.Errorf("%s: step %d, %v: again = %v", name, i, s.err, got)
			}
		}
	}
}
