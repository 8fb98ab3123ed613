package boot

import (
	"io/fs"
	"os"
	"path"
	"strings"
)

// Of a package's modules only those that hutch may load are unpacked, with what they depend on: a generic kernel has four thousand modules in
// 400 MB, of which these are some thirty in 6 MB. The names of the others are kept, so that an error can tell "not unpacked" from "not there".

// keptDependencies are modules that those of moduleConfig depend on in some distribution's kernel. Naming them saves reading the package
// a second time; one that is not named is found by its dependants.
var keptDependencies = []string{
	"crc16", "crc32c_generic", "dax", "failover", "fscache", "jbd2", "libcrc32c", "libnvdimm", "mbcache", "nd_virtio", "net_failover", "netfs",
}

// maxUnpackPasses bounds how often a package is read for the sake of dependencies.
const maxUnpackPasses = 8

// moduleSelection is which modules of a package are unpacked.
type moduleSelection struct {
	wanted map[string]bool     // by name
	listed map[string][]string // release → files of all modules, as paths below lib/modules/RELEASE
	added  []string            // what the latest pass wrote, as paths in the folder
}

func newModuleSelection() *moduleSelection {
	s := &moduleSelection{wanted: map[string]bool{}, listed: map[string][]string{}}
	for name := range moduleConfig {
		s.wanted[name] = true
	}
	for _, name := range keptDependencies {
		s.wanted[name] = true
	}
	return s
}

// moduleFile splits the path of a module's file in a package. ok is false when it is none.
func moduleFile(name string) (release, file string, ok bool) {
	rest, inTree := strings.CutPrefix(name, "lib/modules/")
	release, file, below := strings.Cut(rest, "/")
	return release, file, inTree && below && moduleName(path.Base(file)) != ""
}

// missing enters the dependencies of what the latest pass wrote, and returns those that the package has and that are not there yet: the next
// pass's. A file that is no module has no dependencies; who loads it is told.
func (s *moduleSelection) missing(root *os.Root) map[string]bool {
	there := map[string]bool{}
	for _, files := range s.listed {
		for _, f := range files {
			there[moduleName(path.Base(f))] = true
		}
	}
	next := map[string]bool{}
	for _, f := range s.added {
		for _, d := range dependenciesOf(root.FS(), f) {
			if there[d] && !s.wanted[d] {
				s.wanted[d] = true
				next[d] = true
			}
		}
	}
	s.added = nil
	return next
}

func dependenciesOf(tree fs.FS, file string) []string {
	data, err := readModule(tree, file)
	if err != nil {
		return nil
	}
	info, err := parseModinfo(data)
	if err != nil {
		return nil
	}
	return append(info.depends, info.softPre...)
}
