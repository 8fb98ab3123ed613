package channel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Handler is what the guest end runs requests with. Its methods are called
// from several goroutines.
type Handler interface {
	// Exec runs one exec from request to totals. It must send Failed, or
	// Started, Exited and Drained, and return only when it uses x no more. Its
	// ctx ends when the host has gone away from this exec: nobody wants its
	// output any more.
	Exec(ctx context.Context, x *Exec)
	// Stats returns debug counters; Streams and Sessions are filled in by the caller.
	Stats() Stats
	// Shutdown is called when the host asked for power-off (or reboot) and
	// has been answered. Serve returns after it.
	Shutdown(reboot bool)
}

// ServerConfig configures the guest end. The zero value is ready to use.
type ServerConfig struct {
	// Hello is sent to the host. Magic and Version are filled in.
	Hello Hello
	// OnHello, if not nil, is called after the handshake with the host's wall clock.
	OnHello func(wall time.Time)
	// MaxSessions bounds the execs that run at once; 0 = 1024.
	MaxSessions int
	// Window is the receive window of each stream in bytes, 0 = 256 KiB: what
	// a process that does not read its stdin can hold in the agent.
	Window uint32
	// Logger; nil = none.
	Logger *slog.Logger
}

// rendezvousTime is how long the streams of one exec may take to arrive.
const rendezvousTime = 30 * time.Second

// ErrHostGone is wrapped by Serve's error when the connection ended.
var ErrHostGone = errors.New("channel: connection to the host ended")

// ErrShutdown is returned by Serve after the host asked for power-off.
var ErrShutdown = errors.New("channel: the host asked for shutdown")

// server is one connection of the guest end.
type server struct {
	h   Handler
	cfg ServerConfig
	mux *yamux.Session
	out *batchWriter
	ctx context.Context
	end context.CancelCauseFunc
	wg  sync.WaitGroup

	mu       sync.Mutex
	meeting  map[meetKey]*meeting
	running  map[string]bool // session IDs of execs
	sessions int
}

// serverConn is the connection below the guest's yamux session.
type serverConn struct {
	io.Reader
	out  *batchWriter
	conn io.Closer
}

func (c *serverConn) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c *serverConn) Close() error {
	c.out.fail(io.ErrClosedPipe)
	return c.conn.Close()
}

// Serve is the guest end: it performs the handshake on conn and serves until
// the connection or ctx ends, or the host asks for shutdown (ErrShutdown).
// Every handler has returned and conn is closed when it returns. conn.Close
// must unblock Read and Write.
func Serve(ctx context.Context, conn io.ReadWriteCloser, h Handler, cfg ServerConfig) error {
	defer conn.Close()
	if cfg.MaxSessions <= 0 {
		cfg.MaxSessions = defaultMaxSessions
	}
	if cfg.Window == 0 {
		cfg.Window = defaultGuestWindow
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	wall, err := greet(conn, cfg.Hello)
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("channel: handshake with the host: %w", err)
	}
	if cfg.OnHello != nil {
		cfg.OnHello(wall)
	}
	s := &server{h: h, cfg: cfg, meeting: make(map[meetKey]*meeting), running: make(map[string]bool)}
	s.out = newBatchWriter(conn, nil)
	s.mux, err = yamux.Server(&serverConn{bufio.NewReaderSize(conn, maxData), s.out, conn}, muxConfig(cfg.Window, cfg.Logger))
	if err != nil {
		s.out.fail(err)
		return fmt.Errorf("channel: %w", err)
	}
	s.ctx, s.end = context.WithCancelCause(ctx)
	stop = context.AfterFunc(s.ctx, func() { s.mux.Close() })
	err = s.accept()
	s.end(err)
	s.mux.Close()
	s.wg.Wait()
	<-s.out.done
	stop()
	s.mu.Lock()
	for _, m := range s.meeting {
		m.timer.Stop()
	}
	s.mu.Unlock()
	return context.Cause(s.ctx)
}

// greet runs the guest's side of the handshake.
func greet(conn io.ReadWriter, h Hello) (wall time.Time, err error) {
	h.Magic, h.Version = magic, Version
	if err := writeFrame(conn, &h); err != nil {
		return wall, err
	}
	var hh hostHello
	if err := readFrame(conn, decModeHost, maxReplyFrame, &hh); err != nil {
		return wall, err
	}
	if hh.Magic != magic || hh.Version != Version {
		return wall, fmt.Errorf("host speaks %q version %d, this agent %q version %d", hh.Magic, hh.Version, magic, Version)
	}
	return time.Unix(0, hh.WallTime), writeFrame(conn, &helloAck{Nonce: hh.Nonce})
}

func (s *server) accept() error {
	for {
		st, err := s.mux.AcceptStream()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrHostGone, err)
		}
		s.wg.Go(func() { s.stream(st) })
	}
}

// stream serves one new stream.
func (s *server) stream(st *yamux.Stream) {
	var o open
	if err := readFrame(st, decModeHost, maxFrame, &o); err != nil {
		st.Close()
		return
	}
	switch o.Kind {
	case kindExec:
		s.exec(st, o)
	case kindStdin, kindStdout, kindStderr:
		s.offer(st, o)
	case kindAttach:
		s.attach(st, o)
	case kindCall:
		s.call(st)
	default:
		st.Close()
	}
}

// call answers one request.
func (s *server) call(st *yamux.Stream) {
	defer st.Close()
	var req callReq
	if err := readFrame(st, decModeHost, maxFrame, &req); err != nil {
		return
	}
	var reply callReply
	switch {
	case !req.valid():
		reply.Error = "request with several parts or none"
	case req.Stat:
		stats := s.h.Stats()
		s.mu.Lock()
		stats.Sessions = s.sessions
		s.mu.Unlock()
		stats.Streams = s.mux.NumStreams()
		reply.Stats = &stats
	case req.Shutdown == nil:
		s.sessionCall(&req, &reply)
	}
	if err := writeFrame(st, &reply); err != nil || req.Shutdown == nil {
		return
	}
	st.Close()
	s.out.flush(time.Second)
	s.end(ErrShutdown)
	s.h.Shutdown(req.Shutdown.Reboot)
}

// meetKey names the streams that belong to one control stream.
type meetKey struct {
	session string
	attach  uint32
}

// meeting is where the streams of one exec find each other: they are opened
// together but read by different goroutines.
type meeting struct {
	streams map[streamKind]*yamux.Stream
	arrived chan struct{} // capacity 1: another stream is there
	over    bool          // no stream is taken any more
	timer   *time.Timer   // ends a meeting to which no control stream comes
}

// meet returns the meeting of a key, made if need be. The caller holds s.mu.
func (s *server) meet(k meetKey) *meeting {
	m := s.meeting[k]
	if m == nil {
		m = &meeting{streams: make(map[streamKind]*yamux.Stream), arrived: make(chan struct{}, 1)}
		m.timer = time.AfterFunc(2*rendezvousTime, func() { s.expire(k, m) })
		s.meeting[k] = m
	}
	return m
}

// offer brings a data stream to its exec, which takes it from the meeting or
// clears it away.
func (s *server) offer(st *yamux.Stream, o open) {
	k := meetKey{o.Session, o.Attach}
	s.mu.Lock()
	m := s.meet(k)
	if m.over || m.streams[o.Kind] != nil {
		s.mu.Unlock()
		st.Close()
		return
	}
	m.streams[o.Kind] = st
	s.mu.Unlock()
	select {
	case m.arrived <- struct{}{}:
	default:
	}
}

// refuse closes the data streams of an exec that is not started, those too that
// come later. The caller holds s.mu.
func (s *server) refuse(k meetKey) {
	m := s.meet(k)
	s.endMeeting(k, m)
	s.meeting[k] = m
	m.timer.Reset(2 * rendezvousTime)
}

// expire ends a meeting to which no control stream came, or a refused one.
func (s *server) expire(k meetKey, m *meeting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meeting[k] == m && m.streams[kindExec] == nil {
		s.endMeeting(k, m)
	}
}

// endMeeting closes the data streams; the control stream still carries the last
// message. The caller holds s.mu.
func (s *server) endMeeting(k meetKey, m *meeting) {
	m.over = true
	m.timer.Stop()
	delete(s.meeting, k)
	for kind, st := range m.streams {
		if kind != kindExec {
			go st.Close() // may wait for the transport
		}
	}
}
