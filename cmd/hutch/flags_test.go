package main

import (
	"bytes"
	"testing"
)

// A guest must not fill the host's disk by its console.
func TestConsoleFileIsBounded(t *testing.T) {
	var b bytes.Buffer
	c := &cappedWriter{w: &b, left: 10}
	for _, s := range []string{"12345", "67890abc", "more"} {
		if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("Write(%q) = %d, %v", s, n, err)
		}
	}
	if got := b.String(); got != "1234567890\nhutch: the console goes on; the rest is not kept\n" {
		t.Errorf("the file has %q", got)
	}
}
