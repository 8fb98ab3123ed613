package initramfs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// standIn writes a module with hutch's name whose agent prints text, and returns its folder.
func standIn(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{
		"go.mod":             "module github.com/hutchvm/hutch\n\ngo 1.26.0\n",
		"cmd/agent/main.go":  "package main\n\nimport (\n\t\"os\"\n\n\t\"github.com/hutchvm/hutch/say\"\n)\n\nfunc main() { os.Stdout.WriteString(say.Text) }\n",
		"say/say.go":         "package say\n\nconst Text = \"" + text + "\\n\"\n",
		"say/say_test.go":    "package say\n",
		"unrelated/other.go": "package unrelated\n",
	} {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// needGo skips, or fails where everything is required, when there is no toolchain.
func needGo(t *testing.T) {
	t.Helper()
	if _, err := findGo(""); err != nil {
		if os.Getenv("HUTCH_REQUIRE_KVM") == "1" {
			t.Fatal(err)
		}
		t.Skipf("%v", err)
	}
}

// base builds with a recipe cache shared by the tests of one process run unless own is set.
func base(t *testing.T, opts Options) (*Image, []string) {
	t.Helper()
	var lines []string
	opts.Progress = func(line string) { lines = append(lines, line) }
	img, err := Base(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return img, lines
}

func TestBaseFromScratchTwiceGivesTheSameBytes(t *testing.T) {
	needGo(t)
	module := standIn(t, "agent")
	var images [2]*Image
	for i := range images {
		t.Setenv(cachedir.Env, t.TempDir())
		img, lines := base(t, Options{ModuleDir: module})
		if len(lines) != 2 {
			t.Errorf("progress of a first build = %q, want a line for the userland and one for the agent", lines)
		}
		sum, err := hashFile(img.Path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(img.Path)
		if err != nil {
			t.Fatal(err)
		}
		if sum != img.SHA256 || info.Size() != img.Size || img.Size%4 != 0 {
			t.Errorf("image = %+v, file has %s and %d bytes", img, sum, info.Size())
		}
		images[i] = img
	}
	if images[0].SHA256 != images[1].SHA256 {
		t.Errorf("two builds differ: %s and %s", images[0].SHA256, images[1].SHA256)
	}
	checkImage(t, images[1])
	checkCommands(t, images[1])
	checkCaching(t, module, images[1])
}

// checkImage looks at what is in the archive.
func checkImage(t *testing.T, img *Image) {
	a, err := Open(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if !a.HasInit() {
		t.Error("HasInit = false")
	}
	if n := len(Commands()); n < 40 {
		t.Errorf("%d commands, want at least 40", n)
	}
	for _, name := range Commands() {
		if e, err := a.Lookup("/bin/" + name); err != nil || e.Target != "bb" {
			t.Errorf("/bin/%s = %+v, %v; want a link to bb", name, e, err)
		}
	}
	for name, want := range map[string]string{"tmp": "dtrwxrwxrwx", "root": "drwx------", "dev/console": "Dcrw-------", "dev/null": "Dcrw-rw-rw-", "init": "-rwxr-xr-x"} {
		if e, err := a.Lookup(name); err != nil || e.Mode.String() != want {
			t.Errorf("%s has mode %v (%v), want %s", name, e.Mode, err, want)
		}
	}
	if e, err := a.Lookup("home/user"); err != nil || e.UID != 1000 || e.GID != 1000 {
		t.Errorf("home/user = %+v, %v; want owner 1000", e, err)
	}
	passwd, err := a.ReadFile("/etc/passwd", 1<<10)
	if err != nil || !bytes.Contains(passwd, []byte("user:x:1000:1000:")) {
		t.Errorf("/etc/passwd = %q, %v", passwd, err)
	}
}

// checkCaching goes through what may change between calls. The image was built from module into the current cache.
func checkCaching(t *testing.T, module string, first *Image) {
	same, lines := base(t, Options{ModuleDir: module})
	if *same != *first || len(lines) != 0 {
		t.Errorf("second call = %+v with progress %q, want %+v and none", same, lines, first)
	}
	touch := func(name, data string) {
		if err := os.WriteFile(filepath.Join(module, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	touch("unrelated/other.go", "package unrelated\n\nvar X = 1\n")
	touch("say/say_test.go", "package say\n\nvar Y = 1\n")
	if _, lines := base(t, Options{ModuleDir: module}); len(lines) != 0 {
		t.Errorf("changed files that are not the agent's caused %q", lines)
	}
	touch("say/say.go", "package say\n\nconst Text = \"changed\\n\"\n")
	changed, lines := base(t, Options{ModuleDir: module})
	if changed.SHA256 == first.SHA256 || len(lines) != 1 {
		t.Errorf("changed agent gives %s after %q, want another image and one line", changed.SHA256, lines)
	}
	if err := os.Truncate(changed.Path, 1000); err != nil {
		t.Fatal(err)
	}
	if again, _ := base(t, Options{ModuleDir: module}); again.SHA256 != changed.SHA256 || checkSum(t, again.Path) != again.SHA256 {
		t.Errorf("a cut-off image was not replaced: %+v", again)
	}
	// With the image in the cache, no toolchain is needed any more.
	t.Setenv("PATH", t.TempDir())
	t.Setenv("GOROOT", "")
	b := &builder{root: filepath.Join(os.Getenv(cachedir.Env), cacheName), opts: Options{ModuleDir: module}, module: module}
	var err error
	if b.recipe, err = recipeFiles(); err != nil {
		t.Fatal(err)
	}
	if img := b.peek(b.lookup()); img == nil || img.SHA256 != changed.SHA256 {
		t.Errorf("lookup without a toolchain = %+v, want the last image", img)
	}
	if img := b.peek(b.latest()); img == nil || img.SHA256 != changed.SHA256 {
		t.Errorf("latest = %+v, want the last image", img)
	}
}

func checkSum(t *testing.T, p string) string {
	t.Helper()
	sum, err := hashFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// checkCommands runs the combined binary of the image on this machine.
func checkCommands(t *testing.T, img *Image) {
	if runtime.GOOS != "linux" {
		t.Log("the guest's commands run on Linux only")
		return
	}
	dir := unpackBin(t, img)
	t.Run("terminal", func(t *testing.T) { checkTerminal(t, dir) })
	t.Run("typed ahead", func(t *testing.T) { checkTypedAhead(t, dir) })
	t.Run("usage", func(t *testing.T) { checkUsage(t, dir) })
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, in, out string
		args          []string
		code          int
	}{
		{name: "exit code and stdout", args: []string{"sh", "-c", "echo hi; exit 5"}, out: "hi\n", code: 5},
		{name: "positional parameters", args: []string{"sh", "-c", `echo "$0/$1/$2/$#"`, "me", "a b", "c"}, out: "me/a b/c/2\n"},
		{name: "errexit from a combined option", args: []string{"sh", "-ec", "false; echo unreached"}, code: 1},
		{name: "option by name", args: []string{"sh", "-o", "nounset", "-c", "echo $nope"}, code: 1},
		{name: "not found", args: []string{"sh", "-c", "/no/such/command"}, code: 127},
		{name: "not executable", args: []string{"sh", "-c", plain}, code: 126},
		{name: "killed by a signal", args: []string{"sh", "-c", "sh -c 'kill -9 $$'"}, code: 137},
		{name: "syntax error", args: []string{"sh", "-c", "if"}, code: 2},
		{name: "empty command", args: []string{"sh", "-c", ""}},
		{name: "exit trap", args: []string{"sh", "-c", "trap 'echo bye' EXIT; exit 3"}, out: "bye\n", code: 3},
		{name: "script on stdin leaves the rest to its commands", args: []string{"sh"}, in: "read x; echo \"got $x\"\none\necho two\n", out: "got one\ntwo\n"},
		{name: "last status of stdin", args: []string{"sh", "-s", "p"}, in: "echo $1\nfalse\n", out: "p\n", code: 1},
		{name: "umask", args: []string{"sh", "-c", "umask 077; umask"}, out: "0077\n"},
		{name: "limits of its children", args: []string{"sh", "-c", "ulimit -Sn 77; ulimit -n; sh -c 'ulimit -n'"}, out: "77\n77\n"},
		{name: "pipeline", args: []string{"sh", "-c", "printf 'b\\na\\n' | sort | head -n 1"}, out: "a\n"},
		{name: "env sets", args: []string{"env", "-i", "A=1", "B=2", "/bin/sh", "-c", "echo $A$B"}, out: "12\n"},
		{name: "env prints", args: []string{"env", "-i", "A=1"}, out: "A=1\n"},
		{name: "env not found", args: []string{"env", "nosuchcommand"}, code: 127},
		{name: "cut fields", args: []string{"cut", "-d:", "-f1,3-"}, in: "a:b:c:d\nplain\n", out: "a:c:d\nplain\n"},
		{name: "cut bytes", args: []string{"cut", "-c", "2-3"}, in: "abcd\n", out: "bc\n"},
		{name: "sha256sum", args: []string{"sha256sum"}, in: "abc", out: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n"},
		{name: "gzip round trip", args: []string{"sh", "-c", "gzip -9 | gzip -d"}, in: "hello", out: "hello"},
		{name: "gzip of garbage", args: []string{"gzip", "-d"}, in: "not gzip", code: 1},
		{name: "seq, tr and wc", args: []string{"sh", "-c", "seq 1 1000 | tr 1 x | wc -l"}, out: "1000\n"},
		{name: "timeout passes the status on", args: []string{"timeout", "100", "sh", "-c", "exit 3"}, code: 3},
		{name: "timeout ends the command", args: []string{"timeout", "0.05s", "sleep", "1000"}, code: 124},
		{name: "timeout by signal and kill", args: []string{"timeout", "-s", "CONT", "-k", "0.05", "0.05", "sleep", "1000"}, code: 137},
		{name: "timeout of nothing", args: []string{"timeout", "1", "nosuchcommand"}, code: 127},
		{name: "timeout of a wrong duration", args: []string{"timeout", "soon", "true"}, code: 125},
		{name: "true", args: []string{"true"}},
		{name: "false", args: []string{"false"}, code: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(filepath.Join(dir, c.args[0]), c.args[1:]...)
			cmd.Env = []string{"PATH=" + dir}
			cmd.Stdin = strings.NewReader(c.in)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if string(out) != c.out || cmd.ProcessState.ExitCode() != c.code {
				t.Errorf("%q printed %q (stderr %q) and exited with %d, want %q and %d", c.args, out, stderr.String(), cmd.ProcessState.ExitCode(), c.out, c.code)
			}
		})
	}
}

// unpackBin writes the image's /bin into a folder.
func unpackBin(t *testing.T, img *Image) string {
	t.Helper()
	a, err := Open(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	bb, err := a.ReadFile("bin/bb", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bb"), bb, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range Commands() {
		if err := os.Symlink("bb", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBaseWithoutToolchainSaysHowToGoOn(t *testing.T) {
	t.Setenv(cachedir.Env, t.TempDir())
	_, err := Base(t.Context(), Options{GoTool: filepath.Join(t.TempDir(), "go"), ModuleDir: standIn(t, "x")})
	if !errors.Is(err, ErrNoToolchain) {
		t.Fatalf("err = %v, want ErrNoToolchain", err)
	}
}

func TestBaseRejectsAModuleFolderWithoutSource(t *testing.T) {
	t.Setenv(cachedir.Env, t.TempDir())
	dir := t.TempDir()
	_, err := Base(t.Context(), Options{ModuleDir: dir})
	if !errors.Is(err, ErrNoSource) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("err = %v, want ErrNoSource naming %s", err, dir)
	}
}

func TestBaseRejectsAnAgentThatCannotStart(t *testing.T) {
	t.Setenv(cachedir.Env, t.TempDir())
	text := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Base(t.Context(), Options{AgentPath: text}); err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("err = %v, want one that names %s", err, text)
	}
	if _, err := Base(t.Context(), Options{AgentPath: text + "-missing"}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("err = %v, want ErrNotExist", err)
	}
}

func TestBaseReportsAnAgentThatDoesNotCompile(t *testing.T) {
	needGo(t)
	cache := t.TempDir()
	t.Setenv(cachedir.Env, cache)
	module := standIn(t, "x")
	if err := os.WriteFile(filepath.Join(module, "say", "say.go"), []byte("package say\n\nvar broken int = \"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &builder{root: cache, module: module}
	var err error
	if b.goTool, err = findGo(""); err != nil {
		t.Fatal(err)
	}
	tool, err := resolve(t.Context(), b.goTool, cache)
	if err != nil {
		t.Fatal(err)
	}
	err = buildAgent(t.Context(), tool, module, filepath.Join(cache, "agent"))
	var failed *BuildError
	if !errors.As(err, &failed) || !strings.Contains(failed.Output, "say.go:3") {
		t.Fatalf("err = %v, want a BuildError with the compiler's message", err)
	}
}

func TestBaseEndsWithItsContext(t *testing.T) {
	needGo(t)
	cache := t.TempDir()
	t.Setenv(cachedir.Env, cache)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Base(ctx, Options{ModuleDir: standIn(t, "x")}); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v, want context.Canceled", err)
	}
	entries, err := os.ReadDir(filepath.Join(cache, cacheName))
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(entries, func(e os.DirEntry) bool { return e.Name() != "lock" }); i >= 0 {
		t.Errorf("cancelled build left %s", entries[i].Name())
	}
}

func TestPruneKeepsRecentImagesAndTheGivenOne(t *testing.T) {
	b := &builder{root: t.TempDir()}
	old := []string{"a", "b", "c", "d", "e", "f", "given"}
	for i, name := range old {
		dir := filepath.Join(b.root, "images", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-keepUnused).AddDate(0, 0, -i)
		if err := os.Chtimes(dir, when, when); err != nil {
			t.Fatal(err)
		}
	}
	b.prune("given")
	entries, err := os.ReadDir(filepath.Join(b.root, "images"))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"a", "b", "c", "d", "given"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
}

// BenchmarkBaseCached is what every start of a sandbox pays.
func BenchmarkBaseCached(b *testing.B) {
	if _, err := findGo(""); err != nil {
		b.Skip(err)
	}
	if _, err := Base(b.Context(), Options{}); err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		if _, err := Base(b.Context(), Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
