// Package errdoc compares docs/errors.md, the catalogue of errors for users, with the errors that the code makes. Only tests use it.
//
// An entry of the catalogue is a block of text behind a comment with its package and its name:
//
//	<!-- kvm: busy -->
//	```text
//	kvm: KVM_CREATE_VM: device or resource busy: ...
//	```
package errdoc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Compare fails t unless the catalogue has exactly these messages of the package: name → the whole text, word for word.
func Compare(t testing.TB, pkg string, messages map[string]string) {
	t.Helper()
	text, err := os.ReadFile(catalogue())
	if err != nil {
		t.Fatal(err)
	}
	all, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	documented := all[pkg]
	for name, want := range messages {
		if got, ok := documented[name]; !ok {
			t.Errorf("docs/errors.md has no entry %q of %s; its message is:\n%s", name, pkg, want)
		} else if got != want {
			t.Errorf("docs/errors.md, entry %q of %s:\n%s\nthe code says:\n%s", name, pkg, got, want)
		}
	}
	for name := range documented {
		if _, ok := messages[name]; !ok {
			t.Errorf("docs/errors.md has an entry %q of %s that no test makes", name, pkg)
		}
	}
}

// catalogue finds the file in the module that the test runs in.
func catalogue() string {
	const file = "docs/errors.md"
	dir := "."
	for range 8 {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		dir = filepath.Join(dir, "..")
	}
	return filepath.Join(dir, file)
}

// parse returns package → name → message.
func parse(text string) (map[string]map[string]string, error) {
	all := make(map[string]map[string]string)
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		body, ok := strings.CutPrefix(lines[i], "<!-- ")
		if !ok {
			continue
		}
		pkg, name, ok := strings.Cut(strings.TrimSuffix(body, " -->"), ": ")
		if !ok || i+1 == len(lines) || lines[i+1] != "```text" {
			return nil, fmt.Errorf("line %d: want <!-- PACKAGE: NAME --> and a block of text below it", i+1)
		}
		begin := i + 2
		for i = begin; i < len(lines) && lines[i] != "```"; i++ {
		}
		if i == len(lines) {
			return nil, fmt.Errorf("line %d: the block of %s has no end", begin, name)
		}
		if all[pkg] == nil {
			all[pkg] = make(map[string]string)
		}
		if _, twice := all[pkg][name]; twice {
			return nil, fmt.Errorf("line %d: %s: %s is there twice", begin, pkg, name)
		}
		all[pkg][name] = strings.Join(lines[begin:i], "\n")
	}
	return all, nil
}
