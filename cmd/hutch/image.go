package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/initramfs"
)

func newImage() *cobra.Command {
	c := group(&cobra.Command{Use: "image", Short: "Build and list the guest's initial file system",
		Long:    `image makes what the guest boots into: a small userland and hutch's agent, in one archive that the kernel unpacks into memory.`,
		Example: "  hutch image build\n  hutch image ls",
	})
	c.AddCommand(newImageBuild(), newImageLs())
	return c
}

// imageLine is an image in the cache, as image ls prints it.
type imageLine struct {
	Path    string    `json:"path"`
	Size    int64     `json:"size"` // in bytes
	SHA256  string    `json:"sha256"`
	Built   time.Time `json:"built"`
	Used    time.Time `json:"used"`
	Current bool      `json:"current"` // hutch run boots this one
}

// fileLine is a file of an image, as image ls FILE prints it.
type fileLine struct {
	Mode   string `json:"mode"`
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Size   int64  `json:"size"` // in bytes
	Name   string `json:"name"`
	Target string `json:"target,omitempty"` // of a symbolic link
}

func newImageLs() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "ls [FILE]",
		Aliases: []string{"list"},
		Short:   "List the images in the cache, or the files of one image",
		Long: `ls lists the images in the cache. The current one is what hutch run boots; the others are of other states of hutch's source, and go by themselves when
they have not been used for a week. With a FILE it lists what is in that image.`,
		Example: "  hutch image ls\n  hutch image ls --json\n  hutch image ls guest.cpio",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("image ls: give one file at most; got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return listFiles(args[0], asJSON)
			}
			return listImages(cmd.Context(), asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func listImages(ctx context.Context, asJSON bool) error {
	images, err := initramfs.Cached(ctx, initramfs.Options{})
	if err != nil {
		return err
	}
	lines := []imageLine{}
	rows := [][]string{{"CURRENT", "SIZE", "BUILT", "USED", "PATH"}}
	for _, img := range images {
		lines = append(lines, imageLine{img.Path, img.Size, img.SHA256, img.Built.UTC(), img.Used.UTC(), img.Current})
		mark := "-"
		if img.Current {
			mark = "current"
		}
		rows = append(rows, []string{mark, megabytes(img.Size), img.Built.Format(time.DateTime), img.Used.Format(time.DateTime), img.Path})
	}
	if asJSON {
		return printJSON(lines)
	}
	return table(rows)
}

// megabytes is a size for people.
func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func listFiles(path string, asJSON bool) error {
	a, err := initramfs.Open(path)
	if err != nil {
		return err
	}
	defer a.Close()
	lines := []fileLine{}
	rows := [][]string{{"MODE", "OWNER", "SIZE", "NAME"}}
	for _, e := range a.Entries() {
		lines = append(lines, fileLine{e.Mode.String(), e.UID, e.GID, e.Size, e.Name, e.Target})
		name := "/" + e.Name
		if e.Target != "" {
			name += " -> " + e.Target
		}
		rows = append(rows, []string{e.Mode.String(), fmt.Sprintf("%d:%d", e.UID, e.GID), fmt.Sprint(e.Size), name})
	}
	if asJSON {
		return printJSON(lines)
	}
	return table(rows)
}

func newImageBuild() *cobra.Command {
	var out string
	var pathOnly bool
	c := &cobra.Command{
		Use:   "build",
		Short: "Build the userland and the agent into the cache, or into a file to embed",
		Long: `build makes the initial file system with the Go toolchain and keeps it in the cache; when it is there already, it returns at once. It prints the
path, the size in bytes and the SHA-256 sum. The file that -o names boots on machines without a Go toolchain: with --initramfs, with HUTCH_INITRAMFS, or
embedded in a program.`,
		Example: `  hutch image build                 # into the cache
  hutch image build -o guest.cpio   # a copy, to embed with go:embed or to give to --initramfs`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out != "" { // the image takes a while: a folder that is not there is told first
				if _, err := os.Stat(filepath.Dir(out)); err != nil {
					return fmt.Errorf("--output: the file's folder: %w", err)
				}
				if info, err := os.Stat(out); err == nil && info.IsDir() {
					return fmt.Errorf("--output: %s is a folder: name a file in it, such as %s", out, filepath.Join(out, "guest.cpio"))
				}
			}
			var img *initramfs.Image
			err := interruptible(cmd, func(ctx context.Context) (err error) {
				img, err = initramfs.Base(ctx, initramfs.Options{Progress: toStderr})
				return err
			})
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
