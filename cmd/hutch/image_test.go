package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/initramfs"
)

func TestImageLsListsTheFilesOfAnImage(t *testing.T) {
	data, err := initramfs.Files([]initramfs.File{{Name: "init", Mode: 0o755, Data: []byte("agent")}, {Name: "bin/sh", Mode: os.ModeSymlink | 0o777, Data: []byte("bb")}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "guest.cpio")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	var list []fileLine
	o := hutch(t, "", "image", "ls", "--json", path)
	if err := json.Unmarshal([]byte(o.stdout), &list); err != nil || o.code != 0 {
		t.Fatalf("%v, %+v", err, o)
	}
	byName := map[string]fileLine{}
	for _, f := range list {
		byName[f.Name] = f
	}
	if byName["init"] != (fileLine{Mode: "-rwxr-xr-x", Size: 5, Name: "init"}) || byName["bin/sh"].Target != "bb" {
		t.Errorf("%+v", list)
	}
	if o := hutch(t, "", "image", "ls", path); o.code != 0 || !strings.Contains(o.stdout, "/bin/sh -> bb\n") || !strings.Contains(o.stdout, "-rwxr-xr-x  0:0    5     /init\n") {
		t.Errorf("%+v", o)
	}
	for _, args := range [][]string{{"image", "ls", filepath.Join(t.TempDir(), "none")}, {"image", "ls", path, path}, {"image", "ls", os.Args[0]}} {
		if o := hutch(t, "", args...); o.code != exitFailed || o.stdout != "" || o.stderr == "" {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

func TestImageLsOfAnEmptyCache(t *testing.T) {
	t.Setenv("HUTCH_CACHE", t.TempDir())
	want(t, hutch(t, "", "image", "ls", "--json"), "[]\n", 0)
	want(t, hutch(t, "", "image", "ls"), "CURRENT  SIZE  BUILT  USED  PATH\n", 0)
}

func TestImageBuildIntoAFolderIsRefusedBeforeAnythingIsBuilt(t *testing.T) {
	t.Setenv("HUTCH_CACHE", t.TempDir())
	dir := t.TempDir()
	o := hutch(t, "", "image", "build", "-o", dir)
	if o.code != exitFailed || o.stdout != "" || !strings.Contains(o.stderr, "is a folder: name a file in it") || strings.Contains(o.stderr, "building") {
		t.Errorf("%+v", o)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if left, _ := filepath.Glob(filepath.Join(d, ".hutch-*")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}
