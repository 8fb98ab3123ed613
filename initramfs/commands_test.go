package initramfs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// commandCases are scripts for the guest's shell. What they must print was recorded from GNU's tools.
var commandCases = []struct {
	script, out string
	code        int
}{
	{"echo hello | tr a-z A-Z", "HELLO\n", 0},
	{"echo hello | tr -d a-k", "llo\n", 0},
	{"echo 'a  b' | tr -s ' ' '\\n'", "a\nb\n", 0},
	{"echo hello1 | tr -cd '0-9\\n'", "1\n", 0},
	{"echo hello | tr '[:lower:]' '[:upper:]'", "HELLO\n", 0},
	{"echo abcabc | tr abc 'x[y*]z'", "xyzxyz\n", 0},
	{"echo 'a-b' | tr - _", "a_b\n", 0},
	{"printf 'a\\0b' | tr '\\0' '\\n'", "a\nb", 0},
	{"tr z-a x </dev/null", "", 1},
	{"tr -Z a </dev/null", "", 1},
	{"env echo 'a\\tb'", "a\\tb\n", 0},
	{"env echo -ne 'x\\ty\\n'", "x\ty\n", 0},
	{"echo -n a '' b; echo; echo -ne 'x\\ty\\n'; echo 'a\\tb' -e; echo -E '\\n'", "a  b\nx\ty\na\\tb -e\n\\n\n", 0},
	{"env echo -x --", "-x --\n", 0},
	{"seq 5 -1 3", "5\n4\n3\n", 0},
	{"seq 1000000 1000001", "1000000\n1000001\n", 0},
	{"seq 9007199254740993 9007199254740994", "9007199254740993\n9007199254740994\n", 0},
	{"seq -w 8 10", "08\n09\n10\n", 0},
	{"seq 0.5 1 2", "0.5\n1.5\n", 0},
	{"seq 0 0.1 0.3", "0.0\n0.1\n0.2\n0.3\n", 0},
	{"seq -s, -1 1", "-1,0,1\n", 0},
	{"seq 3 1", "", 0},
	{"seq --nope 3", "", 1},
	{"wc t n", " 4  4 26 t\n 5  5 12 n\n 9  9 38 total\n", 0},
	{"wc < t", " 4  4 26\n", 0},
	{"cat t | wc", "      4       4      26\n", 0},
	{"wc -lw t", " 4  4 t\n", 0},
	{"cat t | wc -l", "4\n", 0},
	{"wc -l nosuch", "", 1},
	{"echo hi | cat - n", "hi\n10\n9\n2\n33\n2\n", 0},
	{"cat nosuch t", "banana\napple\ncherry\napple\n", 1},
	{"printf 'a\\n\\n\\n\\tb' | cat -nsT", "     1\ta\n     2\t\n     3\t^Ib", 0},
	{"printf 'a\\n\\n\\001' | cat -A", "a$\n$\n^A", 0},
	{"head -2 t", "banana\napple\n", 0},
	{"head -n -3 t", "banana\n", 0},
	{"head -c 3 t", "ban", 0},
	{"head -c -23 t", "ban", 0},
	{"head -n1 t nosuch n", "==> t <==\nbanana\n\n==> n <==\n10\n", 1},
	{"head --nope t", "", 1},
	{"tail -n +3 t", "cherry\napple\n", 0},
	{"tail -1 t", "apple\n", 0},
	{"tail -c 3 t", "le\n", 0},
	{"tail -c +24 t", "le\n", 0},
	{"seq 100000 | tail -n 1", "100000\n", 0},
	{"seq 400000 | tail -n 300000 | head -n 1", "100001\n", 0},
	{"tail -n x t", "", 1},
	{"sh -c 'kill -TERM $$'; echo $?; sh -c 'kill -s sigint $$'; echo $?; sh -c 'kill -9 $$'; echo $?", "143\n130\n137\n", 0},
	{"kill -0 $$ && kill -l 143; kill -l | cut -d' ' -f 1,15", "TERM\nHUP TERM\n", 0},
	{"kill -NOPE 1", "", 2},
	{"kill", "", 2},
	{"kill x", "", 2},
	{"x=$(tty </dev/null); echo $? $x", "1 not a tty\n", 0},
	{"clear", "\x1b[H\x1b[2J\x1b[3J", 0},
}

// checkUsage runs commandCases in a folder with the files t and n.
func checkUsage(t *testing.T, bin string) {
	dir := t.TempDir()
	for name, text := range map[string]string{"t": "banana\napple\ncherry\napple\n", "n": "10\n9\n2\n33\n2\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range commandCases {
		t.Run(strings.ReplaceAll(c.script, "/", "|"), func(t *testing.T) {
			cmd := exec.Command(filepath.Join(bin, "sh"), "-c", c.script)
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + bin}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); string(out) != c.out || code != c.code {
				t.Errorf("printed %q (stderr %q) and exited with %d, want %q and %d", out, stderr.String(), code, c.out, c.code)
			}
			if c.code != 0 && stderr.Len() == 0 {
				t.Error("failed without a message")
			}
		})
	}
}
