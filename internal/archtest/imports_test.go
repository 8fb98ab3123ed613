// Package archtest holds the tests of the project's structure: who may import whom, and where unsafe may stand.
package archtest

import (
	"bufio"
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hutchvm/hutch/"

// mayImport lists, for each package by its folder, the packages of ours that its non-test code may import directly. internal/cachedir is a leaf
// that everything which caches may use. A package that is not listed fails the test: add it, with the direction thought through.
var mayImport = map[string][]string{
	"internal/cachedir":       {},
	"kvm":                     {},
	"virtio":                  {},
	"virtio/virtiotest":       {"virtio"},
	"devices":                 {},
	"devices/vsock":           {"virtio"},
	"boot":                    {"virtio", "kvm", "boot/acpi", "boot/debpkg", "internal/cachedir"},
	"boot/debpkg":             {"internal/cachedir"},
	"boot/acpi":               {},
	"boot/ownkernel":          {"boot/debpkg", "internal/cachedir"},
	"initramfs":               {"internal/cachedir"},
	"channel":                 {},
	"agent":                   {"channel"},
	"sandbox":                 {"kvm", "virtio", "devices", "devices/vsock", "boot", "initramfs", "channel", "sandbox/execlog"},
	"sandbox/execlog":         {},
	"cmd/agent":               {"agent"},
	"cmd/hutch":               {"sandbox", "sandbox/execlog", "boot", "boot/debpkg", "boot/ownkernel", "initramfs", "internal/cachedir"},
	"cmd/kvmlab":              {"agent", "channel", "boot/debpkg", "internal/cachedir"},
	"examples/demo":           {"sandbox", "boot", "boot/ownkernel", "initramfs"},
	"internal/archtest":       {},
	"internal/errdoc":         {},
	"internal/tmuxtest":       {"boot/debpkg", "internal/cachedir"},
	"internal/tmuxtest/fetch": {"internal/tmuxtest"},
	"channel/channeltest":     {},
	"devices/vsock/vsocktest": {"devices/vsock", "virtio", "virtio/virtiotest"},
}

func goList(t *testing.T, args ...string) [][]string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var rows [][]string
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		rows = append(rows, strings.Fields(s.Text()))
	}
	return rows
}

func TestPackagesImportOnlyWhatTheLayoutAllows(t *testing.T) {
	for _, row := range goList(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...") {
		pkg := strings.TrimPrefix(row[0], module)
		allowed, known := mayImport[pkg]
		if !known {
			if strings.HasPrefix(pkg, "examples/") {
				allowed = []string{"sandbox", "sandbox/execlog"}
			} else {
				t.Errorf("package %s is not in the import table: add it", pkg)
				continue
			}
		}
		for _, imp := range row[1:] {
			if imp == "C" {
				t.Errorf("%s imports C: hutch is pure Go", pkg)
			}
			if ours, is := strings.CutPrefix(imp, module); is && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which the layout forbids", pkg, ours)
			}
		}
	}
}

func TestUnsafeStandsOnlyInUnsafeFilesOfKVMAndVirtio(t *testing.T) {
	seen := 0
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			if imp.Path.Value != `"unsafe"` {
				continue
			}
			seen++
			dir := filepath.ToSlash(filepath.Dir(strings.TrimPrefix(path, root+"/")))
			if (dir != "kvm" && dir != "virtio") || !strings.HasSuffix(path, "_unsafe.go") {
				t.Errorf("%s imports unsafe: only *_unsafe.go files of kvm and virtio may", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Error("no file imports unsafe: this test looks at the wrong folder")
	}
}
