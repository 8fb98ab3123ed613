package main

import "testing"

func TestWrongFlagsSayWhatToGive(t *testing.T) {
	ownDirs(t)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--timeout", "5", "true"}, `--timeout: "5": give a duration with its unit, such as 30s or 5m (hutch run --help lists the flags)`},
		{[]string{"run", "-c", "0x", "true"}, `--cpus: "0x": give a whole number (hutch run --help lists the flags)`},
		{[]string{"run", "-m", "1K", "true"}, `--memory: 1024: too small: a guest needs at least 67108864 bytes (64 MiB)`},
		{[]string{"run", "--nope"}, "unknown flag: --nope (hutch run --help lists the flags)"},
		{[]string{"exec", "x", "--", ""}, "exec: the command is empty; an example: hutch exec worker -- uname -a"},
		{[]string{"exec", "nobody", "--", "true"}, "sandbox: nobody: no such sandbox; make it with `hutch create nobody`"},
		{[]string{"logs", "--tail", "x", "nobody"}, `--tail: "x": give a whole number (hutch logs --help lists the flags)`},
	} {
		if got := hutch(t, "", tc.args...); got != (outcome{"", "hutch: " + tc.want + "\n", exitFailed}) {
			t.Errorf("%q: %+v\nwant %s", tc.args, got, tc.want)
		}
	}
}
