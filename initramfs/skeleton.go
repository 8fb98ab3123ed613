package initramfs

// skeletonDirs are the directories of the base image and their permissions.
var skeletonDirs = map[string]uint32{
	"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "home/user": 0o755, "lib": 0o755, "lib/hutch": 0o755, "lib/hutch/modules": 0o755,
	"mnt": 0o755, "opt": 0o755, "proc": 0o555, "root": 0o700, "run": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/lib": 0o755,
	"usr/share": 0o755, "var": 0o755, "var/lib": 0o755, "var/log": 0o755, "var/tmp": 0o1777,
}

// skeletonLinks make the usual absolute paths of commands (#!/usr/bin/env, /sbin/ip) work.
var skeletonLinks = map[string]string{
	"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin", "var/run": "../run", "etc/mtab": "../proc/self/mounts",
}

// userID is the ordinary account of the guest.
const userID = 1000

// skeletonFiles are the files of /etc. A root image of one's own replaces them, so they hold what programs look up and no more.
var skeletonFiles = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n" +
		"user:x:1000:1000:user:/home/user:/bin/sh\n" +
		"nobody:x:65534:65534:nobody:/:/bin/false\n",
	"etc/group":         "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
	"etc/hosts":         "127.0.0.1\tlocalhost hutch\n::1\tlocalhost\n",
	"etc/hostname":      "hutch\n",
	"etc/shells":        "/bin/sh\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"etc/os-release":    "ID=hutch\nNAME=hutch\nPRETTY_NAME=\"hutch guest\"\n",
	"etc/profile":       "export PATH=\"${PATH:-/bin}\"\nexport HOME=\"${HOME:-/root}\"\nexport TERM=\"${TERM:-linux}\"\n",
}

// skeleton returns the records every base image has, besides /init and the commands. /dev/console and /dev/null are there because the kernel
// opens the first before /init runs, and programs may need the second before devtmpfs is mounted.
func skeleton() map[string]record {
	records := map[string]record{
		"dev/console": {name: "dev/console", mode: typeChar | 0o600, major: 5, minor: 1},
		"dev/null":    {name: "dev/null", mode: typeChar | 0o666, major: 1, minor: 3},
	}
	for name, mode := range skeletonDirs {
		rec := record{name: name, mode: typeDir | mode}
		if name == "home/user" {
			rec.uid, rec.gid = userID, userID
		}
		records[name] = rec
	}
	for name, target := range skeletonLinks {
		records[name] = record{name: name, mode: typeSymlink | 0o777, data: []byte(target)}
	}
	for name, text := range skeletonFiles {
		records[name] = record{name: name, mode: typeRegular | 0o644, data: []byte(text)}
	}
	return records
}
