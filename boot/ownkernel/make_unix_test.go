//go:build unix

package ownkernel

import (
	"strings"
	"testing"
)

func TestErrorIsKeptAmongTheStepsOfOtherJobs(t *testing.T) {
	out := "  CC      a.o\na.c:1: error: what is this\n" + strings.Repeat("  CC      other.o\n", 500) + "make: *** [a.o] Error 1"
	c := &compiler{progress: func(string) {}}
	got := c.follow(strings.NewReader(out), opCompile)
	if want := "a.c:1: error: what is this\nmake: *** [a.o] Error 1"; got != want {
		t.Errorf("follow kept %q, want %q", got, want)
	}
}

func TestKeptOutputIsBounded(t *testing.T) {
	c := &compiler{progress: func(string) {}}
	got := c.follow(strings.NewReader(strings.Repeat("warning\n", 10000)+"last\n"), opCompile)
	if n := strings.Count(got, "\n"); n > keepLines || !strings.HasSuffix(got, "last\n") {
		t.Errorf("follow kept %d lines ending with %q, want at most %d with the last", n, got[max(0, len(got)-20):], keepLines)
	}
}
