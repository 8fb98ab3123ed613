package initramfs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// toolchain is the Go command in use.
type toolchain struct {
	goTool  string // the command found
	root    string // GOROOT of the toolchain it selects for the recipe
	version string // "go1.26.8"
}

// findGo returns the Go command: the given one, that of PATH, or that of the GOROOT the running program was built with.
func findGo(given string) (string, error) {
	if given != "" {
		if _, err := os.Stat(given); err != nil {
			return "", fmt.Errorf("initramfs: Options.GoTool: %w: %w", ErrNoToolchain, err)
		}
		return filepath.Abs(given)
	}
	if p, err := exec.LookPath("go"); err == nil {
		return filepath.Abs(p)
	}
	for _, root := range []string{os.Getenv("GOROOT"), "/usr/local/go", "/usr/lib/go"} {
		if root == "" {
			continue
		}
		p := filepath.Join(root, "bin", "go")
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("initramfs: %w: install Go or name its command (Options.GoTool), or boot with an image built elsewhere: "+
		"the file that Base returned there can be copied or embedded", ErrNoToolchain)
}

// resolve asks the Go command which toolchain it would use in dir.
func resolve(ctx context.Context, goTool, dir string) (toolchain, error) {
	var env struct{ GOROOT, GOVERSION string }
	out, err := run(ctx, command{op: "ask the Go command for its version", dir: dir, path: goTool, args: []string{"env", "-json", "GOROOT", "GOVERSION"}})
	if err == nil {
		if jsonErr := json.Unmarshal(out, &env); jsonErr != nil || env.GOROOT == "" || env.GOVERSION == "" {
			err = &BuildError{Op: "ask the Go command for its version", Err: fmt.Errorf("unexpected answer %q", out)}
		}
	}
	if err != nil {
		return toolchain{}, err
	}
	return toolchain{goTool: goTool, root: env.GOROOT, version: env.GOVERSION}, nil
}

// goCommand is the go command of the selected toolchain, so that later steps do not select again in another folder.
func (t toolchain) goCommand() string { return filepath.Join(t.root, "bin", "go") }

// command is one run of a tool.
type command struct {
	op   string // for errors
	fix  string // for errors
	dir  string
	path string
	args []string
	env  []string // added to buildEnv
}

// buildEnv is the caller's environment without what would make a build depend on where it is started: flags and workspaces of the
// caller's own project. Proxy, checksum and cache settings stay.
func buildEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "GOFLAGS", "GOWORK", "GO111MODULE", "GOOS", "GOARCH", "GOAMD64", "GOARM64", "CGO_ENABLED", "GOEXPERIMENT", "GODEBUG", "GOROOT",
			"GOCOVERDIR", "PWD", "GOMEMLIMIT", "GOGC", "GOMAXPROCS", "GOENV", "GOFIPS140":
			continue
		}
		env = append(env, kv)
	}
	// Without -buildvcs=false the Go command asks git about the checkout, and git refuses one that belongs to another user: builds inside the
	// lab, and as root in a user's folder. Nothing here wants the version that it would stamp.
	return append(env, "GOWORK=off", "GO111MODULE=on", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
}

// guestEnv selects the guest's platform for a build.
func guestEnv() []string { return []string{"GOOS=linux", "GOARCH=" + runtime.GOARCH} }

// outputTail is how much of a failed tool's output an error carries.
const outputTail = 2000

// run runs a tool and returns its standard output. On failure the error holds the tail of standard output and error.
func run(ctx context.Context, c command) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.path, c.args...)
	cmd.Dir = c.dir
	cmd.Env = append(buildEnv(), c.env...)
	var out, all bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = &all
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		text := strings.TrimSpace(all.String() + "\n" + out.String())
		if len(text) > outputTail {
			text = "…" + strings.ToValidUTF8(text[len(text)-outputTail:], "")
		}
		return nil, &BuildError{Op: c.op, Err: err, Output: text, Fix: c.fix}
	}
	return out.Bytes(), nil
}
