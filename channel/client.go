package channel

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Config configures the host end. The zero value is ready to use.
type Config struct {
	// MaxSessions bounds the execs that run at once; 0 = 1024.
	MaxSessions int
	// Window is the receive window of each stream, in bytes: what one stalled
	// output reader can hold in memory. 0 = 1 MiB, the minimum is 256 KiB.
	Window uint32
	// HandshakeTimeout bounds the handshake beside the context; 0 = 30 s.
	HandshakeTimeout time.Duration
	// CancelWait is how long a cancelled exec waits, beyond its Grace, for the
	// guest to confirm the death before it is given up; 0 = 250 ms.
	CancelWait time.Duration
	// Logger gets rate-limited notes about the peer; nil = none.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxSessions <= 0 {
		c.MaxSessions = defaultMaxSessions
	}
	if c.Window == 0 {
		c.Window = defaultWindow
	}
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = defaultHandshake
	}
	if c.CancelWait <= 0 {
		c.CancelWait = defaultCancelWait
	}
	return c
}

// Client is the host end of a connection to an agent. All methods may be
// called from several goroutines.
type Client struct {
	cfg   Config
	hello Hello
	guard *guard
	mux   *yamux.Session
	done  chan struct{} // closed when the connection is over
	wg    sync.WaitGroup

	// opening holds a token for each exec whose streams are being opened: of a
	// thousand at once, all control streams would go before all data streams,
	// and the agent waits for those of one exec for a bounded time only.
	opening chan struct{}

	mu        sync.Mutex
	sessions  map[sessionKey]*Process
	attaches  uint32               // execs and attachments so far
	lingering map[uint32]time.Time // finished streams that the guest has not closed
	sweeper   *time.Timer
	err       error // why the connection ended; set before done is closed
}

// maxOpening is how many execs open their streams at once.
const maxOpening = 32

// lingerTime is how long a guest may take to close a finished stream.
const lingerTime = 5 * time.Second

// NewClient performs the handshake with the agent at the other end of conn and
// returns a client that owns conn. It waits for the agent's first byte until
// ctx ends or Config.HandshakeTimeout has passed; at an error conn is closed.
//
// conn.Close must unblock a pending Read and Write.
func NewClient(ctx context.Context, conn net.Conn, cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	hello, err := handshake(ctx, conn, cfg.HandshakeTimeout)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &Client{
		cfg: cfg, hello: *hello, done: make(chan struct{}), opening: make(chan struct{}, maxOpening),
		sessions: make(map[sessionKey]*Process), lingering: make(map[uint32]time.Time),
	}
	c.guard = newGuard(conn)
	c.mux, err = yamux.Client(c.guard, muxConfig(cfg.Window, cfg.Logger))
	if err != nil {
		c.guard.Close()
		return nil, fmt.Errorf("channel: %w", err)
	}
	c.wg.Go(c.watch)
	return c, nil
}

// handshake runs the host's side: read Hello, send a nonce, read it back.
func handshake(ctx context.Context, conn net.Conn, timeout time.Duration) (*Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	h, err := exchangeHello(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("channel: handshake with the agent: %w", context.Cause(ctx))
	}
	return h, err
}

func exchangeHello(conn net.Conn) (*Hello, error) {
	fail := func(msg string, err error) (*Hello, error) {
		if err != nil && !errors.Is(err, errMalformed) && !errors.Is(err, errFrameSize) {
			return nil, fmt.Errorf("channel: handshake: %s: %w: %w", msg, ErrAgentLost, err)
		}
		return nil, &ProtocolError{Op: "handshake", Msg: msg, Err: err}
	}
	body, err := readBody(conn, maxReplyFrame)
	if err != nil {
		return fail("reading the agent's hello", err)
	}
	var h Hello
	if err := decodeFrame(body, decMode, &h); err != nil {
		// Of another version, the rest may have other types.
		var first struct {
			Magic   string `cbor:"1,keyasint"`
			Version int    `cbor:"2,keyasint"`
		}
		if decodeFrame(body, decMode, &first) != nil || first.Magic != magic || first.Version == Version {
			return fail("reading the agent's hello", err)
		}
		h = Hello{Magic: first.Magic, Version: first.Version}
	}
	if h.Magic != magic {
		return fail(fmt.Sprintf("magic %.40q, want %q", h.Magic, magic), nil)
	}
	if h.Version != Version {
		return nil, &VersionError{Agent: h.Version, Host: Version, Build: h.Build}
	}
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails
	err = writeFrame(conn, &hostHello{Magic: magic, Version: Version, Nonce: nonce, WallTime: time.Now().UnixNano()})
	if err != nil {
		return fail("sending hello", err)
	}
	var ack helloAck
	if err := readFrame(conn, decMode, maxReplyFrame, &ack); err != nil {
		return fail("reading the acknowledgement", err)
	}
	if !bytes.Equal(ack.Nonce, nonce) {
		return fail("wrong nonce", nil)
	}
	return &h, nil
}

// Hello returns what the agent said about itself. Its text is the guest's.
func (c *Client) Hello() Hello { return c.hello }

// Done is closed when the connection is over, whatever ended it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection is over: nil while it is open, ErrClosed after
// Close, *ProtocolError for a guest that broke the protocol, otherwise an
// ErrAgentLost with its cause.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// watch ends the client when the yamux session has ended.
func (c *Client) watch() {
	<-c.mux.CloseChan()
	err := c.guard.cause()
	var pe *ProtocolError
	switch {
	case errors.As(err, &pe):
		c.fail(pe)
	case err == nil || errors.Is(err, net.ErrClosed):
		c.fail(fmt.Errorf("%w: multiplexer ended", ErrAgentLost))
	default:
		c.fail(fmt.Errorf("%w: %w", ErrAgentLost, err))
	}
}

// fail ends the connection; the first reason counts.
func (c *Client) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.done)
		if c.sweeper != nil {
			c.sweeper.Stop()
		}
	}
	c.mu.Unlock()
	if first {
		c.guard.Close()
	}
}

// lostErr is the error of an operation that the end of the connection ended.
func (c *Client) lostErr() error {
	err := c.Err()
	if err == nil || errors.Is(err, ErrAgentLost) {
		return cmp.Or(err, ErrAgentLost)
	}
	return fmt.Errorf("%w: %w", ErrAgentLost, err)
}

// spawn runs fn in a goroutine that Close waits for, unless the connection is
// over already.
func (c *Client) spawn(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.wg.Go(fn)
	return true
}

// Close ends the connection and every exec on it, whose Wait returns an error
// that is both ErrAgentLost and ErrClosed. It returns when the client's
// goroutines are gone, except those that are inside a caller's Reader or
// Writer. It is idempotent.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	c.mux.Close()
	c.wg.Wait()
	<-c.guard.done
	<-c.guard.out.done
	return nil
}

// Stats asks the agent for its debug counters. The numbers are the guest's.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	r, err := c.call(ctx, &callReq{Stat: true})
	if err != nil {
		return Stats{}, err
	}
	if r.Stats == nil {
		return Stats{}, &ProtocolError{Op: "stats", Msg: "reply without counters"}
	}
	return *r.Stats, nil
}

// Shutdown asks the agent to power the guest off and returns when the
// connection ended, which is what a guest that goes down looks like, or with
// the context's error.
func (c *Client) Shutdown(ctx context.Context) error {
	if _, err := c.call(ctx, &callReq{Shutdown: &shutdownMsg{}}); err != nil && !errors.Is(err, ErrAgentLost) {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("channel: shutdown: the agent agreed but is still there: %w", ctx.Err())
	}
}

// call sends one request on a stream of its own and reads the reply.
func (c *Client) call(ctx context.Context, req *callReq) (*callReply, error) {
	type result struct {
		r   *callReply
		err error
	}
	ch := make(chan result, 1)
	abandoned := make(chan struct{})
	if !c.spawn(func() {
		r, err := c.exchange(abandoned, req)
		ch <- result{r, err}
	}) {
		return nil, fmt.Errorf("channel: call: %w", c.lostErr())
	}
	select {
	case res := <-ch:
		return res.r, res.err
	case <-ctx.Done():
		close(abandoned)
		return nil, fmt.Errorf("channel: call: %w", ctx.Err())
	}
}

func (c *Client) exchange(abandoned <-chan struct{}, req *callReq) (*callReply, error) {
	s, err := c.openStream(&open{Kind: kindCall}, req)
	if err != nil {
		return nil, err
	}
	finished := make(chan struct{})
	c.wg.Go(func() {
		select {
		case <-abandoned:
			c.guard.reset(s.StreamID())
		case <-finished:
		}
	})
	defer c.release(s)
	defer close(finished)
	var r callReply
	if err := readFrame(s, decMode, maxReplyFrame, &r); err != nil {
		if c.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, yamux.ErrConnectionReset) {
			return nil, fmt.Errorf("channel: call: %w", c.lostErr())
		}
		return nil, &ProtocolError{Op: "call", Msg: "bad reply", Err: err}
	}
	if r.Error != "" {
		return nil, fmt.Errorf("channel: call: agent: %s", printable(r.Error))
	}
	return &r, nil
}

// openStream opens a stream and sends its Open message, and req after it
// unless req is nil, in one write. It may block while the transport is stuck.
func (c *Client) openStream(o *open, req *callReq) (*yamux.Stream, error) {
	b, err := appendFrame(nil, o)
	if err != nil {
		return nil, err
	}
	if req != nil {
		if b, err = appendFrame(b, req); err != nil {
			return nil, err
		}
	}
	return c.openRaw(b)
}

func (c *Client) openRaw(first []byte) (*yamux.Stream, error) {
	s, err := c.mux.OpenStream()
	if err != nil {
		return nil, c.streamErr(err)
	}
	if _, err := (chunkWriter{s}).Write(first); err != nil {
		c.guard.reset(s.StreamID())
		return nil, c.streamErr(err)
	}
	return s, nil
}

// streamErr turns an error of yamux into one of ours.
func (c *Client) streamErr(err error) error {
	if errors.Is(err, yamux.ErrConnectionWriteTimeout) {
		// yamux goes on after it and may still send the body: nothing that
		// is written later would be in order.
		c.fail(fmt.Errorf("%w: %w", ErrAgentLost, err))
	}
	if errors.Is(err, yamux.ErrStreamsExhausted) {
		return &LimitError{What: LimitStreams, Max: 1 << 31}
	}
	return fmt.Errorf("%w (%w)", c.lostErr(), err)
}

// release closes this end of finished streams. A guest that does not close its
// end within lingerTime loses the stream, so that it cannot collect them here.
func (c *Client) release(streams ...*yamux.Stream) {
	for _, s := range streams {
		s.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	for _, s := range streams {
		if c.guard.open(s.StreamID()) {
			c.lingering[s.StreamID()] = time.Now().Add(lingerTime)
		}
	}
	if len(c.lingering) > 0 && c.sweeper == nil {
		c.sweeper = time.AfterFunc(lingerTime, c.sweep)
	}
}

// sweep resets the lingering streams whose time is over.
func (c *Client) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweeper = nil
	if c.err != nil {
		return
	}
	now := time.Now()
	for id, until := range c.lingering {
		if !c.guard.open(id) {
			delete(c.lingering, id)
		} else if now.After(until) {
			c.guard.reset(id)
			delete(c.lingering, id)
		}
	}
	if len(c.lingering) > 0 {
		c.sweeper = time.AfterFunc(lingerTime/4, c.sweep)
	}
}

// NewSessionID returns a random session ID of 32 hexadecimal digits, as Start gives a Request without one.
func NewSessionID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
