package sandbox

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// eventFD is a kernel counter that KVM writes to (ioeventfd) or reads from (irqfd).
type eventFD struct {
	file *os.File // keeps the descriptor open for as long as anyone may use its number
	fd   int
}

func newEventFD() (*eventFD, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &eventFD{file: os.NewFile(uintptr(fd), "eventfd"), fd: fd}, nil
}

var eventOne = binary.NativeEndian.AppendUint64(nil, 1)

// signal adds one to the counter. A counter that is full has been signalled already.
func (e *eventFD) signal() error {
	for {
		_, err := unix.Write(e.fd, eventOne)
		switch err {
		case nil, unix.EAGAIN:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("eventfd write: %w", err)
		}
	}
}

// drain sets the counter to zero.
func (e *eventFD) drain() {
	var buf [8]byte
	for {
		if _, err := unix.Read(e.fd, buf[:]); err != unix.EINTR {
			return
		}
	}
}

func (e *eventFD) close() error { return e.file.Close() }
