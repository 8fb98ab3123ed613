package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

const (
	hutchModule  = "github.com/hutchvm/hutch"
	agentPackage = hutchModule + "/cmd/agent"
)

// locateModule returns the folder of hutch's source: the given one; where this file was compiled, when the program was built without
// -trimpath; the module cache, for a released version; or what the Go command says in the current folder.
func locateModule(ctx context.Context, goTool, given string) (string, error) {
	if given != "" {
		dir, err := filepath.Abs(given)
		if err == nil && !isModule(dir) {
			err = fmt.Errorf("initramfs: Options.ModuleDir %s: %w: no go.mod of %s there", given, ErrNoSource, hutchModule)
		}
		return dir, err
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		if dir := filepath.Dir(filepath.Dir(file)); isModule(dir) {
			return dir, nil
		}
	}
	queries := [][]string{{"list", "-m", "-json", hutchModule}}
	if v := version(); v != "" {
		queries = append(queries, []string{"mod", "download", "-json", hutchModule + "@" + v})
	}
	var last error
	for _, args := range queries {
		if goTool == "" {
			break
		}
		out, err := run(ctx, command{op: "find hutch's source", path: goTool, args: args})
		var m struct{ Dir, Error string }
		if err != nil {
			if be := (*BuildError)(nil); errors.As(err, &be) && json.Unmarshal([]byte(be.Output), &m) == nil && m.Error != "" {
				be.Output = m.Error // the Go command puts it among much else
			}
			last = err
			continue
		}
		if json.Unmarshal(out, &m) == nil && m.Dir != "" && isModule(m.Dir) {
			return m.Dir, nil
		}
	}
	err := fmt.Errorf("initramfs: %w: run in hutch's checkout or in a module that requires %s, or name its folder (Options.ModuleDir) or a built agent "+
		"(Options.AgentPath)", ErrNoSource, hutchModule)
	if last != nil {
		err = fmt.Errorf("%w: %w", err, last)
	}
	return "", err
}

// version is the released version of hutch in the running program, or empty.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == hutchModule && m.Replace == nil && strings.HasPrefix(m.Version, "v") {
			return m.Version
		}
	}
	return ""
}

// isModule reports whether dir is the root of hutch's module with the agent's source in it: a vendor folder has none.
func isModule(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil || !slices.Contains(strings.Fields(string(data)), hutchModule) {
		return false
	}
	info, err := os.Stat(filepath.Join(dir, "cmd", "agent"))
	return err == nil && info.IsDir()
}

// agentDirs returns the folders of the module that the agent's source lies in.
func agentDirs(ctx context.Context, t toolchain, module string) (dirs []string, err error) {
	list, err := run(ctx, command{op: "list the agent's source", fix: networkFix, dir: module, path: t.goCommand(), env: guestEnv(),
		args: []string{"list", "-mod=readonly", "-deps", "-f", "{{if .Module}}{{.Module.Path}} {{.Dir}}{{end}}", agentPackage}})
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(list)) {
		if mod, dir, ok := strings.Cut(strings.TrimSpace(line), " "); ok && mod == hutchModule {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs, nil
}

// buildAgent compiles the agent into out.
//
// The build runs in hutch's own module, whatever program hutch is a part of: the agent then has the dependency versions it was tested with,
// and checksums that the caller's go.sum lacks are not needed.
func buildAgent(ctx context.Context, t toolchain, module, out string) error {
	_, err := run(ctx, command{op: "build the agent", fix: networkFix, dir: module, path: t.goCommand(), env: guestEnv(),
		args: []string{"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, agentPackage}})
	return err
}

// fingerprint tells whether source files have changed, by name, size and time stamp: cheap enough for every start of a program.
func fingerprint(module string, dirs []string) (string, error) {
	h := sha256.New()
	add := func(p string) error {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d %d\n", p, info.Size(), info.ModTime().UnixNano())
		return nil
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := add(filepath.Join(module, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if name := e.Name(); !e.IsDir() && !strings.HasSuffix(name, "_test.go") {
				if err := add(filepath.Join(dir, name)); err != nil {
					return "", err
				}
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// hashFile returns the SHA-256 of a file in hexadecimal digits.
func hashFile(p string) (string, error) {
	f, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
