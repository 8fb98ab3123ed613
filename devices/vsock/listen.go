package vsock

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

// Listen opens a host port for connections from the guest. Port 2^32-1 is
// reserved. The port stays open across resets of the device.
// Errors: *net.OpError with ErrPortInUse or net.ErrClosed.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, &net.OpError{Op: opListen, Net: network, Addr: Addr{HostCID, port}, Err: err}
	}
	if port == 1<<32-1 {
		return fail(errors.New("vsock: port 4294967295 is reserved (VMADDR_PORT_ANY)"))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fail(net.ErrClosed)
	}
	b, err := d.mux.listenOn(port)
	if err != nil {
		return fail(err)
	}
	return &Listener{d: d, b: b}, nil
}

// Listener accepts connections from the guest on one host port.
//
// Concurrency: all methods are safe for any number of goroutines.
type Listener struct {
	d        *Device
	b        *backlog
	deadline deadline
}

// Accept implements net.Listener; the net.Conn is a *Conn. The guest's connect
// succeeded when its request arrived, as with a kernel's backlog.
// Errors: *net.OpError with net.ErrClosed or os.ErrDeadlineExceeded.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		ep, err := l.take()
		if err != nil {
			return nil, &net.OpError{Op: opAccept, Net: network, Addr: l.Addr(), Err: err}
		}
		if ep != nil {
			return newConn(l.d, ep), nil
		}
		<-l.b.ready
	}
}

// take returns the oldest connection, or nil: wait. It passes the token on to
// the next accepter, since one token may stand for several connections.
func (l *Listener) take() (*endpoint, error) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.b.closed {
		wake(l.b.ready)
		return nil, net.ErrClosed
	}
	if l.deadline.passed() {
		wake(l.b.ready)
		return nil, os.ErrDeadlineExceeded
	}
	ep := l.d.mux.takeBacklog(l.b)
	if len(l.b.queue) > 0 {
		wake(l.b.ready)
	}
	return ep, nil
}

// Close implements net.Listener: blocked Accepts return net.ErrClosed, and
// connections that nobody accepted are reset. Idempotent; always nil.
func (l *Listener) Close() error {
	l.d.mu.Lock()
	l.d.mux.closeBacklog(l.b)
	l.d.changedLocked()
	l.d.mu.Unlock()
	l.deadline.stop()
	return nil
}

// Addr implements net.Listener: CID 2 and the port.
func (l *Listener) Addr() net.Addr { return Addr{HostCID, l.b.port} }

// SetDeadline bounds Accept; the zero time means no bound.
func (l *Listener) SetDeadline(t time.Time) error {
	l.deadline.set(t, l.b.ready)
	return nil
}

// Dial connects to a port the guest listens on; the net.Conn is a *Conn. ctx
// bounds the connecting only.
// Errors: *net.OpError with ErrNotReady, ErrRefused, ErrConnectTimeout,
// ErrTooManyConns, ErrReset, net.ErrClosed, or the error of ctx.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, &net.OpError{Op: opDial, Net: network, Addr: Addr{d.cfg.GuestCID, port}, Err: err}
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, net.ErrClosed
	case d.run == nil || d.broken != nil:
		return nil, ErrNotReady
	}
	ep, err := d.mux.dial(port)
	if err != nil {
		return nil, err
	}
	d.changedLocked()
	for {
		switch st := &ep.st; {
		case st.Phase == phaseOpen:
			return newConn(d, ep), nil
		case st.Phase >= phaseReset && st.Reason == reasonClean:
			// Accepted and finished by the guest before we looked.
			return newConn(d, ep), nil
		case st.Phase >= phaseReset:
			return nil, endError(st)
		case ctx.Err() != nil:
			d.mux.step(ep, event{kind: evAbort, reason: reasonClosed})
			d.changedLocked()
			return nil, ctx.Err()
		}
		d.mu.Unlock()
		select {
		case <-ep.writable:
		case <-ctx.Done():
		}
		d.mu.Lock()
	}
}
