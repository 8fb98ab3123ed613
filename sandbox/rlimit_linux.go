package sandbox

import "golang.org/x/sys/unix"

// addressSpace is RLIMIT_AS of this process in bytes.
func addressSpace() (limit uint64, limited bool) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &l); err != nil || l.Cur == unix.RLIM_INFINITY {
		return 0, false
	}
	return l.Cur, true
}
