package sandbox_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withoutIndent returns the lines of code, each without the space around it.
func withoutIndent(code string) string {
	var lines []string
	for l := range strings.SplitSeq(code, "\n") {
		lines = append(lines, strings.TrimSpace(l))
	}
	return strings.Join(lines, "\n")
}

// packageComment is doc.go's, as text.
func packageComment(t *testing.T) string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return f.Doc.Text()
}

// The compiler sees the examples, so what stands in both compiles.
func TestSnippetsOfThePackageCommentAreInExamples(t *testing.T) {
	files, err := filepath.Glob("example_*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var examples strings.Builder
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		examples.WriteString(withoutIndent(string(b)))
	}
	snippets := 0
	for block := range strings.SplitSeq(packageComment(t), "\n\n") {
		if !strings.HasPrefix(block, "\t") || strings.HasPrefix(block, "\twhat happened ") {
			continue
		}
		snippets++
		if !strings.Contains(examples.String(), withoutIndent(strings.TrimRight(block, "\n"))) {
			t.Errorf("no example has this snippet:\n%s", block)
		}
	}
	if snippets < 12 {
		t.Errorf("only %d snippets were found", snippets)
	}
}

// The README's test is an example too; its first program is examples/hello.
func TestTestOfTheREADMEIsAnExample(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_check_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(readme), "```go\n")
	if len(blocks) != 3 {
		t.Fatalf("README.md has %d blocks of Go, want 2", len(blocks)-1)
	}
	code, _, _ := strings.Cut(blocks[2], "```")
	if !strings.Contains(string(example), code) {
		t.Errorf("example_check_test.go does not have the test of README.md:\n%s", code)
	}
}

// The table of errors has every exported one.
func TestPackageCommentNamesEveryError(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	comment := packageComment(t)
	named := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range exportedErrors(f) {
			named++
			if !strings.Contains(comment, e) {
				t.Errorf("%s: the package comment does not name %s", name, e)
			}
		}
	}
	if named < 30 {
		t.Errorf("only %d errors were found", named)
	}
}

// exportedErrors are the names of f's variables Err... and types ...Error.
func exportedErrors(f *ast.File) []string {
	var names []string
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range g.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				if g.Tok == token.VAR && strings.HasPrefix(s.Names[0].Name, "Err") {
					names = append(names, s.Names[0].Name)
				}
			case *ast.TypeSpec:
				if s.Name.IsExported() && strings.HasSuffix(s.Name.Name, "Error") {
					names = append(names, s.Name.Name)
				}
			}
		}
	}
	return names
}
