//go:build unix

package vsock_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/devices/vsock/vsocktest"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// Tests named TestSpec_Dn check one numbered statement about the socket device,
// with the section of VIRTIO 1.2 it comes from.

const (
	guestPort = 5000
	hostPort  = 1024
	statusBad = 0x40 // DEVICE_NEEDS_RESET, §2.1
)

// newPeer is a device with a listener on hostPort and a guest that sends single
// packets.
func newPeer(t *testing.T, cfg vsock.Config, o vsocktest.Options) (*vsock.Device, net.Listener, *vsocktest.Peer) {
	t.Helper()
	d := newDevice(t, cfg)
	l := listen(t, d, hostPort)
	return d, l, vsocktest.NewPeer(t, d, o)
}

// connected is newPeer with one connection that the guest opened.
func connected(t *testing.T, cfg vsock.Config) (*vsock.Device, *vsocktest.Peer, *vsock.Conn) {
	t.Helper()
	d, l, p := newPeer(t, cfg, vsocktest.Options{})
	p.Connect(guestPort, hostPort)
	return d, p, accept(t, l)
}

func accept(t *testing.T, l net.Listener) *vsock.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*vsock.Conn)
}

// header is a packet of the connection of connected.
func header(op vsock.Op) vsock.Header { return vsocktest.Header(op, guestPort, hostPort) }

func mustRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	p := make([]byte, len(want))
	if _, err := io.ReadFull(c, p); err != nil || string(p) != want {
		t.Fatalf("read %q, %v, want %q", p, err, want)
	}
}

func wantReadError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	n, err := c.Read(make([]byte, 10))
	if n != 0 || !errors.Is(err, want) {
		t.Fatalf("Read = %d, %v, want error %v", n, err, want)
	}
}

func wantWriteError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, want) {
		t.Fatalf("Write = %d, %v, want error %v", n, err, want)
	}
}

func TestSpec_D1_ExactlyThreeQueues(t *testing.T) { // §5.10.2
	d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	if got := d.QueueSizes(); len(got) != 3 {
		t.Fatalf("queues %v, want rx, tx, event", got)
	}
	for i, want := range []bool{true, true, true, false, false} {
		p.Drv.Write32(virtiotest.QueueSel, uint32(i))
		if got := p.Drv.Read32(virtiotest.QueueSizeMax) != 0; got != want {
			t.Errorf("queue %d exists: %v, want %v", i, got, want)
		}
	}
	if got := p.Drv.Read32(virtiotest.DeviceID); got != 19 {
		t.Errorf("DeviceID %d, want 19", got)
	}
}

func TestSpec_D2_StreamOnlyWithoutFeatureBits(t *testing.T) { // §5.10.3
	d, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{NoEventIdx: true})
	// VERSION_1, EVENT_IDX, INDIRECT_DESC; bits 0 (STREAM) and 1 (SEQPACKET) clear.
	if got, want := p.Drv.DeviceFeatures(), uint64(1<<32|1<<29|1<<28); got != want {
		t.Errorf("offered features %#x, want %#x", got, want)
	}
	p.Connect(guestPort, hostPort)
	c := accept(t, l)
	p.Send(header(vsock.OpRW), []byte("stream"))
	mustRead(t, c, "stream")
	if d.Err() != nil {
		t.Error(d.Err())
	}
}

func TestSpec_D3_GuestCID(t *testing.T) { // §5.10.4, §5.10.6.4.2
	for _, cid := range []uint64{0, 1, 2, 1<<32 - 1, 1 << 32, 1<<32 + 3, 1 << 63, 1<<64 - 1} {
		var ce *vsock.ConfigError
		if _, err := vsock.New(vsock.Config{GuestCID: cid}); !errors.As(err, &ce) || ce.Field != "GuestCID" {
			t.Errorf("New with CID %d: %v, want a ConfigError", cid, err)
		}
	}
	for _, cid := range []uint64{3, 1 << 16, 1<<32 - 2} {
		d := newDevice(t, vsock.Config{GuestCID: cid})
		p := virtiotest.New(t, d)
		for range 2 { // before negotiation and, the same, after a start
			lo, hi := p.Read32(virtiotest.Config), p.Read32(virtiotest.Config+4)
			if uint64(lo) != cid || hi != 0 {
				t.Errorf("guest_cid words %d, %d, want %d, 0", lo, hi, cid)
			}
			p.Start(0)
		}
		b := make([]byte, 8)
		d.ReadConfig(4, b[:4])
		d.ReadConfig(8, b[4:])
		d.ReadConfig(0xeff, b[7:])
		if binary.LittleEndian.Uint64(b) != 0 {
			t.Errorf("bytes beyond the CID read %x, want zeros", b)
		}
	}
}

func TestSpec_D4_HeaderIs44BytesLittleEndian(t *testing.T) { // §5.10.6
	golden := "0300000000000000" + "0200000000000000" + // src_cid, dst_cid
		"88130000" + "00040000" + "0a000000" + // src_port, dst_port, len
		"0100" + "0500" + "03000000" + // type, op, flags
		"00000400" + "78563412" // buf_alloc, fwd_cnt
	raw, _ := hex.DecodeString(golden)
	want := vsock.Header{
		SrcCID: 3, DstCID: 2, SrcPort: 5000, DstPort: 1024, Len: 10,
		Type: 1, Op: vsock.OpRW, Flags: 3, BufAlloc: 0x40000, FwdCnt: 0x12345678,
	}
	if got := vsock.DecodeHeader(raw); got != want {
		t.Errorf("decoded %+v, want %+v", got, want)
	}
	got := make([]byte, vsock.HeaderSize)
	want.Encode(got)
	if vsock.HeaderSize != 44 || !bytes.Equal(got, raw) {
		t.Errorf("encoded %x, want %s", got, golden)
	}

	d, _, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	for _, bit := range []int{32, 33, 47, 63} {
		h := header(vsock.OpRequest)
		h.SrcCID |= 1 << bit
		p.Send(h, nil)
		p.Quiet()
		h = header(vsock.OpRequest)
		h.DstCID |= 1 << bit
		p.Send(h, nil)
		if pk := p.Recv(); pk.Op != vsock.OpRst || pk.SrcCID != h.DstCID || pk.DstCID != vsocktest.GuestCID {
			t.Errorf("answer to a destination with bit %d: %v, want RST", bit, &pk.Header)
		}
	}
	if n := len(d.State().Connections); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

func TestSpec_D5_OnlyLenBytesCount(t *testing.T) { // §5.10.6
	_, p, c := connected(t, vsock.Config{})
	h := header(vsock.OpRW)
	h.Len = 5
	p.SendRaw(h, []byte("hello, and slack"))
	p.Send(header(vsock.OpRW), []byte("!"))
	mustRead(t, c, "hello!")
	h.Len = 6
	p.SendRaw(h, []byte("short"))
	p.Expect(vsock.OpRst, guestPort, hostPort)
	wantReadError(t, c, vsock.ErrReset)
}

func TestSpec_D6_OversizedPacketIsReset(t *testing.T) { // policy
	d, p, c := connected(t, vsock.Config{BufferSize: 1 << 20})
	p.Send(header(vsock.OpRW), make([]byte, vsock.MaxPayload)) // the greatest good one
	if _, err := io.ReadFull(c, make([]byte, vsock.MaxPayload)); err != nil {
		t.Fatal(err)
	}
	p.Send(header(vsock.OpRW), make([]byte, vsock.MaxPayload+1))
	p.Expect(vsock.OpRst, guestPort, hostPort)
	var pe *vsock.ProtocolError
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &pe) || !errors.Is(err, vsock.ErrReset) {
		t.Errorf("Read: %v, want a ProtocolError", err)
	}
	h := vsocktest.Header(vsock.OpRW, 9, 9) // no such connection
	h.Len = 1<<32 - 1
	p.SendRaw(h, nil)
	p.Expect(vsock.OpRst, 9, 9)
	if got := d.Stats().TxBytes; got != vsock.MaxPayload {
		t.Errorf("%d bytes buffered, want %d", got, vsock.MaxPayload)
	}
}

func TestSpec_D7_PayloadOfOtherOpsIsNeverDelivered(t *testing.T) { // policy
	_, l, p := newPeer(t, vsock.Config{}, vsocktest.Options{})
	p.Send(header(vsock.OpRequest), []byte("smuggled"))
	p.Expect(vsock.OpResponse, guestPort, hostPort)
	c := accept(t, l)
	for _, op := range []vsock.Op{vsock.OpShutdown, vsock.OpCreditUpdate, vsock.OpCreditRequest, 0, 8, 77} {
		p.Send(header(op), []byte("smuggled")) // SHUTDOWN without flags promises nothing
	}
	p.Send(header(vsock.OpRW), []byte("data"))
	h := header(vsock.OpShutdown)
	h.Flags = vsock.ShutdownSend
	p.Send(h, []byte("smuggled"))
	got, err := io.ReadAll(c)
	if string(got) != "data" || err != nil {
		t.Errorf("read %q, %v, want %q", got, err, "data")
	}
}

func TestSpec_D18_UnknownTypeIsAnsweredWithRst(t *testing.T) { // §5.10.6.4.2
	_, p, c := connected(t, vsock.Config{})
	for _, typ := range []uint16{0, 2, 3, 0x100, 0xffff} {
		for _, op := range []vsock.Op{vsock.OpRequest, vsock.OpRW, vsock.OpShutdown, 99} {
			h := header(op)
			h.Type = typ
			p.Send(h, []byte("x"))
			if pk := p.Expect(vsock.OpRst, guestPort, hostPort); pk.Type != typ {
				t.Errorf("RST has type %d, want %d", pk.Type, typ)
			}
		}
		h := header(vsock.OpRst)
		h.Type = typ
		p.Send(h, nil) // a RST is never answered
		p.Quiet()
	}
	p.Send(header(vsock.OpRW), []byte("alive")) // the stream of the same ports is another thing
	mustRead(t, c, "alive")
}

func TestSpec_D19_ForeignAddressesAreRefused(t *testing.T) { // §5.10.6.4.1
	d, p, c := connected(t, vsock.Config{})
	for _, cid := range []uint64{0, 1, 2, 4, 1<<32 - 1, 1<<32 + 3, 1<<64 - 1} {
		for _, op := range []vsock.Op{vsock.OpRequest, vsock.OpRW, vsock.OpRst, vsock.OpShutdown} {
			h := header(op)
			h.SrcCID, h.Flags = cid, 3
			p.Send(h, []byte("forged"))
		}
	}
	p.Quiet()
	for _, cid := range []uint64{0, 1, 3, 4, 1<<32 - 1, 1<<32 + 2, 1<<64 - 1} {
		h := header(vsock.OpRequest)
		h.DstCID = cid
		p.Send(h, nil)
		if pk := p.Recv(); pk.Op != vsock.OpRst || pk.SrcCID != cid {
			t.Errorf("answer for CID %d: %v, want RST from it", cid, &pk.Header)
		}
		h.Op = vsock.OpRst
		p.Send(h, nil)
	}
	p.Quiet()
	p.Send(header(vsock.OpRW), []byte("alive"))
	mustRead(t, c, "alive")
	if n := len(d.State().Connections); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestSpec_D20_ChainsOfTheWrongDirection(t *testing.T) { // §5.10.6.4
	d, p, c := connected(t, vsock.Config{})
	h := header(vsock.OpRW)
	h.Len = 4
	raw := make([]byte, vsock.HeaderSize)
	h.Encode(raw)
	buf := p.Drv.AllocPut(append(raw, "evil"...))
	in := p.Drv.Alloc(64, 8)
	p.Drv.Put(in, bytes.Repeat([]byte{0xee}, 64))
	tx := p.Drv.Queue(vsocktest.Tx)
	for tx.Free() < int(tx.Size) {
		tx.WaitUsed()
	}
	tx.Post(buf, virtiotest.In(in, 64))
	tx.Kick()
	if u := tx.WaitUsed(); u.Len != 0 {
		t.Errorf("tx chain used with length %d, want 0", u.Len)
	}
	if got := p.Drv.Bytes(in, 64); !bytes.Equal(got, bytes.Repeat([]byte{0xee}, 64)) {
		t.Errorf("the device wrote into a tx chain: %x", got)
	}
	p.Send(header(vsock.OpRW), []byte("good"))
	mustRead(t, c, "good")
	if got := d.Stats().Malformed; got != 1 {
		t.Errorf("Malformed = %d, want 1", got)
	}

	d2, _, p2 := newPeer(t, vsock.Config{}, vsocktest.Options{RxBuffers: -1})
	p2.Drv.Queue(vsocktest.Rx).Post(buf2(p2, 44), virtiotest.In(p2.Drv.Alloc(4096, 8), 4096))
	p2.Send(vsocktest.Header(vsock.OpRW, 1, 1), nil) // causes a RST
	wantBroken(t, d2, p2)
}

func buf2(p *vsocktest.Peer, n int) virtiotest.Buf { return p.Drv.AllocPut(make([]byte, n)) }

// wantBroken waits until the device needs a reset.
func wantBroken(t *testing.T, d *vsock.Device, p *vsocktest.Peer) {
	t.Helper()
	vsocktest.WaitFor(t, "DEVICE_NEEDS_RESET", func() bool { return p.Drv.Status()&statusBad != 0 })
	vsocktest.WaitFor(t, "Err", func() bool { return d.Err() != nil })
}

func TestSpec_D31_InvalidOpsChangeNothing(t *testing.T) { // §5.10.6; all 65,536 in TestMuxIgnoresEveryInvalidOp
	d, p, c := connected(t, vsock.Config{})
	before := d.State()
	for _, op := range []vsock.Op{0, 8, 9, 255, 256, 0x105, 0x8005, 0xffff} {
		for _, ports := range [][2]uint32{{guestPort, hostPort}, {1, hostPort}, {1, 1}} {
			h := vsocktest.Header(op, ports[0], ports[1])
			h.Flags, h.FwdCnt, h.BufAlloc = 3, 77, 1
			p.Send(h, []byte("x"))
		}
	}
	p.Quiet()
	after := d.State()
	if after.Connections[0] != before.Connections[0] || len(after.Connections) != 1 {
		t.Errorf("state changed: %+v, was %+v", after.Connections, before.Connections)
	}
	p.Send(header(vsock.OpRW), []byte("alive"))
	mustRead(t, c, "alive")
}

func TestSpec_D32_SeqpacketFlagsAreIgnored(t *testing.T) { // §5.10.6.6
	_, p, c := connected(t, vsock.Config{})
	for flags := range uint32(8) {
		h := header(vsock.OpRW)
		h.Flags = flags
		p.Send(h, []byte{'0' + byte(flags)})
	}
	mustRead(t, c, "01234567")
}
