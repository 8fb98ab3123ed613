package agent

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// may reports whether id has the permission bits want (1 = search or execute)
// on st. The start itself is what decides; this says which step was refused, and
// which of the files in PATH a user can run.
func (id *identity) may(st *unix.Stat_t, want uint32) bool {
	mode := st.Mode & 0o777
	switch {
	case id.uid == 0:
		return want&1 == 0 || mode&0o111 != 0 || st.Mode&unix.S_IFMT == unix.S_IFDIR
	case st.Uid == id.uid:
		return mode>>6&want == want
	case id.in(st.Gid):
		return mode>>3&want == want
	}
	return mode&want == want
}

// checkDir says why id cannot chdir to dir, nil if it can.
func checkDir(dir string, id *identity) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	return id.reach(dir)
}

// reach checks the search permission of each directory of the path, symbolic
// links resolved.
func (id *identity) reach(dir string) error {
	if !id.switches() {
		return unix.Access(dir, unix.X_OK)
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return err
		}
		if !id.may(&st, 1) {
			return unix.EACCES
		}
		up := filepath.Dir(dir)
		if up == dir || !filepath.IsAbs(dir) {
			return nil
		}
		dir = up
	}
}

// executable says why id cannot execute path, nil if it can.
func executable(path string, id *identity) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !id.may(&st, 1) {
		return unix.EACCES
	}
	return id.reach(filepath.Dir(path))
}

// lookPath finds the executable as execvp does: a name with a slash is a path,
// from dir on; another one is the first executable file in PATH. A file that is
// there but cannot be executed is EACCES only if PATH has no better one.
func lookPath(name, dir, path string, id *identity) (string, *channel.StartFailure) {
	abs := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	if strings.Contains(name, "/") {
		if err := executable(abs(name), id); err != nil {
			return "", notRunnable(name, err)
		}
		return name, nil
	}
	var found error
	var where string
	for _, d := range filepath.SplitList(path) {
		p := abs(filepath.Join(d, name))
		err := executable(p, id)
		if err == nil {
			return p, nil
		}
		if found == nil && !os.IsNotExist(err) && err != unix.ENOTDIR {
			found, where = err, p
		}
	}
	if found != nil {
		return "", notRunnable(where, found)
	}
	return "", &channel.StartFailure{Stage: channel.StageLookup, Errno: channel.ENOENT, Path: name, Bare: true}
}

// notRunnable is a lookup failure. execve says EACCES for a directory.
func notRunnable(path string, err error) *channel.StartFailure {
	f := failure(channel.StageLookup, path, err)
	if err == unix.EISDIR {
		f.Errno, f.Msg = channel.EACCES, "is a directory"
	}
	return f
}
