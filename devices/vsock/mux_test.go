package vsock

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"
)

const testCID = 3

// testMux is a mux with a listener on port 1 and a clock that tests set.
func testMux(t testing.TB, cfg Config) (m *mux, now *time.Time) {
	t.Helper()
	cfg.GuestCID = testCID
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	now = new(time.Time)
	*now = time.Unix(1000, 0)
	m = newMux(cfg, func() time.Time { return *now })
	if _, err := m.listenOn(1); err != nil {
		t.Fatal(err)
	}
	return m, now
}

func guestPacket(op Op, guest, host uint32) *Header {
	return &Header{SrcCID: testCID, DstCID: HostCID, SrcPort: guest, DstPort: host, Type: TypeStream, Op: op, BufAlloc: 1 << 20}
}

// drain takes all packets and drops their payload.
func drain(m *mux) (ops []string) {
	for m.pending() {
		h, ep := m.next(MaxPayload)
		for n := int(h.Len); n > 0; {
			p := ep.unsent(n)
			ep.dropUnsent(len(p))
			n -= len(p)
		}
		ops = append(ops, fmt.Sprintf("%v %d>%d", h.Op, h.SrcPort, h.DstPort))
	}
	return ops
}

func wantPackets(t *testing.T, m *mux, want ...string) {
	t.Helper()
	if got := drain(m); strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("packets %q, want %q", got, want)
	}
}

func TestMuxIgnoresEveryInvalidOp(t *testing.T) { // D31
	m, _ := testMux(t, Config{})
	m.packet(guestPacket(OpRequest, 5, 1), 0)
	drain(m)
	before := fmt.Sprintf("%+v", m.conns[key{1, 5}].st)
	for op := 0; op <= math.MaxUint16; op++ {
		if Op(op).Valid() {
			continue
		}
		for _, guest := range []uint32{5, 6} {
			h := guestPacket(Op(op), guest, 1)
			h.Flags, h.Len, h.FwdCnt = 3, 10, 99
			if ep, n := m.packet(h, 10); ep != nil || n != 0 {
				t.Fatalf("op %d delivered %d bytes", op, n)
			}
		}
	}
	if after := fmt.Sprintf("%+v", m.conns[key{1, 5}].st); after != before || len(m.conns) != 1 || m.pending() {
		t.Errorf("state %s, was %s", after, before)
	}
}

func TestMuxZeroLengthDataDoesNotAllocate(t *testing.T) { // D37
	m, _ := testMux(t, Config{})
	m.packet(guestPacket(OpRequest, 5, 1), 0)
	drain(m)
	h := guestPacket(OpRW, 5, 1)
	if n := testing.AllocsPerRun(1000, func() { m.packet(h, 0) }); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
	if ep := m.conns[key{1, 5}]; len(ep.readable) != 0 || ep.rx.len() != 0 {
		t.Error("a zero-length packet woke the reader or was buffered")
	}
}

func TestMuxUnknownPacketsDoNotAllocate(t *testing.T) {
	m, _ := testMux(t, Config{})
	h := guestPacket(OpRW, 5, 1)
	n := testing.AllocsPerRun(1000, func() {
		m.packet(h, 0)
		m.next(0)
	})
	if n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}

func TestMuxNeverReusesALivePortPair(t *testing.T) { // D28
	m, _ := testMux(t, Config{})
	a, _ := m.dial(7)
	drain(m)
	m.nextPort = a.key.host
	if _, err := m.listenOn(a.key.host + 1); err != nil {
		t.Fatal(err)
	}
	b, err := m.dial(7)
	if err != nil || b.key.host != a.key.host+2 {
		t.Errorf("second dial uses host port %d, %v; want %d", b.key.host, err, a.key.host+2)
	}
	m.nextPort = a.key.host
	c, _ := m.dial(8) // another guest port: another pair
	if c.key.host != a.key.host {
		t.Errorf("host port %d, want %d", c.key.host, a.key.host)
	}
	m.nextPort = math.MaxUint32 - 1
	if d, _ := m.dial(9); d.key.host != math.MaxUint32-1 {
		t.Errorf("host port %d", d.key.host)
	}
	if d, _ := m.dial(9); d.key.host != firstEphemeral {
		t.Errorf("after the last port: %d, want %d", d.key.host, firstEphemeral)
	}
}

func TestMuxTimers(t *testing.T) {
	m, now := testMux(t, Config{ConnectTimeout: 2 * time.Second, CloseTimeout: 3 * time.Second})
	if _, ok := m.expire(); ok {
		t.Fatal("a timer without a connection")
	}
	ep, _ := m.dial(7)
	if !m.early {
		t.Error("nobody is told that a timer was armed")
	}
	drain(m)
	if at, ok := m.expire(); !ok || !at.Equal(now.Add(2*time.Second)) || m.early {
		t.Errorf("next timer %v, %v", at, ok)
	}
	*now = now.Add(2*time.Second - 1)
	m.expire()
	if ep.st.Phase != phaseConnecting {
		t.Fatal("expired too early")
	}
	*now = now.Add(1)
	m.expire()
	if ep.st.Reason != reasonTimeout {
		t.Fatalf("reason %d, want timeout", ep.st.Reason)
	}
	wantPackets(t, m, fmt.Sprintf("RST %d>7", ep.key.host))

	// Close: each byte of progress gives the guest the whole time again.
	m.packet(guestPacket(OpRequest, 5, 1), 0)
	drain(m)
	ep = m.conns[key{1, 5}]
	h := guestPacket(OpCreditUpdate, 5, 1)
	h.BufAlloc = 0
	m.packet(h, 0)
	ep.pend = make([]byte, 10)
	m.step(ep, event{kind: evWrite, n: 10})
	m.step(ep, event{kind: evClose})
	wantPackets(t, m, "CREDIT_REQUEST 1>5")
	*now = now.Add(2 * time.Second)
	h.BufAlloc = 5
	m.packet(h, 0)
	wantPackets(t, m, "RW 1>5", "CREDIT_REQUEST 1>5")
	*now = now.Add(2 * time.Second)
	m.expire()
	if ep.st.Phase != phaseClosing {
		t.Fatalf("phase %v: progress was not counted", ep.st.Phase)
	}
	*now = now.Add(time.Second)
	m.expire()
	wantPackets(t, m, "RST 1>5")
	if len(m.conns) != 0 {
		t.Errorf("%d connections left", len(m.conns))
	}
}

func TestMuxConnectionsTakeTurns(t *testing.T) {
	m, _ := testMux(t, Config{})
	for port := uint32(1); port <= 3; port++ {
		m.packet(guestPacket(OpRequest, port, 1), 0)
	}
	drain(m)
	for port := uint32(1); port <= 3; port++ {
		ep := m.conns[key{1, port}]
		ep.pend = make([]byte, 3*MaxPayload)
		m.step(ep, event{kind: evWrite, n: 3 * MaxPayload})
	}
	wantPackets(t, m,
		"RW 1>1", "RW 1>2", "RW 1>3", "RW 1>1", "RW 1>2", "RW 1>3", "RW 1>1", "RW 1>2", "RW 1>3")
}

func TestLogIsRateLimited(t *testing.T) { // reliability row 30
	m, now := testMux(t, Config{})
	var buf bytes.Buffer
	lg := slog.New(slog.NewTextHandler(&buf, nil))
	flood := func() int {
		buf.Reset()
		for range 5000 {
			h := guestPacket(OpRW, 5, 1)
			h.Type = 9
			m.packet(h, 0)
			m.next(0)
			if len(m.log.pending) > 3 {
				emit(lg, m.log.take())
			}
		}
		emit(lg, m.log.take())
		return strings.Count(buf.String(), "\n")
	}
	if n := flood(); n != logBurst {
		t.Errorf("%d lines, want %d", n, logBurst)
	}
	*now = now.Add(logWindow)
	if n := flood(); n != logBurst || !strings.Contains(buf.String(), fmt.Sprintf("suppressed=%d", 5000-logBurst)) {
		t.Errorf("%d lines after the window, want %d and the exact count:\n%s", n, logBurst, buf.String())
	}
}
