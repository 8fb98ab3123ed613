package debpkg

import (
	"strconv"
	"strings"
)

// planned is one package that the simulator would unpack.
type planned struct {
	Name, Version, Arch string
	Upgrade             bool // another version is installed on the system
}

// spec is how apt-get download is told to fetch exactly this package.
func (p planned) spec() string { return p.Name + "=" + p.Version }

// parseSimulation reads the Inst lines of apt-get -s install:
//
//	Inst NAME [OLD] (NEW ORIGIN… [ARCH]) [BROKEN…]
//
// Other lines are skipped; a malformed Inst line is skipped as well, since the download would miss it loudly.
func parseSimulation(out string) []planned {
	var list []planned
	for line := range strings.Lines(out) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "Inst ")
		if !ok {
			continue
		}
		name, rest, ok := strings.Cut(rest, " ")
		if !ok {
			continue
		}
		before, inside, ok := strings.Cut(rest, "(")
		if !ok {
			continue
		}
		inside, _, ok = strings.Cut(inside, ")")
		version, tail, _ := strings.Cut(inside, " ")
		if !ok || name == "" || version == "" {
			continue
		}
		p := planned{Name: name, Version: version, Upgrade: strings.Contains(before, "[")}
		if i := strings.LastIndexByte(tail, '['); i >= 0 {
			p.Arch = strings.TrimSuffix(tail[i+1:], "]")
		}
		list = append(list, p)
	}
	return list
}

// control is the part of a package's control stanza that resolving needs.
type control struct {
	Name, Version, Arch string
	Bytes               uint64   // Size, of the package file; 0 when absent
	SizeKiB             int      // Installed-Size; 0 when absent
	Depends             []string // names only; an alternative counts by its first name
}

// parseControl reads the first stanza of apt-cache show's output. ok is false when it holds no package.
func parseControl(out string) (c control, ok bool) {
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			if c.Name != "" {
				break
			}
			continue
		}
		key, value, found := strings.Cut(line, ":")
		if !found || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			c.Name = value
		case "Version":
			c.Version = value
		case "Architecture":
			c.Arch = value
		case "Size":
			c.Bytes, _ = strconv.ParseUint(value, 10, 48) // an odd value means "unknown"
		case "Installed-Size":
			c.SizeKiB, _ = strconv.Atoi(value) // an odd value means "unknown"
		case "Depends":
			c.Depends = dependencyNames(value)
		}
	}
	return c, c.Name != "" && c.Version != ""
}

// dependencyNames turns "a (= 1), b | c, d:any" into a, b, d.
func dependencyNames(value string) []string {
	var names []string
	for part := range strings.SplitSeq(value, ",") {
		part, _, _ = strings.Cut(part, "|")
		part, _, _ = strings.Cut(strings.TrimSpace(part), " ")
		part, _, _ = strings.Cut(part, ":")
		if part != "" {
			names = append(names, part)
		}
	}
	return names
}

// metaMaxKiB bounds the installed size of a package that is taken for a pointer to another one: a changelog and a copyright file.
const metaMaxKiB = 64

// metaTarget returns the package that c merely points to: linux-image-cloud-amd64 depends on exactly the current
// linux-image-VERSION-cloud-amd64 and holds nothing itself.
func (c control) metaTarget() (string, bool) {
	if len(c.Depends) != 1 || c.SizeKiB == 0 || c.SizeKiB > metaMaxKiB {
		return "", false
	}
	return c.Depends[0], true
}

// fileName is the name under which the package is kept; a version's epoch colon is escaped as dpkg does.
func (c control) fileName() string {
	return c.Name + "_" + strings.ReplaceAll(c.Version, ":", "%3a") + "_" + c.Arch + ".deb"
}

// validName reports whether s may be a package name (Debian Policy 5.6.7), so that an argument is never taken for an option.
func validName(s string) bool {
	if len(s) < 2 {
		return false
	}
	for i, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		case i > 0 && (r == '+' || r == '-' || r == '.'):
		default:
			return false
		}
	}
	return true
}
