//go:build amd64

package kvm

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// surroundings are what an explanation of a failure looks at besides the errno. Tests give others.
type surroundings struct {
	root   string                              // the folder that holds proc, sys and the marks of containers
	owner  func(path string) (ownership, bool) // of the device
	groups func() (current, future []int)      // of this process, and of this user's next login
	space  func() uint64                       // RLIMIT_AS in bytes
}

// here is where this process runs.
var here = surroundings{root: "/", owner: ownerOf, groups: groupsOfUser, space: addressSpace}

// ownership is who may open a file.
type ownership struct {
	user, group string
	gid         int
	mode        fs.FileMode
}

func (s surroundings) read(name string) string {
	b, err := os.ReadFile(filepath.Join(s.root, name))
	if err != nil {
		return ""
	}
	return string(b)
}

func (s surroundings) exists(name string) bool {
	_, err := os.Stat(filepath.Join(s.root, name))
	return err == nil
}

// vendorFlag is "vmx", "svm" or "".
func (s surroundings) vendorFlag() string { return parseVendorFlag(s.read("proc/cpuinfo")) }

// module is the KVM module of this processor, whether its flag shows or not.
func (s surroundings) module() string {
	info := s.read("proc/cpuinfo")
	switch {
	case parseVendorFlag(info) == "svm", strings.Contains(info, "AuthenticAMD"), strings.Contains(info, "HygonGenuine"):
		return "kvm_amd"
	default:
		return "kvm_intel"
	}
}

// inContainer looks for the marks that Docker, Podman and systemd-nspawn leave, and for the control groups of container runtimes.
func (s surroundings) inContainer() bool {
	for _, mark := range []string{".dockerenv", "run/.containerenv", "run/systemd/container"} {
		if s.exists(mark) {
			return true
		}
	}
	group := s.read("proc/1/cgroup")
	for _, runtime := range []string{"docker", "containerd", "kubepods", "libpod", "/lxc"} {
		if strings.Contains(group, runtime) {
			return true
		}
	}
	return false
}

// absentHint says why there is no device at path, and what makes it come.
func (s surroundings) absentHint(path string) string {
	flag, module := s.vendorFlag(), s.module()
	switch {
	case s.inContainer():
		hint := "this is a container that was not given the device: start it with --device " + path
		if flag == "" {
			hint += " (the processor shows neither vmx nor svm, so the host may not have it either)"
		}
		return hint
	case flag == "":
		return "the processor shows neither vmx nor svm: virtualisation off in firmware, or this VM has no nested virtualisation; " +
			"switch it on there, then run: sudo modprobe " + module
	case s.exists("sys/module/" + module):
		return fmt.Sprintf("the module %s is loaded, so something keeps the device from this process: if that is a container or a chroot, start it with --device %s",
			module, path)
	}
	return fmt.Sprintf("the processor can virtualise (%s): load the module with: sudo modprobe %s (if that is refused, switch virtualisation on in the firmware)",
		flag, module)
}

// permissionHint shows who may open the device, and how to become one of them.
func (s surroundings) permissionHint(path string, errno syscall.Errno) string {
	o, ok := s.owner(path)
	if !ok {
		return "let this user open it with: sudo setfacl -m u:$USER:rw " + path
	}
	who := fmt.Sprintf("it belongs to %s:%s with mode %04o", o.user, o.group, o.mode.Perm())
	acl := "sudo setfacl -m u:$USER:rw " + path
	current, future := s.groups()
	byGroup := o.gid != 0 && o.mode.Perm()&0o060 == 0o060
	switch {
	case s.inContainer() && errno == unix.EPERM:
		return who + ", and the container's rules for devices forbid it: start it with --device " + path
	case s.inContainer() && byGroup:
		return fmt.Sprintf("%s: start this container with --group-add %d, or run on the host: %s", who, o.gid, acl)
	case byGroup && !slices.Contains(current, o.gid) && slices.Contains(future, o.gid):
		return fmt.Sprintf("%s; this user has joined that group, but this login is older: log in again, or run: newgrp %s", who, o.group)
	case byGroup:
		return fmt.Sprintf("%s: join that group with: sudo usermod -aG %s $USER (then log in again), or until the next boot: %s", who, o.group, acl)
	}
	return fmt.Sprintf("%s: until the next boot: %s; or for a group: sudo chown root:kvm %s && sudo chmod 0660 %s && sudo usermod -aG kvm $USER (then log in again)",
		who, acl, path, path)
}

// memoryHint names the limit that an ENOMEM may come from.
func (s surroundings) memoryHint() string {
	var limits []string
	if n := s.space(); n != math.MaxUint64 {
		limits = append(limits, fmt.Sprintf("the address space of this process is limited to %d MiB (RLIMIT_AS): raise it with: ulimit -v unlimited", n>>20))
	}
	if path, most, used, ok := s.cgroupMemory(); ok {
		limits = append(limits, fmt.Sprintf("the control group %s may use %d MiB and uses %d MiB: raise its memory.max, or give the container more with --memory",
			path, most>>20, used>>20))
	}
	if limits == nil {
		return "the host has no memory left for it (neither RLIMIT_AS nor a control group of version 2 limits this process): see: free -m"
	}
	return strings.Join(limits, "; ")
}

// cgroupMemory returns the tightest memory limit among this process's control group and those above it. Source: cgroup-v2.rst, "Memory
// Interface Files".
func (s surroundings) cgroupMemory() (group string, limit, used int64, ok bool) {
	_, own, found := strings.Cut(s.read("proc/self/cgroup"), "0::")
	if !found {
		return "", 0, 0, false
	}
	own, _, _ = strings.Cut(own, "\n")
	number := func(group, file string) (int64, bool) {
		n, err := strconv.ParseInt(strings.TrimSpace(s.read(filepath.Join("sys/fs/cgroup", group, file))), 10, 64)
		return n, err == nil // "max" is no limit
	}
	for g := filepath.Clean("/" + own); ; g = filepath.Dir(g) {
		if n, is := number(g, "memory.max"); is && (!ok || n < limit) {
			group, limit, ok = g, n, true
			used, _ = number(g, "memory.current")
		}
		if g == "/" {
			return group, limit, used, ok
		}
	}
}

func ownerOf(path string) (ownership, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return ownership{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ownership{}, false
	}
	return ownership{userName(st.Uid), groupName(st.Gid), int(st.Gid), info.Mode()}, true
}

func userName(id uint32) string {
	if u, err := user.LookupId(fmt.Sprint(id)); err == nil {
		return u.Username
	}
	return fmt.Sprint(id)
}

func groupName(id uint32) string {
	if g, err := user.LookupGroupId(fmt.Sprint(id)); err == nil {
		return g.Name
	}
	return fmt.Sprint(id)
}

// groupsOfUser returns the groups of this process, and those that the user database gives its user.
func groupsOfUser() (current, future []int) {
	if groups, err := os.Getgroups(); err == nil {
		current = append(groups, os.Getegid())
	}
	u, err := user.Current()
	if err != nil {
		return current, nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return current, nil
	}
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil {
			future = append(future, n)
		}
	}
	return current, future
}

func addressSpace() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &l); err != nil {
		return math.MaxUint64
	}
	return l.Cur
}

// VendorFlag returns the processor's virtualisation flag as /proc/cpuinfo shows it: "vmx", "svm", or "" for none. A KVM with the flag has
// hardware behind it; without it only Probe can tell.
func VendorFlag() string { return here.vendorFlag() }

func parseVendorFlag(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, f := range strings.Fields(value) {
			if f == "vmx" || f == "svm" {
				return f
			}
		}
		return "" // all processors of a machine show the same
	}
	return ""
}
