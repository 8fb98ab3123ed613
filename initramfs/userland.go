package initramfs

import (
	"context"
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// The recipe of the userland is a Go module of its own. go.mod and go.sum are stored under other names, because go:embed leaves out folders
// that are modules.
//
//go:embed _userland/go.mod.txt _userland/go.sum.txt _userland/tools.go _userland/cmd/*/*.go _userland/lib/*/*.go
var recipeFS embed.FS

const (
	recipeRoot   = "_userland"
	recipeModule = "userland.hutch.invalid"
	makebbTool   = "github.com/u-root/gobusybox/src/cmd/makebb"
	// userlandVersion changes when this package builds the same recipe in another way.
	userlandVersion = "1"
)

const networkFix = "the first build fetches modules: is the module proxy reachable (GOPROXY)?"

// recipeFiles returns the recipe's files by their real names.
func recipeFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	err := fs.WalkDir(recipeFS, recipeRoot, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := recipeFS.ReadFile(p)
		files[strings.TrimSuffix(strings.TrimPrefix(p, recipeRoot+"/"), ".txt")] = data
		return err
	})
	return files, err
}

// recipeHash identifies the recipe.
func recipeHash(files map[string][]byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "userland %s\n", userlandVersion)
	for _, name := range sortedKeys(files) {
		fmt.Fprintf(h, "%s %d\n%s", name, len(files[name]), files[name])
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// commandPackages returns the import paths of all commands: those tools.go imports, which is what the checksums in go.sum were made for, and
// our own.
func commandPackages(files map[string][]byte) []string {
	var pkgs []string
	for line := range strings.Lines(string(files["tools.go"])) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), `_ "`); ok {
			if p = strings.TrimSuffix(p, `"`); strings.Contains(p, "/cmds/") {
				pkgs = append(pkgs, p)
			}
		}
	}
	for name := range files {
		if strings.HasPrefix(name, "cmd/") {
			pkgs = append(pkgs, recipeModule+"/"+path.Dir(name))
		}
	}
	slices.Sort(pkgs)
	return slices.Compact(pkgs)
}

// Commands returns the names of the userland's commands, sorted.
func Commands() []string {
	files, err := recipeFiles()
	if err != nil {
		return nil // the embedded files are part of the program: this cannot happen
	}
	var names []string
	for _, p := range commandPackages(files) {
		names = append(names, path.Base(p))
	}
	slices.Sort(names)
	return names
}

// buildUserland writes the combined binary to out. work is an empty folder for the recipe and the generated source.
func buildUserland(ctx context.Context, t toolchain, files map[string][]byte, work, out string) error {
	recipe := filepath.Join(work, "recipe")
	for name, data := range files {
		p := filepath.Join(recipe, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			return err
		}
	}
	makebb := filepath.Join(work, "makebb")
	_, err := run(ctx, command{op: "build the userland's build tool", fix: networkFix, dir: recipe, path: t.goCommand(),
		args: []string{"build", "-mod=readonly", "-o", makebb, makebbTool}})
	if err != nil {
		return err
	}
	args := []string{"-o", out, "-gen-dir", filepath.Join(work, "gen"),
		"-go-extra-args=-trimpath", "-go-extra-args=-buildvcs=false", "-go-extra-args=-ldflags=-s -w -buildid="}
	env := append(guestEnv(), "GOROOT="+t.root, "PATH="+filepath.Join(t.root, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	_, err = run(ctx, command{op: "build the userland", fix: networkFix, dir: recipe, path: makebb,
		args: append(args, commandPackages(files)...), env: env})
	return err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
