package tmuxtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sh(t *testing.T, script string) *Pane {
	return Start(t, Options{Rows: 11, Cols: 40, Env: []string{"WHO=me"}}, "sh", "-c", script)
}

func TestScreenKeysAndSizes(t *testing.T) {
	p := sh(t, `trap 'stty size' WINCH; stty size; echo "$WHO;"; while :; do read x && echo "got $x"; done`)
	p.WaitText("11 40")
	p.WaitText("me;")
	p.Line("töne")
	p.WaitLast("got töne")
	p.Resize(13, 50)
	p.WaitText("13 50")
	if s := p.Capture(); len(s) != 13 {
		t.Errorf("%d rows after the resize:\n%v", len(s), s)
	}
	p.Keys("C-c")
	if code := p.WaitDead(); code != 130 {
		t.Errorf("code %d after Ctrl-C, want 130", code)
	}
}

func TestPasteIsExact(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	want := bytes.Repeat([]byte("\x00\x01\n\r\x1b\xff;\\"), 1000)
	p := sh(t, `stty raw -echo; echo ready; head -c 8000 >'`+out+`'; exit 3`)
	p.WaitText("ready")
	p.Paste(want)
	if code := p.WaitDead(); code != 3 {
		t.Errorf("code %d, want 3", code)
	}
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; not what was pasted", len(got), err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	var p *Pane
	t.Run("a test", func(t *testing.T) {
		p = sh(t, "sleep 1000")
		p.Start(Options{}, "sh", "-c", "sleep 1000;")
		if len(*p.srv.pids) != 3 {
			t.Fatalf("processes %v, want the server and two", *p.srv.pids)
		}
	})
	for _, pid := range *p.srv.pids {
		if alive(pid) {
			t.Errorf("process %d lives", pid)
		}
	}
	if _, err := os.Stat(p.srv.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
}

func TestTmuxThatIsNamedIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root", "usr", "bin", "tmux")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.MkdirAll(filepath.Join(path, "..", "..", "lib"), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Env, path)
	if p, err := Find(context.Background(), nil); !errors.Is(err, ErrNoTmux) {
		t.Fatalf("Find = %+v, %v; want ErrNoTmux for a file that is missing", p, err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := Find(context.Background(), nil)
	if err != nil || p.Path != path {
		t.Fatalf("Find = %+v, %v", p, err)
	}
	want := "LD_LIBRARY_PATH=" + filepath.Join(filepath.Dir(filepath.Dir(path)), "lib")
	if env := strings.Join(p.env("x"), "\n"); !strings.Contains(env, want) {
		t.Errorf("environment %s; want %s", env, want)
	}
}
