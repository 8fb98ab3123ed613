package vsock

import (
	"fmt"
	"syscall"
)

// Errors, always found inside a *net.OpError. Closed connections, listeners and
// devices give net.ErrClosed, passed deadlines os.ErrDeadlineExceeded, the end
// of the guest's data a bare io.EOF.
var (
	// ErrReset: the connection ended before the guest finished it: the guest
	// sent RST, reset its device, or violated the protocol (then the error is a
	// *ProtocolError, which Is ErrReset). Also Is syscall.ECONNRESET.
	ErrReset error = &netError{"connection reset by the guest", syscall.ECONNRESET}

	// ErrRefused: nobody listens on the guest's port, or its backlog is full.
	// Also Is syscall.ECONNREFUSED.
	ErrRefused error = &netError{"connection refused by the guest: does anything listen on this port?", syscall.ECONNREFUSED}

	// ErrNotReady: the guest's driver has not started the device (yet, or since
	// its last reset). Also Is syscall.ENETDOWN.
	ErrNotReady error = &netError{"the guest has not started its vsock driver", syscall.ENETDOWN}

	// ErrConnectTimeout: the guest did not answer within Config.ConnectTimeout.
	// Also Is syscall.ETIMEDOUT; Timeout() is true.
	ErrConnectTimeout error = &netError{"the guest did not answer the connection request", syscall.ETIMEDOUT}

	// ErrTooManyConns: Config.MaxConns or MaxBuffer is reached. Also Is
	// syscall.ENOBUFS.
	ErrTooManyConns error = &netError{"too many connections: close some or raise Config.MaxConns and Config.MaxBuffer", syscall.ENOBUFS}

	// ErrPortInUse: the host port has a listener. Also Is syscall.EADDRINUSE.
	ErrPortInUse error = &netError{"host port is in use by another listener", syscall.EADDRINUSE}

	// ErrBrokenPipe: this side called CloseWrite, or the guest will receive no
	// more. Also Is syscall.EPIPE.
	ErrBrokenPipe error = &netError{"broken pipe: no more data can be sent on this connection", syscall.EPIPE}
)

// netError is a sentinel that also is the errno a kernel socket would give.
type netError struct {
	msg   string
	errno syscall.Errno
}

func (e *netError) Error() string        { return "vsock: " + e.msg }
func (e *netError) Is(target error) bool { return target == e.errno }

// Timeout implements net.Error.
func (e *netError) Timeout() bool { return e.errno == syscall.ETIMEDOUT }

// Temporary implements net.Error.
func (e *netError) Temporary() bool { return e.Timeout() }

// ProtocolError says how the guest broke the protocol on a connection, which is
// reset for it. It Is ErrReset.
type ProtocolError struct{ Fault string }

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("vsock: connection reset, because the guest %s", e.Fault)
}

// Is makes errors.Is(err, ErrReset) and errors.Is(err, syscall.ECONNRESET) hold.
func (e *ProtocolError) Is(target error) bool {
	return target == ErrReset || target == syscall.ECONNRESET
}
