package boot

import (
	"fmt"
	"os"
	"syscall"
)

// fileIdentity is a text that changes whenever the content of a file may have changed. The change time and the inode catch a replacement
// that keeps size and modification time.
func fileIdentity(info os.FileInfo) string {
	s := fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s += fmt.Sprintf(" %d %d %d", st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
	}
	return s
}
