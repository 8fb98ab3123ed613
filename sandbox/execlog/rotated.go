package execlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// rotated is the name of the i-th file of the log at path, 0 the current one.
func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// rotations returns the numbers of the rotated files there are, in order.
func rotations(path string) []int {
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	var list []int
	for _, n := range names {
		if digits, is := strings.CutPrefix(n.Name(), filepath.Base(path)+"."); is {
			if i, err := strconv.Atoi(digits); err == nil && i > 0 && strconv.Itoa(i) == digits {
				list = append(list, i)
			}
		}
	}
	slices.Sort(list)
	return list
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// openRegular opens a file to read, and nothing that would wait for another process.
func openRegular(name string) (*os.File, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file (%v)", name, st.Mode().Type())
	}
	return os.Open(name)
}

// openNewer opens the files of the log at path, the oldest first; only those newer than mine, unless that is nil or not there any more.
//
// A writer may rotate meanwhile. Files only move to higher numbers, one at a time, and the search goes up as well: it passes none unseen, and tells
// by the file, not the name, what it has already. A file that begins after the search did is not looked for.
func openNewer(path string, mine os.FileInfo) (files []*os.File, found bool, err error) {
	var infos []os.FileInfo
	defer func() { slices.Reverse(files) }()
	for i := 0; i >= 0; i = following(path, i, err) {
		var f *os.File
		f, err = openRegular(rotated(path, i))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var info os.FileInfo
		if err == nil {
			if info, err = f.Stat(); err != nil {
				f.Close()
			}
		}
		if err != nil {
			closeAll(files)
			return nil, false, fmt.Errorf("execlog: %w", err)
		}
		same := func(other os.FileInfo) bool { return os.SameFile(info, other) }
		if mine != nil && same(mine) {
			f.Close()
			return files, true, nil
		}
		if slices.ContainsFunc(infos, same) {
			f.Close()
			continue
		}
		files, infos = append(files, f), append(infos, info)
	}
	return files, false, nil
}

// following returns the number to look at after i, or -1: behind one that is not there only those that the directory lists.
func following(path string, i int, err error) int {
	if err == nil {
		return i + 1
	}
	for _, next := range rotations(path) {
		if next > i {
			return next
		}
	}
	return -1
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
