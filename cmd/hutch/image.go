package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/initramfs"
)

func newImage() *cobra.Command {
	c := group(&cobra.Command{Use: "image", Short: "Build the guest's initial file system"})
	c.AddCommand(newImageBuild())
	return c
}

func newImageBuild() *cobra.Command {
	var out string
	var pathOnly bool
	c := &cobra.Command{
		Use:   "build",
		Short: "Build the userland and the agent into the cache, or into a file to embed",
		Example: `  hutch image build                 # into the cache
  hutch image build -o guest.cpio   # a copy, to embed with go:embed or to give to --initramfs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out != "" { // the image takes a while: a folder that is not there is told first
				if _, err := os.Stat(filepath.Dir(out)); err != nil {
					return fmt.Errorf("--output: the file's folder: %w", err)
				}
			}
			img, err := initramfs.Base(cmd.Context(), initramfs.Options{Progress: toStderr})
			if err != nil {
				return err
			}
			path := img.Path
			if out != "" {
				if err := copyFile(out, img.Path); err != nil {
					return fmt.Errorf("--output: %w", err)
				}
				path = out
			}
			if pathOnly {
				fmt.Println(path)
				return nil
			}
			fmt.Printf("%s\nsize   %d bytes\nsha256 %s\n", path, img.Size, img.SHA256)
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "also write the image to this `FILE`")
	c.Flags().BoolVar(&pathOnly, "print-path", false, "print the image's path and nothing else")
	return c
}

func toStderr(step string) { fmt.Fprintln(os.Stderr, "hutch:", step) }

// copyFile writes a copy of from that appears under its name only when it is complete.
func copyFile(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(filepath.Dir(to), ".hutch-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err = io.Copy(tmp, src); err != nil {
		return err
	}
	if err = tmp.Chmod(0o644); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), to)
}
