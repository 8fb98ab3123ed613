package channel

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Tap is told of the execs that pass a Relay. Its methods are called from
// several goroutines.
type Tap interface {
	// Exec is called before a request is passed on. nil = this exec is of no
	// interest.
	Exec(req *Request) ExecTap
}

// ExecTap is told what happens to one exec.
type ExecTap interface {
	Started(pid int)
	// Output is called with what the exec printed, after Started, in the order
	// of its stream, before it is passed on. p must not be kept.
	Output(stderr bool, p []byte)
	// Ended is the last call. e is nil if the end is not known; err says why
	// then: the agent's reason not to start the exec, or ErrClientLeft when the
	// client went away from it.
	Ended(e *Exit, err error)
}

// ErrClientLeft is what a Tap hears when the end of an exec passed it by.
var ErrClientLeft = errors.New("channel: the client went away before the end")

// RelayConfig configures a Relay. The zero value is ready to use.
type RelayConfig struct {
	Tap    Tap          // nil = none
	Logger *slog.Logger // nil = none
}

// Relay serves another host process on conn as if it were the agent: with
// NewClient on the other end that process has execs, sessions and calls of its
// own on the client's connection. It returns when conn, the client's
// connection or ctx has ended, and owns conn. What that process started
// without Detachable is killed then, as if it had been the agent's host.
//
// The peer is a host process and trusted as much as the caller. Any number of
// relays may run on one client.
func (c *Client) Relay(ctx context.Context, conn io.ReadWriteCloser, cfg RelayConfig) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if _, err := greet(conn, c.hello); err != nil {
		return fmt.Errorf("channel: relay: handshake: %w", err)
	}
	r := &relay{c: c, tap: cfg.Tap, open: make(map[uint32]bool), numbers: make(map[meetKey]*number), taps: make(map[meetKey]*tapped)}
	r.out = newBatchWriter(conn, nil)
	var err error
	r.mux, err = yamux.Server(&serverConn{bufio.NewReaderSize(conn, maxData), r.out, conn}, muxConfig(c.cfg.Window, cfg.Logger))
	if err != nil {
		r.out.fail(err)
		return fmt.Errorf("channel: relay: %w", err)
	}
	stopMux := context.AfterFunc(ctx, func() { r.mux.Close() })
	defer stopMux()
	for {
		st, aerr := r.mux.AcceptStream()
		if aerr != nil {
			err = fmt.Errorf("%w: %w", ErrHostGone, aerr)
			break
		}
		r.wg.Go(func() { r.stream(st) })
	}
	r.mux.Close()
	r.resetAll()
	r.wg.Wait()
	<-r.out.done
	if lost := c.Err(); lost != nil {
		return lost
	}
	return err
}

// relay is one connection of another host process.
type relay struct {
	c   *Client
	tap Tap
	mux *yamux.Session
	out *batchWriter
	wg  sync.WaitGroup

	mu      sync.Mutex
	closed  bool                // no stream is opened any more
	open    map[uint32]bool     // streams on the agent's connection
	numbers map[meetKey]*number // of execs and attachments
	taps    map[meetKey]*tapped // of execs
}

// number is what an exec or attachment is on the agent's connection, while a
// stream of it is open.
type number struct {
	n       uint32
	streams int
}

// tapped is an exec with a tap, and its output streams that are shown to it.
type tapped struct {
	tap     ExecTap
	outputs sync.WaitGroup
	begun   chan struct{} // closed when started is final
	started bool          // an agent that sends output of what it has not started is not listened to
}

// stream passes one stream on.
func (r *relay) stream(st *yamux.Stream) {
	defer st.Close()
	var o open
	if err := readFrame(st, decModeHost, maxFrame, &o); err != nil {
		return
	}
	k := meetKey{o.Session, o.Attach}
	if o.Attach != 0 {
		o.Attach = r.number(k)
		defer r.forget(k)
	}
	first, err := appendFrame(nil, &o)
	if err != nil {
		return
	}
	var messages *controlTap
	if o.Kind == kindExec && r.tap != nil {
		if first, messages, err = r.request(k, first, st); err != nil {
			return
		}
		if messages != nil {
			defer r.ended(k, messages) // whatever becomes of the stream
		}
	}
	up, err := r.c.openRaw(first)
	if err != nil {
		return
	}
	defer r.c.release(up)
	if !r.keep(up) {
		return
	}
	defer r.drop(up)
	var sink io.Writer = chunkWriter{st}
	switch {
	case messages != nil:
		messages.w, sink = sink, messages
	case r.tap != nil && (o.Kind == kindStdout || o.Kind == kindStderr):
		out := &outputTap{w: sink, r: r, k: k, stderr: o.Kind == kindStderr}
		defer out.end()
		sink = out
	}
	r.pass(st, up, sink, o.Kind == kindStdin)
}

// keep remembers a stream on the agent's connection, which the end of the relay
// resets: a write that waits for a process cannot see that its writer is gone.
func (r *relay) keep(up *yamux.Stream) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		r.c.guard.reset(up.StreamID())
		return false
	}
	r.open[up.StreamID()] = true
	return true
}

func (r *relay) drop(up *yamux.Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, up.StreamID())
}

func (r *relay) resetAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for id := range r.open {
		r.c.guard.reset(id)
	}
}

// pass copies both ways until both directions have ended, or one side has gone
// away from the stream. On a stdin stream the agent's end is that it takes no
// more.
func (r *relay) pass(st, up *yamux.Stream, sink io.Writer, stdin bool) {
	towardsAgent := make(chan struct{})
	go func() {
		defer close(towardsAgent)
		_, err := copyStream(chunkWriter{up}, st)
		if err != nil || r.mux.IsClosed() {
			r.c.guard.reset(up.StreamID()) // an end that was not asked for is not an end of input
			return
		}
		up.Close()
	}()
	_, err := copyStream(sink, up)
	if r.c.mux.IsClosed() {
		// The end of the stream would say something else than the end of the connection does.
		r.out.flush(time.Second)
		r.mux.Close()
	}
	if err != nil || stdin {
		r.c.guard.reset(up.StreamID())
	}
	st.Close()
	<-towardsAgent
}

func copyStream(w io.Writer, r io.Reader) (int64, error) {
	bp := copyBufs.Get().(*[]byte)
	defer copyBufs.Put(bp)
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, *bp)
}

// number is the number on the agent's connection of what has k's on this one: two processes count alike.
// forget must follow.
func (r *relay) number(k meetKey) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.numbers[k]
	if n == nil {
		r.c.mu.Lock()
		n = &number{n: r.c.countAttach()}
		r.c.mu.Unlock()
		r.numbers[k] = n
	}
	n.streams++
	return n.n
}

func (r *relay) forget(k meetKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.numbers[k]; n.streams > 1 {
		n.streams--
	} else {
		delete(r.numbers, k)
	}
}

// request reads the request of an exec, tells the tap and appends it to first.
// nil = the exec is of no interest.
func (r *relay) request(k meetKey, first []byte, st *yamux.Stream) ([]byte, *controlTap, error) {
	body, err := readBody(st, maxFrame)
	if err != nil {
		return nil, nil, err
	}
	first = append(binary.BigEndian.AppendUint32(first, uint32(len(body))), body...)
	var req Request
	if err := decodeFrame(body, decModeHost, &req); err != nil {
		return nil, nil, err
	}
	tap := r.tap.Exec(&req)
	if tap == nil {
		return first, nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &controlTap{tap: tap, req: &req}
	if r.taps[k] == nil { // else the agent refuses this one
		t.exec = &tapped{tap: tap, begun: make(chan struct{})}
		r.taps[k] = t.exec
	}
	return first, t, nil
}

// ended tells the tap of an exec's end, after the last of its output. The
// messages may come to their end before: they have a stream of their own.
func (r *relay) ended(k meetKey, t *controlTap) {
	if t.exec != nil {
		r.mu.Lock()
		delete(r.taps, k)
		r.mu.Unlock()
		if !isClosed(t.exec.begun) {
			close(t.exec.begun)
		}
		t.exec.outputs.Wait()
	}
	if t.exit != nil {
		t.tap.Ended(t.exit, nil)
		return
	}
	t.tap.Ended(nil, cmp.Or(t.failure, r.c.Err(), ErrClientLeft))
}

// outputTap shows an output stream to the exec's tap.
type outputTap struct {
	w      io.Writer
	r      *relay
	k      meetKey
	stderr bool
	exec   *tapped // once there was output; nil = none, as for an attachment
}

func (t *outputTap) Write(p []byte) (int, error) {
	if t.exec == nil {
		t.r.mu.Lock()
		if t.exec = t.r.taps[t.k]; t.exec != nil {
			t.exec.outputs.Add(1)
		}
		t.r.mu.Unlock()
	}
	if t.exec != nil {
		<-t.exec.begun // the two streams are copied by two goroutines
		if t.exec.started {
			t.exec.tap.Output(t.stderr, p)
		}
	}
	return t.w.Write(p)
}

func (t *outputTap) end() {
	if t.exec != nil {
		t.exec.outputs.Done()
	}
}

// controlTap reads along in the agent's messages to an exec.
type controlTap struct {
	w    io.Writer
	tap  ExecTap
	exec *tapped // nil for the second exec of one key
	buf  []byte  // the start of an incomplete message
	req  *Request
	exit *Exit
	over bool

	failure error // why it was not started
}

func (t *controlTap) Write(p []byte) (int, error) {
	if !t.over {
		t.buf = append(t.buf, p...)
		t.read()
	}
	return t.w.Write(p)
}

// read takes the complete messages from buf. What it cannot read it lets pass:
// the client at the end judges the agent.
func (t *controlTap) read() {
	for len(t.buf) >= 4 && !t.over {
		n := binary.BigEndian.Uint32(t.buf)
		if n > maxReplyFrame {
			t.over, t.buf = true, nil
			return
		}
		if uint32(len(t.buf)-4) < n {
			return
		}
		var m agentMsg
		if err := decodeFrame(t.buf[4:4+n], decMode, &m); err == nil && m.valid() {
			t.message(&m)
		}
		t.buf = t.buf[4+n:]
	}
}

func (t *controlTap) message(m *agentMsg) {
	switch {
	case m.Started != nil && (t.exec == nil || !isClosed(t.exec.begun)):
		t.tap.Started(m.Started.PID)
		if t.exec != nil {
			t.exec.started = true
			close(t.exec.begun)
		}
	case m.Failed != nil:
		t.failure = m.Failed.err(t.req)
	case m.Exited != nil && m.Exited.valid():
		t.exit = m.Exited.exit()
	case m.Drained != nil && t.exit != nil:
		m.Drained.complete(t.exit)
	}
}
