package channel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const longTime = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent does the agent's side of the handshake on one end of a pipe and
// returns a client on the other.
func fakeAgent(t testing.TB) (*Client, net.Conn) {
	t.Helper()
	host, guest := net.Pipe()
	errs := make(chan error, 1)
	go func() {
		_, err := greet(guest, Hello{Build: "fake"})
		errs <- err
	}()
	c, err := NewClient(context.Background(), host, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close(); c.Close() })
	return c, guest
}

func frame(typ uint8, flags uint16, id, n uint32, body ...byte) []byte {
	return append(frameHeader{Type: typ, Flags: flags, Stream: id, Length: n}.append(nil), body...)
}

func TestHostileFramesEndTheSession(t *testing.T) {
	// Each script runs after the host has opened stream 1, a stdout stream,
	// and stream 3, a sealed one.
	ack := func(id uint32) []byte { return frame(frameWindow, flagACK, id, 0) }
	for _, tt := range []struct {
		name, msg string
		script    [][]byte
	}{
		{"version", "version 9", [][]byte{{9, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}}},
		{"type", "unknown frame type", [][]byte{frame(4, 0, 1, 0)}},
		{"flag", "unknown flag", [][]byte{frame(0, 0x10, 1, 0)}},
		{"SYN", "opened a stream", [][]byte{frame(frameWindow, flagSYN, 2, 0)}},
		{"SYN with the host's parity", "opened a stream", [][]byte{frame(frameWindow, flagSYN, 5, 0)}},
		{"even id", "never uses", [][]byte{frame(frameData, 0, 2, 1, 'x')}},
		{"unknown id", "unknown stream", [][]byte{frame(frameData, flagACK, 99, 1, 'x')}},
		{"oversize", "data over", [][]byte{frame(frameData, flagACK, 1, 1<<31)}},
		{"no ACK", "not acknowledged", [][]byte{frame(frameData, 0, 1, 1, 'x')}},
		{"two ACKs", "acknowledged twice", [][]byte{ack(1), ack(1)}},
		{"two FINs", "closed twice", [][]byte{ack(1), frame(frameWindow, flagFIN, 1, 0), frame(frameWindow, flagFIN, 1, 0)}},
		{"data after FIN", "after the end", [][]byte{ack(1), frame(frameWindow, flagFIN, 1, 0), frame(frameData, 0, 1, 1, 'x')}},
		{"data on stdin", "towards the guest", [][]byte{ack(3), frame(frameData, 0, 3, 1, 'x')}},
		{"window", "send window overflow", [][]byte{frame(frameWindow, flagACK, 1, 1<<30)}},
		{"ping flood", "ping flood", [][]byte{bytes.Repeat(frame(framePing, flagSYN, 0, 7), 1000)}},
		{"ping reply", "not a question", [][]byte{frame(framePing, flagACK, 0, 7)}},
		{"go-away", "malformed go-away", [][]byte{frame(frameGoAway, 0, 0, 77)}},
		{"two go-aways", "second go-away", [][]byte{frame(frameGoAway, 0, 0, 0), frame(frameGoAway, 0, 0, 0)}},
		{"over the window", "over the granted window", overWindow()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, guest := fakeAgent(t)
			go io.Copy(io.Discard, guest)
			for range 2 {
				if _, err := c.mux.OpenStream(); err != nil {
					t.Fatal(err)
				}
			}
			c.guard.seal(3)
			for _, b := range tt.script {
				guest.Write(b) // fails when the host has hung up
			}
			select {
			case <-c.Done():
			case <-time.After(longTime):
				t.Fatal("the session goes on")
			}
			var pe *ProtocolError
			if err := c.Err(); !errors.As(err, &pe) || !strings.Contains(err.Error(), tt.msg) {
				t.Fatalf("%v, want a ProtocolError with %q", err, tt.msg)
			}
			if _, err := c.Start(context.Background(), &Request{Path: "x"}, Stdio{}); !errors.Is(err, ErrAgentLost) || !errors.As(err, &pe) {
				t.Fatalf("Start afterwards: %v", err)
			}
		})
	}
}

// overWindow sends more than the 1 MiB that the host grants.
func overWindow() (script [][]byte) {
	script = append(script, frame(frameWindow, flagACK, 1, 0))
	for range 5 {
		script = append(script, frame(frameData, 0, 1, maxData, make([]byte, maxData)...))
	}
	return script
}

func TestPingFloodCostsNothing(t *testing.T) {
	c, guest := fakeAgent(t)
	go io.Copy(io.Discard, guest)
	before := runtime.NumGoroutine()
	flood := bytes.Repeat(frame(framePing, flagSYN, 0, 7), 1000)
	for range 100 {
		if _, err := guest.Write(flood); err != nil {
			break
		}
		if n := runtime.NumGoroutine(); n > before+2*pingBurst {
			t.Fatalf("%d goroutines, %d before the flood", n, before)
		}
	}
	<-c.Done()
}

// TestSlowPingsOfAGuestThatReadsNothingEndTheSession: each answer that cannot
// leave is a goroutine, however slowly the pings come.
func TestSlowPingsOfAGuestThatReadsNothingEndTheSession(t *testing.T) {
	g := &guard{}
	at := time.Unix(1, 0)
	slowly := func() time.Time { at = at.Add(time.Minute); return at }
	ping := frameHeader{Type: framePing, Flags: flagSYN}
	for range 1000 { // answered ones are welcome for ever
		if pass, err := g.admit(&ping, slowly); !pass || err != nil {
			t.Fatal(pass, err)
		}
		g.outbound(frameHeader{Type: framePing, Flags: flagACK})
	}
	for range pingBurst {
		if pass, err := g.admit(&ping, slowly); !pass || err != nil {
			t.Fatal(pass, err)
		}
	}
	if pass, err := g.admit(&ping, slowly); pass || err == nil {
		t.Fatalf("ping %d without an answer was passed on", pingBurst+1)
	}
}

func TestFramesForAResetStreamAreDropped(t *testing.T) {
	c, guest := fakeAgent(t)
	go io.Copy(io.Discard, guest)
	s, err := c.mux.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.Write(frame(frameWindow, flagACK, 1, 0)); err != nil {
		t.Fatal(err)
	}
	c.guard.reset(s.StreamID())
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Fatal("Read of a reset stream succeeded")
	}
	for range 10 {
		if _, err := guest.Write(frame(frameData, 0, 1, 3, 'a', 'b', 'c')); err != nil {
			t.Fatal(err)
		}
	}
	if c.Err() != nil || c.mux.NumStreams() != 0 || c.guard.open(1) {
		t.Fatalf("%v, %d streams", c.Err(), c.mux.NumStreams())
	}
}

func TestResetOfUnacknowledgedStreamsLeavesRoom(t *testing.T) {
	c, guest := fakeAgent(t)
	go io.Copy(io.Discard, guest)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 4 * muxBacklog { // more than may be unacknowledged at once
			s, err := c.mux.OpenStream()
			if err != nil {
				t.Error(err)
				return
			}
			c.guard.reset(s.StreamID())
		}
	}()
	select {
	case <-done:
	case <-time.After(longTime):
		t.Fatal("OpenStream blocks: resets did not free their slots")
	}
}

func TestStalledFrameDoesNotBlockTheReader(t *testing.T) {
	c, guest := fakeAgent(t)
	go io.Copy(io.Discard, guest)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	go guest.Write(frame(frameData, flagACK, 1, 200, 'x'))
	if _, err := c.Stats(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// control wraps a message for the guest's end of stream 1.
func control(t testing.TB, flags uint16, m *agentMsg) []byte {
	t.Helper()
	b, err := appendFrame(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return frame(frameData, flags, 1, uint32(len(b)), b...)
}

func TestHostileControlMessages(t *testing.T) {
	started := control(t, flagACK, &agentMsg{Started: &startedMsg{PID: 4}})
	raw := func(b ...byte) []byte {
		p := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
		return frame(frameData, flagACK, 1, uint32(len(b)+4), append(p, b...)...)
	}
	for _, tt := range []struct {
		name   string
		script [][]byte
	}{
		{"garbage", [][]byte{raw(0xff, 0xff, 0xff)}},
		{"empty union", [][]byte{raw(0xa0)}},
		{"deep nesting", [][]byte{raw(bytes.Repeat([]byte{0x81}, 1000)...)}},
		{"huge array", [][]byte{raw(0xa1, 0x01, 0x9a, 0xff, 0xff, 0xff, 0xff)}},
		{"huge length", [][]byte{frame(frameData, flagACK, 1, 4, 0xff, 0xff, 0xff, 0xff)}},
		{"zero length", [][]byte{frame(frameData, flagACK, 1, 4, 0, 0, 0, 0)}},
		{"totals first", [][]byte{control(t, flagACK, &agentMsg{Drained: &drainedMsg{}})}},
		{"started twice", [][]byte{started, control(t, 0, &agentMsg{Started: &startedMsg{PID: 5}})}},
		{"failed after start", [][]byte{started, control(t, 0, &agentMsg{Failed: &failedMsg{Stage: "x"}})}},
		{"totals before exit", [][]byte{started, control(t, 0, &agentMsg{Drained: &drainedMsg{}})}},
		{"two exits", [][]byte{started, control(t, 0, &agentMsg{Exited: &exitedMsg{}}), control(t, 0, &agentMsg{Exited: &exitedMsg{}})}},
		{"exit code that wraps to success", [][]byte{started, control(t, 0, &agentMsg{Exited: &exitedMsg{Code: 256}})}},
		{"exit code below 0", [][]byte{started, control(t, 0, &agentMsg{Exited: &exitedMsg{Code: -1}})}},
		{"signal that cancels 128", [][]byte{started, control(t, 0, &agentMsg{Exited: &exitedMsg{Code: -1, Signal: -128}})}},
		{"signal beside code 0", [][]byte{started, control(t, 0, &agentMsg{Exited: &exitedMsg{Signal: 9}})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, guest := fakeAgent(t)
			go io.Copy(io.Discard, guest)
			go func() {
				for !opened(c, 1) {
					runtime.Gosched()
				}
				for _, b := range tt.script {
					guest.Write(b)
				}
			}()
			p, err := c.Start(context.Background(), &Request{Path: "x"}, Stdio{})
			if err == nil {
				_, err = p.Wait()
			}
			var pe *ProtocolError
			if !errors.As(err, &pe) || !errors.Is(err, ErrAgentLost) {
				t.Fatalf("%v, want a ProtocolError", err)
			}
		})
	}
}

func opened(c *Client, id uint32) bool {
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	return c.guard.maxID >= id
}

func TestEndWithoutExitRecordIsNeverSuccess(t *testing.T) {
	started := control(t, flagACK, &agentMsg{Started: &startedMsg{PID: 4}})
	exited := control(t, 0, &agentMsg{Exited: &exitedMsg{Code: 0}})
	fin := frame(frameWindow, flagFIN, 1, 0)
	out := func(flags uint16, b string) []byte { return frame(frameData, flags, 3, uint32(len(b)), []byte(b)...) }
	drained := func(n int64) []byte { return control(t, 0, &agentMsg{Drained: &drainedMsg{Stdout: n}}) }
	for _, tt := range []struct {
		name   string
		script [][]byte
		is     error
		exit   bool
	}{
		{"control stream ends", [][]byte{started, out(flagACK|flagFIN, "hi"), fin}, ErrExecLost, false},
		{"control stream ends before the totals", [][]byte{started, exited, out(flagACK|flagFIN, "hi"), fin}, ErrExecLost, true},
		{"too few bytes", [][]byte{started, out(flagACK|flagFIN, "hi"), exited, drained(3), fin}, ErrOutputTruncated, true},
		{"too many bytes", [][]byte{started, out(flagACK|flagFIN, "hi"), exited, drained(1), fin}, ErrOutputTruncated, true},
		{"exact", [][]byte{started, out(flagACK|flagFIN, "hi"), exited, drained(2), fin}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, guest := fakeAgent(t)
			go io.Copy(io.Discard, guest)
			go func() {
				for !opened(c, 3) {
					runtime.Gosched()
				}
				for _, b := range tt.script {
					guest.Write(b)
				}
			}()
			var out bytes.Buffer
			p, err := c.Start(context.Background(), &Request{Path: "x"}, Stdio{Stdout: &out})
			if err != nil {
				t.Fatal(err)
			}
			e, err := p.Wait()
			if !errors.Is(err, tt.is) || (e != nil) != tt.exit || out.String() != "hi" {
				t.Fatalf("%+v, %v, %q", e, err, out.String())
			}
		})
	}
}

func FuzzGuard(f *testing.F) {
	f.Add(frame(frameWindow, flagACK, 1, 0))
	f.Add(append(frame(frameData, flagACK, 1, 2, 'h', 'i'), frame(frameWindow, flagFIN, 1, 0)...))
	f.Add(frame(framePing, flagSYN, 0, 1))
	f.Add(frame(frameWindow, flagRST, 3, 0))
	f.Add(frame(frameData, flagRST, 1, 2, '0', '0')) // a reset with a body once smuggled it past the guard
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &guard{streams: make(map[uint32]*guardStream)}
		g.cond.L = &g.mu
		for id := uint32(1); id < 8; id += 2 {
			g.outbound(frameHeader{Type: frameWindow, Flags: flagSYN, Stream: id})
		}
		used, err := g.deliver(b[:min(len(b), maxData)])
		if used > len(b) || len(g.ready) > used {
			t.Fatalf("used %d of %d bytes, passed %d", used, len(b), len(g.ready))
		}
		var pe *ProtocolError
		if err != nil && !errors.As(err, &pe) {
			t.Fatalf("untyped error %v", err)
		}
		// What was passed is whole frames without SYN, for streams of ours.
		for rest := g.ready; len(rest) > 0; {
			h := parseHeader(rest)
			if h.Flags&flagSYN != 0 && h.Type != framePing || h.Stream > 7 {
				t.Fatalf("passed %+v", h)
			}
			rest = rest[frameHeaderSize+h.bodyLen():]
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, m := range []*agentMsg{
		{Started: &startedMsg{PID: 1}}, {Failed: &failedMsg{Stage: "exec", Errno: 2}}, {Exited: &exitedMsg{Code: 3}}, {Drained: &drainedMsg{Stdout: 9}},
	} {
		b, err := appendFrame(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m agentMsg
		if err := readFrame(bytes.NewReader(b), decMode, maxReplyFrame, &m); err != nil || !m.valid() {
			return
		}
		// What decodes encodes to something that decodes to the same.
		b1, err := appendFrame(nil, &m)
		if err != nil {
			t.Fatal(err)
		}
		var m2 agentMsg
		if err := readFrame(bytes.NewReader(b1), decMode, maxReplyFrame, &m2); err != nil {
			t.Fatal(err)
		}
		b2, err := appendFrame(nil, &m2)
		if err != nil || !bytes.Equal(b1, b2) {
			t.Fatalf("%x and %x, %v", b1, b2, err)
		}
		var r Request
		_ = readFrame(bytes.NewReader(b), decModeHost, maxFrame, &r)
	})
}

func TestRequestsAreByteSafe(t *testing.T) {
	in := Request{Path: "\xff\xfe", Args: []string{"", "\x80"}, Env: []string{"K=\xc3\x28"}}
	b, err := appendFrame(nil, &in)
	if err != nil {
		t.Fatal(err)
	}
	var out Request
	if err := readFrame(bytes.NewReader(b), decModeHost, maxFrame, &out); err != nil {
		t.Fatal(err)
	}
	if out.Path != in.Path || out.Args[1] != in.Args[1] || out.Env[0] != in.Env[0] {
		t.Fatalf("%q", out.Args)
	}
}

func TestLengthAloneTakesNoMemory(t *testing.T) {
	allocs := testing.AllocsPerRun(10, func() {
		var m hostMsg
		err := readFrame(bytes.NewReader([]byte{0, 0x10, 0, 0, 1}), decModeHost, maxFrame, &m)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	})
	if allocs > 8 {
		t.Fatalf("%v allocations", allocs)
	}
}

func TestHandshakeFailures(t *testing.T) {
	good := Hello{Magic: magic, Version: Version}
	other := good
	other.Version = Version + 1
	foreign := good
	foreign.Magic = "HTTP/1.1"
	for name, tt := range map[string]struct {
		hello Hello
		ack   func(nonce []byte) []byte
		want  string
	}{
		"version": {other, nil, "protocol version 2"},
		"magic":   {foreign, nil, `magic "HTTP/1.1"`},
		"nonce":   {good, func([]byte) []byte { return []byte("stale") }, "wrong nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := net.Pipe()
			defer guest.Close()
			go func() {
				writeFrame(guest, &tt.hello)
				var hh hostHello
				if readFrame(guest, decModeHost, maxFrame, &hh) == nil {
					writeFrame(guest, &helloAck{Nonce: tt.ack(hh.Nonce)})
				}
			}()
			_, err := NewClient(context.Background(), host, Config{})
			var pe *ProtocolError
			var ve *VersionError
			if !errors.As(err, &pe) && !errors.As(err, &ve) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
		})
	}
	host, guest := net.Pipe()
	defer guest.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := NewClient(ctx, host, Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("silent agent: %v", err)
	}
	host, guest2 := net.Pipe()
	guest2.Close()
	if _, err := NewClient(context.Background(), host, Config{}); !errors.Is(err, ErrAgentLost) {
		t.Fatalf("closed connection: %v", err)
	}
}
