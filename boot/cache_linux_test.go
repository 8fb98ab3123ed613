package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// childEnv makes the test binary one of childPrograms, for what concerns a whole process.
const childEnv = "HUTCH_TEST_CHILD"

// childPrograms get the package file as their argument.
var childPrograms = map[string]func(deb string) error{
	// importAndDie is killed half-way through: with the lock held and something half written.
	"importAndDie": func(deb string) error {
		_, err := importKernel(context.Background(), deb, "", func(string) {
			root, _ := cachedir.Dir(cacheRoot)
			for _, dir := range []string{debDir, imageDir} {
				half := filepath.Join(root, dir, tempPrefix+"half")
				_ = os.MkdirAll(filepath.Join(half, "boot"), 0o755)
				_ = writePackageTag(half, CachedKernel{Name: "half"})
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		})
		return err
	},
	"importOnASmallDisk": func(deb string) error {
		cache := os.Getenv(cachedir.Env)
		if err := unix.Mount("tmpfs", cache, "tmpfs", 0, os.Getenv("HUTCH_TEST_MOUNT")); err != nil {
			return err
		}
		_, err := importKernel(context.Background(), deb, "some-alias", nil)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
			return fmt.Errorf("import: %v, want ENOSPC", err)
		}
		if list, err := Cached(); err != nil || len(list) != 0 {
			return fmt.Errorf("the cache holds %v, %v", list, err)
		}
		return filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" && filepath.Base(filepath.Dir(path)) != hashDir {
				err = fmt.Errorf("left: %s", path)
			}
			return err
		})
	},
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := childPrograms[name](os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	verifyGoroutines(m)
}

func childProgram(t *testing.T, name, deb string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, deb)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	return cmd
}

func TestKilledImportLeavesNothingForTheNext(t *testing.T) {
	cache := testCache(t)
	deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, "linux-image-test", "", "gzip", kernelTar(t)))
	cmd := childProgram(t, "importAndDie", deb)
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("%v, %s", err, out)
	}
	if list, err := Cached(); err != nil || len(list) != 0 {
		t.Errorf("the killed import left %v, %v", list, err)
	}
	if l := leftovers(t, cache); len(l) != 2 {
		t.Errorf("left behind: %v", l)
	}
	k, err := Import(context.Background(), deb)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	if l := leftovers(t, cache); len(l) != 0 {
		t.Errorf("left behind: %v", l)
	}
}

func TestFullDiskLeavesNothingHalfDone(t *testing.T) {
	big := make([]byte, 3<<20)
	elf := testELF(testSegment{paddr: 0x100_0000, data: big})
	tree := "./lib/modules/" + testRelease + "/"
	files := testTar(tarFile{name: "./boot/vmlinuz-" + testRelease, data: bzImageOf(t, "gzip", elf)}, tarFile{name: tree + "modules.order", data: big})
	deb := writeFile(t, filepath.Join(t.TempDir(), "x.deb"), testDeb(t, "linux-image-test", "", "gzip", files))
	for what, size := range map[string]string{"no room for the package": "size=2m", "no room for the image": "size=5m", "no room for a folder": "nr_inodes=4"} {
		t.Run(what, func(t *testing.T) {
			testCache(t)
			cmd := childProgram(t, "importOnASmallDisk", deb)
			cmd.Env = append(cmd.Env, "HUTCH_TEST_MOUNT="+size)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
			out, err := cmd.CombinedOutput()
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
				t.Skipf("this kernel lets nobody make a user namespace, which mounts a small disk here: %v", err)
			}
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestAliasIsWhatItLedToLast(t *testing.T) {
	cache := testCache(t)
	var debs []string
	for _, name := range []string{"linux-image-1", "linux-image-2"} {
		debs = append(debs, writeFile(t, filepath.Join(t.TempDir(), name+".deb"), testDeb(t, name, "", "gzip", kernelTar(t))))
	}
	for _, tc := range []struct{ deb, want string }{{debs[0], "linux-image-1"}, {debs[1], "linux-image-2"}, {debs[0], "linux-image-1"}} {
		k, err := importKernel(context.Background(), tc.deb, "linux-image-meta", nil)
		if err != nil {
			t.Fatal(err)
		}
		k.Close()
		list, err := Cached()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if got := c.called("linux-image-meta"); got != (c.Name == tc.want) {
				t.Errorf("%s has the alias: %v; it was fetched as %s last", c.Name, got, tc.want)
			}
			if n := c.DiskSize(); n < 12_000 || n > 20_000 {
				t.Errorf("%s takes %d bytes", c.Name, n)
			}
		}
	}
	kept := func(name string) string { return filepath.Join(cache, "deb", "pool", name+"_6.99-1_amd64.deb") } // where Fetch keeps it
	for _, name := range []string{"linux-image-1", "linux-image-2"} {
		writeFile(t, kept(name), []byte("package"))
	}
	if err := Remove(context.Background(), "linux-image-meta"); err != nil {
		t.Fatal(err)
	}
	if exists(kept("linux-image-1")) || !exists(kept("linux-image-2")) {
		t.Errorf("the packages' files are there: %v, %v", exists(kept("linux-image-1")), exists(kept("linux-image-2")))
	}
	if list, err := Cached(); err != nil || len(list) != 1 || list[0].Name != "linux-image-2" {
		t.Errorf("after Remove: %v, %v", list, err)
	}
	if err := Remove(context.Background(), "linux-image-meta"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a second Remove = %v, want ErrNotExist", err)
	}
}
