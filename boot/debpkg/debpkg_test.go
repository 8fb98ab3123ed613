package debpkg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if pkg := os.Getenv(fetchEnv); pkg != "" { // the test binary is a program that fetches
		_, err := Fetch(context.Background(), pkg, nil)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const fetchEnv = "HUTCH_TEST_FETCH"

// standIn puts shell scripts in place of the package client. They log their calls to the file calls and read what to do from files
// beside it: sim (Inst lines), fail-update, fail-download, unknown (any content switches it on).
func standIn(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	scripts := map[string]string{
		"apt-get": `verb=; for a; do case $a in update|install|download) verb=$a;; esac; done
echo "apt-get $verb" >>D/calls
case $verb in
update) [ -e D/hang ] && { echo $$ >D/pid.tmp; mv D/pid.tmp D/pid; exec sleep 600; }; [ -e D/fail-update ] && echo "W: Failed to fetch x  Temporary failure"; exit 0;;
install) [ -e D/unknown ] && { echo "E: Unable to locate package p" >&2; exit 100; }; cat D/sim;;
download) [ -e D/fail-download ] && { echo "E: Failed to fetch x  404" >&2; exit 100; }
  [ -e D/full ] && { echo "E: Failed to fetch x  Error writing to file - write (28: No space left on device)" >&2; exit 100; }
  seen=; n=1; for a; do [ -n "$seen" ] && { echo "Get:$n SRC suite/main amd64 ${a%%=*} amd64 1 [2 kB]"; n=$((n+1)); : >"${a%%=*}_1_amd64.deb"; }; [ $a = download ] && seen=1; done; exit 0;;
esac`,
		"apt-cache": `for a; do :; done; echo "apt-cache $a" >>D/calls
[ -e D/unknown ] && exit 100
cat D/show-$a`,
		"dpkg-deb": `echo "dpkg-deb" >>D/calls; mkdir -p "$3/usr/bin" "$3/usr/lib/x86_64-linux-gnu/deep"; : >"$3/usr/lib/x86_64-linux-gnu/deep/liba.so.1"
: >"$3/usr/bin/prog"; ln -sf /usr/bin/prog "$3/usr/bin/alias"; ln -sf /proc/version "$3/usr/bin/outside"`,
	}
	for name, body := range scripts {
		text := "#!/bin/sh\n" + strings.ReplaceAll(body, "D/", dir+"/")
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("HUTCH_CACHE", filepath.Join(dir, "cache"))
	return dir
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// calls returns and clears the log.
func calls(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "calls"))
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func TestClosureUnpacksOnceAndReusesTheTreeWithoutADownload(t *testing.T) {
	dir := standIn(t)
	put(t, dir, "sim", "Inst liba (1 S [amd64])\nInst libc6 [1] (2 S [amd64])\nInst prog (1 S [all])\nConf prog\n")
	var steps []string
	opts := Options{Packages: []string{"prog"}, Progress: func(s string) { steps = append(steps, s) }}
	tree, err := Closure(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"apt-get update", "apt-get install", "apt-get download", "dpkg-deb", "dpkg-deb"}
	if got := calls(t, dir); !slices.Equal(got, want) {
		t.Errorf("calls = %q, want %q", got, want)
	}
	if !slices.Contains(steps, "fetching prog [2 kB] (2 of 2)") {
		t.Errorf("no download step among %q", steps)
	}
	if link, _ := os.Readlink(tree.Path("usr/bin/alias")); link != "prog" {
		t.Errorf("absolute link inside the tree became %q, want prog", link)
	}
	if link, _ := os.Readlink(tree.Path("usr/bin/outside")); link != "/proc/version" {
		t.Errorf("link to the system became %q, want it kept", link)
	}
	lib := tree.Path("usr/lib/x86_64-linux-gnu")
	env := tree.Env([]string{"PATH=/p", "LD_LIBRARY_PATH="})
	wantEnv := []string{"PATH=" + tree.Path("usr/bin") + ":/p", "LD_LIBRARY_PATH=" + lib + ":" + lib + "/deep:" + tree.Path("usr/lib")}
	if !slices.Equal(env, wantEnv) {
		t.Errorf("Env = %q, want %q", env, wantEnv)
	}

	again, err := Closure(t.Context(), opts)
	if err != nil || again.Root != tree.Root {
		t.Fatalf("second Closure = %v, %v; want the same tree", again, err)
	}
	if got := calls(t, dir); !slices.Equal(got, []string{"apt-get install"}) {
		t.Errorf("second Closure called %q, want the simulator only", got)
	}

	put(t, dir, "sim", "Inst prog (2 S [all])\n")
	other, err := Closure(t.Context(), opts)
	if err != nil || other.Root == tree.Root {
		t.Fatalf("Closure after an upgrade = %v, %v; want another tree", other, err)
	}
}

func TestStaleListsAreRefreshedBeforeADownloadOnly(t *testing.T) {
	dir := standIn(t)
	put(t, dir, "sim", "Inst prog (1 S [all])\n")
	if _, err := Closure(t.Context(), Options{Packages: []string{"prog"}}); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-listsMaxAge - time.Minute)
	if err := os.Chtimes(filepath.Join(dir, "cache/deb/apt/updated"), old, old); err != nil {
		t.Fatal(err)
	}
	calls(t, dir)
	if _, err := Closure(t.Context(), Options{Packages: []string{"prog"}}); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, dir); slices.Contains(got, "apt-get update") {
		t.Errorf("lists were refreshed for a tree that exists: %q", got)
	}
	put(t, dir, "sim", "Inst prog (2 S [all])\n")
	if _, err := Closure(t.Context(), Options{Packages: []string{"prog"}}); err != nil {
		t.Fatal(err)
	}
	if got := calls(t, dir); !slices.Contains(got, "apt-get update") {
		t.Errorf("stale lists were not refreshed before a download: %q", got)
	}
}

func TestFetchFollowsAPointerPackageAndKeepsTheResult(t *testing.T) {
	dir := standIn(t)
	put(t, dir, "show-linux-image-x", "Package: linux-image-x\nVersion: 6-1\nInstalled-Size: 13\nArchitecture: amd64\nDepends: linux-image-6-x (= 6-1)\n")
	put(t, dir, "show-linux-image-6-x", "Package: linux-image-6-x\nVersion: 1:6-1\nInstalled-Size: 100000\nArchitecture: amd64\nDepends: kmod\n")
	path, err := Fetch(t.Context(), "linux-image-x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := filepath.Base(path), "linux-image-6-x_1%3a6-1_amd64.deb"; got != want {
		t.Errorf("Fetch = %s, want %s", got, want)
	}
	calls(t, dir)
	again, err := Fetch(t.Context(), "linux-image-x", nil)
	if err != nil || again != path {
		t.Fatalf("second Fetch = %s, %v", again, err)
	}
	if got := calls(t, dir); slices.Contains(got, "apt-get download") {
		t.Errorf("second Fetch downloaded again: %q", got)
	}
}

func TestPackageThatDoesNotFitIsRefusedBeforeTheDownload(t *testing.T) {
	dir := standIn(t)
	put(t, dir, "show-linux-image-x", "Package: linux-image-x\nVersion: 6-1\nSize: 281474976710655\nInstalled-Size: 100000\nArchitecture: amd64\n")
	_, err := Fetch(t.Context(), "linux-image-x", nil)
	var e *Error
	if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &e) || e.Name != "linux-image-x" || !strings.Contains(err.Error(), "281474977 MB are needed") {
		t.Errorf("Fetch = %v", err)
	}
	if got := calls(t, dir); slices.Contains(got, "apt-get download") {
		t.Errorf("it downloaded: %q", got)
	}
}

func TestForgetDeletesThatVersionOnly(t *testing.T) {
	dir := standIn(t)
	var paths []string
	for _, version := range []string{"1:6-1", "1:6-10"} {
		put(t, dir, "show-linux-image-x", "Package: linux-image-x\nVersion: "+version+"\nInstalled-Size: 100000\nArchitecture: amd64\n")
		path, err := Fetch(t.Context(), "linux-image-x", nil)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	for _, name := range []string{"linux-image-y", "../../x", "", "linux-image"} {
		if err := Forget(t.Context(), name, "1:6-1"); err != nil || !isFile(paths[0]) || !isFile(paths[1]) {
			t.Fatalf("Forget(%q) = %v; the packages are there: %v, %v", name, err, isFile(paths[0]), isFile(paths[1]))
		}
	}
	for range 2 {
		if err := Forget(t.Context(), "linux-image-x", "1:6-1"); err != nil || isFile(paths[0]) || !isFile(paths[1]) {
			t.Fatalf("Forget = %v; the packages are there: %v, %v", err, isFile(paths[0]), isFile(paths[1]))
		}
	}
}

func TestKilledFetchTakesTheClientWithIt(t *testing.T) {
	dir := standIn(t)
	put(t, dir, "hang", "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fetch := exec.Command(self)
	fetch.Env = append(os.Environ(), fetchEnv+"=linux-image-x")
	if err := fetch.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	await := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never: %s", what)
			}
		}
	}
	await("the client runs", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "pid"))
		n, _ := fmt.Sscan(string(text), &pid)
		return err == nil && n == 1
	})
	if err := fetch.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = fetch.Wait() // it was killed
	await("the client is gone", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	os.Remove(filepath.Join(dir, "hang"))
	put(t, dir, "show-linux-image-x", "Package: linux-image-x\nVersion: 6-1\nInstalled-Size: 100000\nArchitecture: amd64\n")
	if _, err := Fetch(t.Context(), "linux-image-x", nil); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func TestFailuresAreTypedAndLeaveNothingBehind(t *testing.T) {
	closure := func(ctx context.Context) error {
		_, err := Closure(ctx, Options{Packages: []string{"prog"}})
		return err
	}
	for _, tc := range []struct {
		name, file string
		want       error
	}{
		{"unknown package", "unknown", ErrUnknownPackage},
		{"download fails", "fail-download", ErrNoNetwork},
		{"disk full", "full", syscall.ENOSPC},
		{"lists cannot be refreshed", "fail-update", ErrNoNetwork},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := standIn(t)
			put(t, dir, "sim", "Inst prog (1 S [all])\n")
			put(t, dir, tc.file, "")
			if tc.file == "fail-update" {
				put(t, dir, "unknown", "")
			}
			err := closure(t.Context())
			var e *Error
			if !errors.Is(err, tc.want) || !errors.As(err, &e) || e.Name == "" {
				t.Errorf("Closure = %v, want %v with the package's name", err, tc.want)
			}
			left, err := filepath.Glob(filepath.Join(dir, "cache/deb/trees/*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left in the cache: %q (%v)", left, err)
			}
		})
	}
	t.Run("no client", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		t.Setenv("HUTCH_CACHE", t.TempDir())
		if err := closure(t.Context()); !errors.Is(err, ErrNoPackageClient) {
			t.Errorf("Closure = %v, want ErrNoPackageClient", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		dir := standIn(t)
		put(t, dir, "hang", "")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := closure(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Closure = %v, want DeadlineExceeded", err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("cancelled Closure took %v", took)
		}
	})
	t.Run("bad name", func(t *testing.T) {
		for _, name := range []string{"", "-o", "Dir::State=x", "a b", "../x"} {
			if _, err := Fetch(t.Context(), name, nil); err == nil {
				t.Errorf("Fetch(%q) = nil error", name)
			}
			if _, err := Closure(t.Context(), Options{Packages: []string{name}}); err == nil {
				t.Errorf("Closure(%q) = nil error", name)
			}
		}
	})
}

func TestParseSimulation(t *testing.T) {
	out := "NOTE: a\nInst a (1:2-3 Debian:12/x, Debian-Security:12/y [amd64])\nInst b [0.9] (1.0 D [all]) []\nInst broken\nInst c [1] nothing\nConf a (1:2-3 D [amd64])\n"
	want := []planned{{"a", "1:2-3", "amd64", false}, {"b", "1.0", "all", true}}
	if got := parseSimulation(out); !slices.Equal(got, want) {
		t.Errorf("parseSimulation = %+v, want %+v", got, want)
	}
}

func TestParseControlReadsTheFirstStanza(t *testing.T) {
	out := "Package: a\nVersion: 1\nArchitecture: all\nInstalled-Size: 10\nDepends: b (= 1) | c, d:any (>= 2),e\nDescription: x\n Depends: not this\n\nPackage: z\nVersion: 9\n"
	got, ok := parseControl(out)
	if !ok || got.Name != "a" || got.Version != "1" || got.SizeKiB != 10 || !slices.Equal(got.Depends, []string{"b", "d", "e"}) {
		t.Errorf("parseControl = %+v, %v", got, ok)
	}
	if _, ok := parseControl("N: no packages found\n"); ok {
		t.Error("parseControl found a package in an empty answer")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("Inst a [1] (2 x [amd64])\n", "Package: a\nVersion: 1\nDepends: b\n")
	f.Fuzz(func(t *testing.T, sim, ctl string) {
		for _, p := range parseSimulation(sim) {
			if p.Name == "" || p.Version == "" {
				t.Fatalf("empty fields in %+v", p)
			}
		}
		if c, ok := parseControl(ctl); ok && c.Name == "" {
			t.Fatalf("nameless package from %q", ctl)
		}
	})
}

func TestRealClient(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: fetches a package")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("no apt-get: run on Debian or a relative")
	}
	t.Setenv("HUTCH_CACHE", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	tree, err := Unpack(ctx, "seabios", nil)
	if errors.Is(err, ErrNoNetwork) {
		t.Skipf("no package source: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tree.Path("usr/share/seabios/bios-256k.bin")); err != nil {
		t.Errorf("the unpacked package lacks its file: %v", err)
	}
	if _, err := Fetch(ctx, "no-such-package-at-all", nil); !errors.Is(err, ErrUnknownPackage) {
		t.Errorf("Fetch of a missing package = %v, want ErrUnknownPackage", err)
	}
}
