package execlog

import (
	"bytes"
	"cmp"
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
	s := search{path: path, mine: mine}
	for i := 0; i >= 0 && !s.found; {
		err := s.look(i)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			closeAll(s.files)
			return nil, false, fmt.Errorf("execlog: %w", err)
		}
		i = following(path, i, err)
	}
	slices.Reverse(s.files)
	if s.overtaken() {
		sortFiles(s.files)
	}
	return s.files, s.found, nil
}

// search is the work of openNewer.
type search struct {
	path  string
	mine  os.FileInfo
	found bool // mine
	files []*os.File
	infos []os.FileInfo
	first int // the number of the first of files
}

// look opens the file of a number, unless it is known.
func (s *search) look(i int) error {
	f, err := openRegular(rotated(s.path, i))
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	same := func(other os.FileInfo) bool { return os.SameFile(info, other) }
	s.found = s.mine != nil && same(s.mine)
	if s.found || slices.ContainsFunc(s.infos, same) {
		f.Close()
		return nil
	}
	if len(s.files) == 0 {
		s.first = i
	}
	s.files, s.infos = append(s.files, f), append(s.infos, info)
	return nil
}

// overtaken says whether there were so many rotations that a file newer than the first one may have been found behind it. That takes two.
func (s *search) overtaken() bool {
	if len(s.files) < 2 {
		return false
	}
	for i := s.first; i <= s.first+1; i++ {
		if now, err := os.Stat(rotated(s.path, i)); err == nil && os.SameFile(now, s.infos[0]) {
			return false
		}
	}
	return true
}

// sortFiles sorts files by the number of their first entry.
func sortFiles(files []*os.File) {
	first := make(map[*os.File]uint64)
	buf := make([]byte, maxLine)
	for _, f := range files {
		n, _ := f.ReadAt(buf, 0) // an error comes again when the file is read
		for b := range bytes.Lines(buf[:n]) {
			if e, err := decodeLine(bytes.TrimSuffix(b, []byte("\n"))); err == nil {
				first[f] = e.Seq
				break
			}
		}
	}
	slices.SortStableFunc(files, func(a, b *os.File) int { return cmp.Compare(first[a], first[b]) })
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
