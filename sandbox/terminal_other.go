//go:build !linux

package sandbox

import "io"

// terminal has no implementation here: sandboxes need Linux.
type terminal struct{ sizes chan WinSize }

func openTerminal() (*terminal, error) {
	return nil, &TerminalError{Op: "standard input", Err: ErrUnsupported}
}

func (t *terminal) Read([]byte) (int, error) { return 0, io.EOF }
func (t *terminal) out() io.Writer           { return io.Discard }
func (t *terminal) size() WinSize            { return WinSize{} }
func (t *terminal) enterRaw() error          { return nil }
func (t *terminal) close()                   {}
