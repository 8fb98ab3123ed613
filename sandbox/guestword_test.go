//go:build linux && amd64

package sandbox

import (
	"strings"
	"testing"
)

func TestAGuestsWordIsAPartOfOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"6.1.0-30-cloud-amd64":             "6.1.0-30-cloud-amd64",
		"6.1\nhutch: all is well\t\x1b[2J": "6.1.hutch: all is well..[2J",
		"6.1\u202e\u009b":                  "6.1..",
		strings.Repeat("x", 64<<10):        strings.Repeat("x", maxGuestWord),
	} {
		if got := guestWord(in); got != want {
			t.Errorf("%.40q is shown as %q, want %q", in, got, want)
		}
	}
}
