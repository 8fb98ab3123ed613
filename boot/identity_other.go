//go:build !linux

package boot

import (
	"fmt"
	"os"
)

// fileIdentity is a text that changes whenever the content of a file may have changed.
func fileIdentity(info os.FileInfo) string {
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
}
