package agent

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount is one line of the table of what process 1 mounts.
type mount struct {
	fstype string
	target string // below machine.root
	flags  uintptr
	data   string
	mode   os.FileMode // of the directory, made if it does not exist
	must   bool        // a failure is reported; otherwise the kernel may lack it
}

// mounts is in order: a line may need the ones before it.
var mounts = []mount{
	{"devtmpfs", "dev", unix.MS_NOSUID, "mode=0755", 0o755, true},
	{"proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", 0o555, true},
	{"sysfs", "sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", 0o555, true},
	{"devpts", "dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666", 0o755, true},
	{"tmpfs", "dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", 0o1777, true},
	{"tmpfs", "tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", 0o1777, true},
	{"tmpfs", "run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", 0o755, true},
	{"cgroup2", "sys/fs/cgroup", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate", 0o755, false},
}

// mountAll mounts the table. A file system that is mounted already (the kernel
// does it for devtmpfs) is left as it is.
func (m *machine) mountAll() {
	for _, t := range mounts {
		dir := filepath.Join(m.root, t.target)
		if err := os.MkdirAll(dir, t.mode); err != nil && t.must {
			m.warn("%s: %v", t.fstype, err)
			continue
		}
		err := unix.Mount(t.fstype, dir, t.fstype, t.flags, t.data)
		if errors.Is(err, unix.EINVAL) && t.data != "" {
			err = unix.Mount(t.fstype, dir, t.fstype, t.flags, "") // an option that this kernel lacks
		}
		if err != nil && t.must && !errors.Is(err, unix.EBUSY) {
			m.warn("mount %s on %s: %v", t.fstype, dir, err)
		}
	}
}
