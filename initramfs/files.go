package initramfs

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A File is one entry of an extra archive.
type File struct {
	// Name is the path in the guest, with or without a leading slash. It must be clean: no "..", no empty element, at most 4,095 bytes.
	Name string
	// Mode holds the permission bits, set-uid, set-gid and sticky, and fs.ModeDir or fs.ModeSymlink for these types. No other type is
	// possible. Permission zero means 0755 for directories and 0644 for files; symbolic links have 0777.
	Mode fs.FileMode
	// Data is the content of a regular file or the target of a symbolic link; it must be empty for a directory.
	Data []byte
	// UID and GID own the file; zero is root.
	UID, GID uint32
}

// Files returns a newc archive of files, ready to stand behind another one (its length is a multiple of four).
//
// Directories that files need and that are not in the list are added with mode 0755, so that an archive also works alone; in a concatenation
// they change the mode of an earlier directory, which is why the well-known ones (tmp, root, dev, …) get the mode they have in the base
// image. The result depends only on the set of files, not on their order. An empty list gives a valid empty archive.
//
// Errors: ErrInvalidFile, naming the file. Safe for concurrent use.
func Files(files []File) ([]byte, error) {
	records := map[string]record{}
	for _, f := range files {
		rec, err := fileRecord(f)
		if err != nil {
			return nil, err
		}
		if _, twice := records[rec.name]; twice {
			return nil, fmt.Errorf("%w: %q: given twice", ErrInvalidFile, f.Name)
		}
		records[rec.name] = rec
	}
	if err := addParents(records); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := writeSorted(&writer{w: &out}, records); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func fileRecord(f File) (record, error) {
	bad := func(reason string) (record, error) {
		return record{}, fmt.Errorf("%w: %q: %s", ErrInvalidFile, f.Name, reason)
	}
	name := strings.TrimPrefix(f.Name, "/")
	if name == "" || name == "." || path.Clean(name) != name || strings.HasPrefix(name, "../") || name == ".." || strings.HasPrefix(name, "/") {
		return bad("the name is not a clean path below /")
	}
	if strings.ContainsRune(name, 0) || len(name) >= maxName || name == trailer {
		return bad("the format cannot hold this name")
	}
	rec := record{name: name, uid: f.UID, gid: f.GID, data: f.Data, mode: uint32(f.Mode.Perm())}
	for bit, unix := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if f.Mode&bit != 0 {
			rec.mode |= unix
		}
	}
	switch f.Mode.Type() {
	case 0:
		if rec.mode == 0 {
			rec.mode = 0o644
		}
		rec.mode |= typeRegular
	case fs.ModeDir:
		if len(f.Data) != 0 {
			return bad("a directory has no data")
		}
		if rec.mode == 0 {
			rec.mode = 0o755
		}
		rec.mode |= typeDir
	case fs.ModeSymlink:
		if len(f.Data) == 0 || len(f.Data) >= maxName || bytes.IndexByte(f.Data, 0) >= 0 {
			return bad("the target of a symbolic link is 1 to 4,095 bytes without NUL")
		}
		rec.mode = typeSymlink | 0o777
	default:
		return bad("only regular files, directories and symbolic links can be added, not " + f.Mode.Type().String())
	}
	return rec, nil
}

// addParents adds the directories that entries lie in. An entry below something that is no directory is an error: the kernel would drop it.
func addParents(records map[string]record) error {
	for name := range records {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			rec, ok := records[dir]
			if ok && rec.mode&typeMask != typeDir {
				return fmt.Errorf("%w: %q: %q is given too and is no directory", ErrInvalidFile, name, dir)
			}
			if ok {
				break
			}
			records[dir] = record{name: dir, mode: typeDir | dirMode(dir)}
		}
	}
	return nil
}

// dirMode is the permission of a directory that nobody spelled out.
func dirMode(dir string) uint32 {
	if mode, ok := skeletonDirs[dir]; ok {
		return mode
	}
	return 0o755
}

// writeSorted writes all records and the trailer. Byte order puts a directory before what is in it.
func writeSorted(w *writer, records map[string]record) error {
	names := make([]string, 0, len(records))
	for name := range records {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.record(records[name]); err != nil {
			return err
		}
	}
	return w.close()
}
