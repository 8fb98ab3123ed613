package main

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestArgumentsAfterTheCommandAreTheCommands(t *testing.T) {
	for _, tc := range []struct {
		env  string
		args []string
		want config
	}{
		{"", []string{"ls", "-l"}, config{idle: defaultIdle, command: []string{"ls", "-l"}}},
		{"", []string{"--", "-x", "--", "y"}, config{idle: defaultIdle, command: []string{"-x", "--", "y"}}},
		{"", []string{"/tmp/go-build1/b001/x.test", "-test.v", "-test.timeout=10m0s"},
			config{idle: defaultIdle, command: []string{"/tmp/go-build1/b001/x.test", "-test.v", "-test.timeout=10m0s"}}},
		{"", []string{"-timeout", "90s", "-mem", "8G", "-cpus=1", "-idle=1m", "-force", "-v", "true"},
			config{timeout: 90 * time.Second, idle: time.Minute, memMiB: 8192, cpus: 1, force: true, verbose: true, command: []string{"true"}}},
		{"-timeout 1m -v", []string{"-timeout=2m", "true"}, config{timeout: 2 * time.Minute, idle: defaultIdle, verbose: true, command: []string{"true"}}},
		{"", []string{"-status"}, config{mode: modeStatus, idle: defaultIdle}},
		{"", []string{"-stop"}, config{mode: modeStop, idle: defaultIdle}},
		{"", []string{"--help"}, config{mode: modeHelp, idle: defaultIdle}},
	} {
		got, err := parseArgs(tc.env, tc.args)
		if err != nil {
			t.Errorf("parseArgs(%q, %q): %v", tc.env, tc.args, err)
			continue
		}
		same := slices.Equal(got.command, tc.want.command)
		got.command, tc.want.command = nil, nil
		if !same || got.mode != tc.want.mode || got.timeout != tc.want.timeout || got.idle != tc.want.idle || got.memMiB != tc.want.memMiB ||
			got.cpus != tc.want.cpus || got.force != tc.want.force || got.verbose != tc.want.verbose {
			t.Errorf("parseArgs(%q, %q) = %+v, want %+v (commands equal: %v)", tc.env, tc.args, got, tc.want, same)
		}
	}
}

func TestBadArgumentsAreUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--"}, {"-nosuch", "ls"}, {"-timeout", "-1s", "ls"}, {"-timeout", "soon", "ls"}, {"-idle", "0s", "ls"}, {"-mem", "lots", "ls"},
		{"-mem", "0", "ls"}, {"-mem", "16M", "ls"}, {"-mem", "99999999999G", "ls"}, {"-cpus", "99", "ls"}, {"-status", "-stop"}, {"-stop", "ls"},
	} {
		if _, err := parseArgs("", args); !errors.Is(err, errUsage) {
			t.Errorf("parseArgs(%q) = %v, want a usage error", args, err)
		}
	}
	if _, err := parseArgs("-mem x", []string{"ls"}); !errors.Is(err, errUsage) {
		t.Errorf("bad %s = %v, want a usage error", argsEnv, err)
	}
}

func TestParseMem(t *testing.T) {
	for s, want := range map[string]int{"6144": 6144, "512M": 512, "512m": 512, "2G": 2048, "2g": 2048} {
		if got, err := parseMem(s); err != nil || got != want {
			t.Errorf("parseMem(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
}
