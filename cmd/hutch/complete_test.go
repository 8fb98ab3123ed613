package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNamesAreCompleted(t *testing.T) {
	ownDirs(t)
	for name, record := range map[string]string{"old": `{"name":"old","ended":"2026-01-02T03:04:05Z","end":"stopped"}`, "victim": `{"name":"victim"}`, "broken": `{`} {
		dir := filepath.Join(os.Getenv("XDG_STATE_HOME"), "hutch", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "sandbox.json"), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"rm", ""}, "old\tstopped\nvictim\tholder killed\n:4\n"},
		{[]string{"logs", "v"}, "victim\tholder killed\n:4\n"},
		{[]string{"inspect", "old", ""}, ":4\n"},
		{[]string{"exec", ""}, ":4\n"},          // neither runs
		{[]string{"attach", "old", ""}, ":4\n"}, // it has no sessions any more
		{[]string{"run", "-k", "hos"}, "host\n:0\n"},
		{[]string{"kernel", "resolve", "hos"}, "host\n:0\n"},
		{[]string{"kernel", "inspect", "own", "hos"}, ":4\n"},
		{[]string{"kernel", "prune", "hos"}, ":4\n"}, // the host's is not in the cache
	} {
		if got := hutch(t, "", append([]string{"__complete"}, tc.args...)...); got.stdout != tc.want || got.code != 0 {
			t.Errorf("%q: %+v\nwant %q", tc.args, got, tc.want)
		}
	}
}
