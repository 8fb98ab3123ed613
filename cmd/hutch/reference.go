package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newDocs() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "docs [flags] DIR",
		Short: "Write the manual of every command as man pages or Markdown",
		Long: `docs writes one page for every command into the folder DIR, which it makes if need be. The pages are made of the same texts as --help, and the same
version of hutch always writes the same bytes. Man pages are of section 1.`,
		Example: `  hutch docs ~/.local/share/man/man1     # then: man hutch-run
  hutch docs --format markdown /tmp/hutch-docs`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return fmt.Errorf("docs: give the folder to write to; got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return writeReference(c.Root(), format, args[0]) },
	}
	c.Flags().StringVar(&format, "format", "man", "`FORMAT` of the pages: man or markdown")
	return c
}

// writeReference writes the pages of root and all its commands into dir.
func writeReference(root *cobra.Command, format, dir string) error {
	page, ext := manPage, ".1"
	switch format {
	case "man":
	case "markdown":
		page, ext = markdownPage, ".md"
	default:
		return fmt.Errorf("docs: --format: %q: known are man and markdown", format)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("docs: %w", err)
	}
	// Execute adds these to the command that it runs; a tree that is only looked at has to have them as well.
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.InitDefaultVersionFlag()
	return writePages(root, dir, ext, page)
}

func writePages(c *cobra.Command, dir, ext string, page func(*cobra.Command, *bytes.Buffer) error) error {
	var b bytes.Buffer
	if err := page(c, &b); err != nil {
		return fmt.Errorf("docs: %s: %w", c.CommandPath(), err)
	}
	sep := map[string]string{".1": "-", ".md": "_"}[ext] // the names under which the pages refer to each other
	if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", sep)+ext), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("docs: %w", err)
	}
	for _, sub := range c.Commands() {
		if !sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand() {
			continue
		}
		if err := writePages(sub, dir, ext, page); err != nil {
			return err
		}
	}
	return nil
}

// manPage writes a man page without a date, which package doc cannot leave out.
func manPage(c *cobra.Command, b *bytes.Buffer) error {
	var year1 time.Time
	c.DisableAutoGenTag = true // no word of when and by what
	var with bytes.Buffer
	if err := doc.GenMan(c, &doc.GenManHeader{Section: "1", Source: "hutch", Manual: "hutch manual", Date: &year1}, &with); err != nil {
		return err
	}
	_, err := b.WriteString(strings.Replace(with.String(), year1.Format("Jan 2006"), "", 1))
	return err
}

func markdownPage(c *cobra.Command, b *bytes.Buffer) error {
	c.DisableAutoGenTag = true
	return doc.GenMarkdown(c, b)
}
