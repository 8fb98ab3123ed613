//go:build linux

package agent_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

func linkMessage(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func linkFrame(typ uint8, stream uint32, body string) []byte {
	b := []byte{0, typ, 0, 0}
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// sendOver writes one host's transcript through a Link and returns what the guest
// got, and the sizes of its reads.
func sendOver(t *testing.T, f linkFaults, transcript []byte) (got []byte, largest int, l *badLink) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	l, host, guest := newBadLink(seed, f, linkFaults{})
	t.Cleanup(func() { l.Close(); host.Close(); guest.Close() })
	go func(c net.Conn) { c.Write(transcript); c.Close() }(host)
	b := make([]byte, 4096)
	for {
		n, err := guest.Read(b)
		got = append(got, b[:n]...)
		largest = max(largest, n)
		if err != nil {
			return got, largest, l
		}
	}
}

// linkTranscript is a handshake and 200 frames of 5 streams, with a ping amid them.
func linkTranscript() (b []byte) {
	b = append(b, linkMessage("hello")...)
	for i := range 200 {
		if i == 100 {
			b = append(b, linkFrame(2, 0, "")...)
		}
		b = append(b, linkFrame(0, uint32(1+2*(i%5)), string(rune('0'+i/5)))...)
	}
	return b
}

func TestLinkNolinkFaultsChangeNothing(t *testing.T) {
	if got, _, l := sendOver(t, linkFaults{}, linkTranscript()); !bytes.Equal(got, linkTranscript()) || l.Overtaken() != 0 {
		t.Fatalf("%d bytes of %d", len(got), len(linkTranscript()))
	}
}

func TestLinkPiecesAreSmallAndTheBytesTheSame(t *testing.T) {
	for _, piece := range []int{1, 7} {
		got, largest, _ := sendOver(t, linkFaults{Piece: piece, StallEvery: 50, Stall: time.Millisecond}, linkTranscript())
		if !bytes.Equal(got, linkTranscript()) || largest > piece {
			t.Fatalf("piece %d: %d bytes of %d, largest read %d", piece, len(got), len(linkTranscript()), largest)
		}
	}
}

func TestLinkReorderKeepsStreamsAndBarriers(t *testing.T) {
	got, _, l := sendOver(t, linkFaults{Reorder: true, Delay: 100 * time.Microsecond}, linkTranscript())
	if len(got) != len(linkTranscript()) || bytes.Equal(got, linkTranscript()) || l.Overtaken() == 0 {
		t.Fatalf("%d bytes of %d, %d frames overtook", len(got), len(linkTranscript()), l.Overtaken())
	}
	if !bytes.HasPrefix(got, linkMessage("hello")) {
		t.Fatalf("the handshake was overtaken: %q", got[:20])
	}
	got = got[9:]
	next := make(map[uint32]int)
	for i := 0; len(got) > 0; i++ {
		stream, n := binary.BigEndian.Uint32(got[4:]), int(binary.BigEndian.Uint32(got[8:]))
		if got[1] == 2 {
			if i != 100 {
				t.Fatalf("the ping is frame %d, want 100", i)
			}
		} else if string(got[12:12+n]) != string(rune('0'+next[stream])) {
			t.Fatalf("stream %d: %q, want frame %d", stream, got[12:12+n], next[stream])
		} else {
			next[stream]++
		}
		got = got[12+n:]
	}
}

func TestLinkCutIsExact(t *testing.T) {
	for _, n := range []int64{1, 9, 10, 500} {
		got, _, l := sendOver(t, linkFaults{Piece: 3, Cut: n}, linkTranscript())
		if to, _ := l.Delivered(); int64(len(got)) != n || to != n {
			t.Fatalf("cut after %d bytes: %d arrived, %d delivered", n, len(got), to)
		}
	}
}

func TestLinkCloseLeavesNothingOfAStuckLink(t *testing.T) {
	l, host, guest := newBadLink(1, linkFaults{StallEvery: 1, Stall: time.Hour}, linkFaults{})
	go io.Copy(io.Discard, guest)
	host.Write(linkMessage("stalls for an hour"))
	l.Close()
	if _, err := host.Write([]byte("x")); err == nil {
		t.Fatal("a write after Close succeeded")
	}
	host.Close()
	guest.Close()
}
