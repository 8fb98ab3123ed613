package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// repo is the root of the checkout, which a test starts two folders below.
const repo = "../.."

// eachCommand calls f for every command that --help shows.
func eachCommand(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "completion" && sub.Name() != "help" { // those are cobra's
			eachCommand(sub, f)
		}
	}
}

func TestEveryCommandIsExplained(t *testing.T) {
	eachCommand(newRoot(), func(c *cobra.Command) {
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s: short, long and example must all be there", c.CommandPath())
		}
		for line := range strings.SplitSeq(c.Long, "\n") {
			if len(line) > 155 {
				t.Errorf("%s: a line of %d characters: %q", c.CommandPath(), len(line), line)
			}
		}
		for line := range strings.SplitSeq(c.Example, "\n") {
			if len(commandLines(line)) == 0 {
				t.Errorf("%s: the example %q runs no hutch", c.CommandPath(), line)
			}
			for _, words := range commandLines(line) {
				if err := parses(words); err != nil {
					t.Errorf("%s: the example %q: %v", c.CommandPath(), line, err)
				}
			}
		}
	})
}

// pages reads the folder of a reference.
func pages(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

func TestReferenceIsWhatTheCommandsSay(t *testing.T) {
	made := t.TempDir()
	if err := writeReference(newRoot(), "markdown", made); err != nil {
		t.Fatal(err)
	}
	have, want := pages(t, filepath.Join(repo, "docs", "cli")), pages(t, made)
	for name := range want {
		if have[name] != want[name] {
			t.Errorf("docs/cli/%s is not what the commands say: run make docs", name)
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/cli/%s is of no command: run make docs", name)
		}
	}
}

func TestDocsWritesTheSamePagesAsTheReference(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	if got := hutch(t, "", "docs", "--format", "markdown", dir); got != (outcome{}) {
		t.Fatalf("got %+v", got)
	}
	direct := t.TempDir()
	if err := writeReference(newRoot(), "markdown", direct); err != nil {
		t.Fatal(err)
	}
	if a, b := pages(t, dir), pages(t, direct); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("hutch docs wrote %d pages, and not what is checked in", len(a))
	}
}

func TestDocsWritesAManPageForEveryCommand(t *testing.T) {
	dir := t.TempDir()
	if got := hutch(t, "", "docs", dir); got != (outcome{}) {
		t.Fatalf("got %+v", got)
	}
	man := pages(t, dir)
	eachCommand(newRoot(), func(c *cobra.Command) {
		page := man[strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"]
		if !strings.Contains(page, ".SH NAME") || !strings.Contains(page, ".SH EXAMPLE") || !strings.Contains(page, `"" "hutch" "hutch manual"`) {
			t.Errorf("%s: the page is not whole, or has a date: %.200q", c.CommandPath(), page)
		}
	})
	if _, ok := man["hutch-hold.1"]; ok {
		t.Error("there is a page for hutch hold, which is nobody's to call")
	}
}

func TestDocsRefusesWhatItCannotWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"docs"}, "give the folder"},
		{[]string{"docs", ""}, "give the folder"},
		{[]string{"docs", "--format", "pdf", t.TempDir()}, `"pdf": known are man and markdown`},
		{[]string{"docs", file}, "not a directory"},
	} {
		if got := hutch(t, "", tc.args...); got.code != 125 || !strings.Contains(got.stderr, tc.says) {
			t.Errorf("%q: got %+v, want code 125 and %q", tc.args, got, tc.says)
		}
	}
}

// texts are the Markdown files that readers see, by their paths from the root.
func texts(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(filepath.ToSlash(path), repo+"/")
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || rel == "bin" || rel == "docs/cli") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(rel, ".md") && rel != "REVIEW.md" {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out[rel] = string(b)
		}
		return nil
	})
	if err != nil || out["README.md"] == "" || out["docs/README.md"] == "" || out["examples/README.md"] == "" {
		t.Fatalf("%d texts are found, without the README.md of the root, docs or examples: %v", len(out), err)
	}
	return out
}

var (
	fence  = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")
	inline = regexp.MustCompile("`([^`\n]+)`")
	link   = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)\s]*)?\)`)
	target = regexp.MustCompile(`\bmake ([a-z]+)\b`)
)

func TestCommandsInTheDocumentationExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(repo, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for name, text := range texts(t) {
		var code []string
		prose := fence.ReplaceAllStringFunc(text, func(block string) string {
			m := fence.FindStringSubmatch(block)
			if m[1] == "sh" || m[1] == "yaml" {
				code = append(code, strings.Split(m[2], "\n")...)
			}
			return ""
		})
		for _, line := range code {
			for _, words := range commandLines(line) {
				checked++
				if err := parses(words); err != nil {
					t.Errorf("%s: %q: %v", name, line, err)
				}
			}
		}
		for _, m := range inline.FindAllStringSubmatch(prose, -1) {
			code = append(code, m[1])
			for _, words := range commandLines(m[1]) {
				checked++
				if err := exists(words); err != nil {
					t.Errorf("%s: `%s`: %v", name, m[1], err)
				}
			}
		}
		for _, line := range code {
			for _, m := range target.FindAllStringSubmatch(line, -1) {
				if !strings.Contains(string(makefile), "\n"+m[1]+":") {
					t.Errorf("%s: %q: the Makefile has no target %s", name, line, m[1])
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d command lines were found", checked)
	}
}

func TestLinksInTheDocumentationLead(t *testing.T) {
	for name, text := range texts(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(repo, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: the link to %s: %v", name, m[1], err)
			}
		}
	}
}

func TestFilesThatPackageCommentsNameExist(t *testing.T) {
	goFile := regexp.MustCompile(`[a-zA-Z0-9_*]+\.go\b`)
	named := 0
	err := filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "doc.go" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, name := range goFile.FindAllString(string(b), -1) {
			named++
			here, _ := filepath.Glob(filepath.Join(filepath.Dir(path), name))
			below, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*", name))
			if len(here)+len(below) == 0 {
				t.Errorf("%s: there is no %s", path, name)
			}
		}
		return nil
	})
	if err != nil || named < 30 {
		t.Errorf("%d names were found, %v", named, err)
	}
}

// commandLines finds the hutch command lines in a line of shell: the words behind a word hutch or bin/hutch, up to what ends a command.
func commandLines(line string) [][]string {
	var out [][]string
	var words []string
	inside := false
	for _, w := range append(shellWords(line), ";") {
		switch {
		case slices.Contains([]string{";", "|", "&", ">", "<", "(", ")"}, w):
			if inside {
				out = append(out, words)
			}
			words, inside = nil, false
		case inside:
			words = append(words, w)
		case w == "hutch" || w == "bin/hutch" || w == "$PWD/bin/hutch":
			inside, words = true, []string{}
		}
	}
	return out
}

// shellWords splits a line into words and the characters that end a command, with quotes but without expansion. A comment ends it.
func shellWords(line string) []string {
	var words []string
	var word strings.Builder
	in, quote := false, rune(0)
	end := func() {
		if in {
			words = append(words, word.String())
		}
		word.Reset()
		in = false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			in, quote = true, r
		case r == ' ' || r == '\t':
			end()
		case r == '#' && !in:
			return words
		case strings.ContainsRune(";|&<>()", r):
			end()
			words = append(words, string(r))
		default:
			in = true
			word.WriteRune(r)
		}
	}
	end()
	return words
}

// parses says whether hutch would take the words: command, flags and arguments.
func parses(words []string) error {
	root := newRoot()
	root.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	root.InitDefaultCompletionCmd()
	c, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if c.Flags().Changed("help") || c.Flags().Changed("version") {
		return nil
	}
	if c.HasSubCommands() && len(c.Flags().Args()) > 0 {
		return fmt.Errorf("%s has no command %q", c.CommandPath(), c.Flags().Arg(0))
	}
	return c.ValidateArgs(c.Flags().Args())
}

// exists says whether the command and the flags in words are there. In running text arguments and values may be missing.
func exists(words []string) error {
	root := newRoot()
	root.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	root.InitDefaultCompletionCmd()
	c, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	if c.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && rest[0] != "..." {
		return fmt.Errorf("%s has no command %q", c.CommandPath(), rest[0])
	}
	c.InitDefaultHelpFlag()
	for _, w := range rest {
		name := strings.TrimLeft(w, "-")
		name, _, _ = strings.Cut(name, "=")
		switch {
		case w == "--":
			return nil
		case strings.HasPrefix(w, "--") && c.Flags().Lookup(name) == nil,
			strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "--") && name != "" && c.Flags().ShorthandLookup(name[:1]) == nil:
			return fmt.Errorf("%s has no flag %s", c.CommandPath(), w)
		}
	}
	return nil
}
