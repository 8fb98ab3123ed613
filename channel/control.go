package channel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Signal sends a signal to the process, or with group to its process group. It
// returns when the guest has delivered it; os.ErrProcessDone if the process was
// reaped already. Where Wait returns without knowing how the process ended
// (ErrAgentLost, ErrDetached, ...) that error is returned: the process may live.
func (p *Process) Signal(ctx context.Context, sig Signal, group bool) error {
	if sig < 0 || sig > maxSignal {
		return fmt.Errorf("channel: signal %d: number must be 0 to %d", int(sig), int(maxSignal))
	}
	if isClosed(p.exited) {
		return os.ErrProcessDone
	}
	ack := make(chan Errno, 1)
	p.mu.Lock()
	p.seq++
	seq := p.seq
	p.acks[seq] = ack
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.acks, seq)
	}()
	p.post(&hostMsg{Signal: &signalMsg{Seq: seq, Sig: int(sig), Group: group}})
	// The exit record is no answer: it may overtake that of the signal that
	// ended the process, which was delivered.
	select {
	case errno := <-ack:
		return signalErr(sig, errno)
	case <-p.silent:
	case <-p.done:
	case <-ctx.Done():
		return fmt.Errorf("channel: %v: %w", sig, ctx.Err())
	}
	select {
	case errno := <-ack:
		return signalErr(sig, errno)
	default:
	}
	if isClosed(p.exited) {
		return os.ErrProcessDone
	}
	select {
	case <-p.done:
		return p.goneErr(sig.String())
	case <-ctx.Done():
		return fmt.Errorf("channel: %v: %w", sig, ctx.Err())
	}
}

// goneErr is why an operation came too late. The result is final.
func (p *Process) goneErr(op string) error {
	if isClosed(p.exited) || p.err == nil {
		return os.ErrProcessDone
	}
	return fmt.Errorf("channel: %s: %w", op, p.err)
}

func signalErr(sig Signal, errno Errno) error {
	switch errno {
	case 0:
		return nil
	case ESRCH:
		return os.ErrProcessDone
	}
	return fmt.Errorf("channel: %v: %w", sig, errno)
}

// Kill ends the process and its whole tree with SIGKILL. It does not wait; the
// result is what Wait returns. os.ErrProcessDone if the process was reaped,
// otherwise as Signal.
func (p *Process) Kill() error {
	select {
	case <-p.exited:
		return os.ErrProcessDone
	case <-p.done:
		return p.goneErr("kill")
	default:
	}
	p.post(&hostMsg{Kill: &killMsg{}})
	return nil
}

// Terminate sends SIGTERM and, if the tree is not gone after grace, SIGKILL.
// It does not wait.
func (p *Process) Terminate(grace time.Duration) {
	p.post(&hostMsg{Kill: &killMsg{Grace: grace}})
}

// Resize sets the size of the exec's terminal, in characters. It does not
// wait; of several sizes the last one wins. After the exit it does nothing.
func (p *Process) Resize(rows, cols uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tty {
		return errors.New("channel: resize: the exec has no TTY")
	}
	p.size = &resizeMsg{Rows: rows, Cols: cols}
	if !p.resizing {
		p.resizing = p.c.spawn(p.sendSizes)
	}
	return nil
}

func (p *Process) sendSizes() {
	for {
		p.mu.Lock()
		m := p.size
		p.size = nil
		p.resizing = m != nil
		p.mu.Unlock()
		if m == nil {
			return
		}
		p.send(&hostMsg{Resize: m})
	}
}

// post sends m from a goroutine of its own, because a guest that does not read
// must not block the caller.
func (p *Process) post(m *hostMsg) {
	p.c.spawn(func() { p.send(m) })
}

func (p *Process) send(m *hostMsg) {
	select {
	case <-p.started:
	case <-p.done:
		return
	}
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	// An error means that the stream is over, which run sees as well.
	_ = writeFrame(p.ctl, m)
}
