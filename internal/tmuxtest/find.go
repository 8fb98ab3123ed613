package tmuxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hutchvm/hutch/boot/debpkg"
)

// Env is the environment variable that names the tmux to use.
const Env = "HUTCH_TMUX"

// ErrNoTmux: there is no tmux and none could be fetched. The error that wraps it says why.
var ErrNoTmux = errors.New("no tmux")

// A Program is a tmux that can be run. The zero value is none.
type Program struct {
	Path string
	tree *debpkg.Tree // what it needs beside it; nil = the system
}

// Find returns the tmux that $HUTCH_TMUX names, the one on PATH, or the distribution's, which is fetched unless the cache has it. progress,
// which may be nil, is told what takes time. Errors: ErrNoTmux.
func Find(ctx context.Context, progress func(string)) (Program, error) {
	if path := os.Getenv(Env); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return Program{}, fmt.Errorf("%w: %s: %w", ErrNoTmux, Env, err)
		}
		return programAt(path), nil
	}
	if path, err := exec.LookPath("tmux"); err == nil {
		return Program{Path: path}, nil
	}
	return Fetch(ctx, progress)
}

// Fetch is Find without the environment and the PATH.
func Fetch(ctx context.Context, progress func(string)) (Program, error) {
	tree, err := debpkg.Closure(ctx, debpkg.Options{Packages: []string{"tmux"}, Progress: progress})
	if err != nil {
		return Program{}, fmt.Errorf("%w: %w; install tmux, or set %s to one", ErrNoTmux, err, Env)
	}
	path, err := tree.Lookup("tmux")
	if err != nil {
		return Program{}, fmt.Errorf("%w: %w", ErrNoTmux, err)
	}
	return programAt(path), nil
}

// programAt recognises a tmux in an unpacked tree, whose libraries are next to it.
func programAt(path string) Program {
	root, in := strings.CutSuffix(path, filepath.FromSlash("/usr/bin/tmux"))
	if !in || root == "" {
		return Program{Path: path}
	}
	return Program{Path: path, tree: &debpkg.Tree{Root: root}}
}

// env is the environment of the server and of its commands: little, so that a tmux around the test does not matter.
func (p Program) env(dir string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMUX_TMPDIR=" + dir, "LC_ALL=C.UTF-8", "TERM=screen"}
	if p.tree != nil {
		env = p.tree.Env(env)
	}
	return env
}
