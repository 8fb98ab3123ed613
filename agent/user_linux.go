package agent

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// identity is who an exec runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	name     string // empty for a number without an entry
	home     string
}

// switches reports whether the identity is not the agent's own.
func (id *identity) switches() bool {
	return id.uid != uint32(os.Geteuid()) || id.gid != uint32(os.Getegid()) || len(id.groups) > 0
}

func (id *identity) in(gid uint32) bool { return gid == id.gid || slices.Contains(id.groups, gid) }

func (id *identity) credential() *syscall.Credential {
	return &syscall.Credential{Uid: id.uid, Gid: id.gid, Groups: id.groups}
}

// lookupUser resolves "name", "uid", "name:group" or "uid:gid" with the passwd
// and group files in etc. The empty string is the agent's own user. Only the two
// files are read: the agent is static, and a guest's NSS modules are not its.
func lookupUser(etc, spec string) (*identity, error) {
	if spec == "" {
		id := &identity{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), home: "/"}
		id.entry(etc, strconv.Itoa(os.Geteuid()))
		id.gid = uint32(os.Getegid())
		return id, nil
	}
	user, group, hasGroup := strings.Cut(spec, ":")
	id := &identity{home: "/"}
	if !id.entry(etc, user) {
		n, err := strconv.ParseUint(user, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("unknown user: no entry in /etc/passwd")
		}
		id.uid = uint32(n)
	}
	if hasGroup {
		gid, ok := findGroup(etc, group)
		if !ok {
			return nil, fmt.Errorf("unknown group %q: no entry in /etc/group", group)
		}
		id.gid = gid
		return id, nil
	}
	if id.name != "" {
		id.groups = memberships(etc, id.name)
	}
	return id, nil
}

// entry fills in the passwd entry of a name or number. root exists without one.
func (id *identity) entry(etc, user string) bool {
	found := false
	_ = eachLine(filepath.Join(etc, "passwd"), 7, func(f []string) bool {
		if f[0] != user && f[2] != user {
			return true
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			return true
		}
		id.uid, id.gid, id.name, id.home = uint32(uid), uint32(gid), f[0], f[5]
		found = true
		return false
	})
	if !found && (user == "root" || user == "0") {
		*id = identity{name: "root", home: "/root"}
		found = true
	}
	if id.home == "" {
		id.home = "/"
	}
	return found
}

func findGroup(etc, group string) (gid uint32, ok bool) {
	_ = eachLine(filepath.Join(etc, "group"), 4, func(f []string) bool {
		if f[0] == group {
			if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				gid, ok = uint32(n), true
			}
		}
		return !ok
	})
	if ok {
		return gid, true
	}
	if group == "root" {
		return 0, true
	}
	n, err := strconv.ParseUint(group, 10, 32)
	return uint32(n), err == nil
}

// memberships are the supplementary groups of a user.
func memberships(etc, user string) (gids []uint32) {
	_ = eachLine(filepath.Join(etc, "group"), 4, func(f []string) bool {
		if slices.Contains(strings.Split(f[3], ","), user) {
			if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				gids = append(gids, uint32(n))
			}
		}
		return true
	})
	return gids
}

// eachLine calls fn with the fields of each line that has at least n, until fn
// returns false.
func eachLine(path string, n int, fn func(fields []string) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Split(sc.Text(), ":")
		if len(fields) >= n && !fn(fields) {
			return nil
		}
	}
	return sc.Err()
}
