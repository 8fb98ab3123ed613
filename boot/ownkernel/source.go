package ownkernel

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/therootcompany/xz"
)

// sourcePackage is the distribution's source of the kernel line that the configuration is written for.
const sourcePackage = "linux-source-6.12"

// Parts of the source that are large and take no part in the build. Only code in them is left out: makefiles, Kconfig files and fragments of
// either are read, or included from elsewhere, even when nothing is compiled.
var unusedFolders = []string{
	"Documentation/", "drivers/gpu/", "drivers/infiniband/", "drivers/media/", "drivers/net/ethernet/", "drivers/net/wireless/", "drivers/scsi/",
	"drivers/staging/", "sound/", "fs/btrfs/", "fs/xfs/", "fs/ocfs2/", "tools/testing/", "tools/perf/",
}

// sourceArch is the folder below arch of an architecture of Go.
var sourceArch = map[string]string{"amd64": "x86"}

// wanted reports whether a file of the source, named below its top folder, is needed.
func wanted(name string) bool {
	unused := slices.ContainsFunc(unusedFolders, func(dir string) bool { return strings.HasPrefix(name, dir) })
	if rest, ok := strings.CutPrefix(name, "arch/"); ok {
		dir, _, inside := strings.Cut(rest, "/")
		unused = inside && dir != sourceArch[runtime.GOARCH]
	}
	if !unused {
		return true
	}
	switch path.Ext(name) {
	case ".c", ".h", ".S", ".dts", ".dtsi", ".dtso", ".json", ".sh", ".py", ".rst", ".yaml", ".txt", ".svg":
		return false
	}
	return true
}

// unpackDeb writes the kernel source inside a source package into dir.
func unpackDeb(ctx context.Context, deb, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return err
	}
	defer cmd.Wait()
	defer cancel() // before Wait: the rest of the package is of no interest
	for t := tar.NewReader(bufio.NewReaderSize(out, 1<<20)); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %s holds no linux-source-*.tar.xz", ErrSource, deb)
		}
		if err != nil {
			return err
		}
		if name := path.Base(h.Name); strings.HasPrefix(name, "linux-source-") && strings.HasSuffix(name, ".tar.xz") {
			return unpackXZ(ctx, t, dir)
		}
	}
}

// unpackXZ writes the needed part of a compressed source archive into dir. The xz program is used where there is one: it is several times
// faster than the decoder in Go.
func unpackXZ(ctx context.Context, in io.Reader, dir string) error {
	program, err := exec.LookPath("xz")
	if err != nil {
		r, err := xz.NewReader(bufio.NewReaderSize(in, 1<<20), 0)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		return unpackTar(ctx, r, dir)
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, program, "-dc")
	cmd.Stdin = in
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return err
	}
	err = unpackTar(ctx, bufio.NewReaderSize(out, 1<<20), dir)
	if err != nil {
		cancel()
	}
	waitErr := cmd.Wait()
	cancel()
	return errors.Join(err, waitErr)
}

// unpackTar writes the needed entries of a source archive into dir, without their top folder. It stops with an error at names that lead out
// of dir; os.Root makes sure that links do not either.
func unpackTar(ctx context.Context, in io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	made := map[string]bool{".": true}
	buf := make([]byte, 1<<20)
	found := false
	for t := tar.NewReader(in); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		_, name, ok := strings.Cut(path.Clean(h.Name), "/")
		if !ok || !wanted(name) || h.Typeflag == tar.TypeDir {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%w: entry %q leads out of the archive", ErrSource, h.Name)
		}
		found = found || name == "Makefile"
		if parent := path.Dir(name); !made[parent] {
			if err := root.MkdirAll(parent, 0o755); err != nil {
				return err
			}
			made[parent] = true
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if err := writeFile(root, name, h.FileInfo().Mode().Perm()|0o200, t, buf); err != nil {
				return err
			}
		case tar.TypeSymlink:
			if err := root.Symlink(h.Linkname, name); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("%w: the archive has no top Makefile", ErrSource)
	}
	return nil
}

func writeFile(root *os.Root, name string, mode os.FileMode, in io.Reader, buf []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, in, buf)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
