//go:build linux

package agent_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// linkUnit is a run of bytes that stays together: a handshake message or a frame.
type linkUnit struct {
	stream uint32 // 0: of the connection, which nothing overtakes
	b      []byte
}

// maxLinkUnit bounds what a length field can make a Link read.
const maxLinkUnit = 4 << 20

// yamux's header. Source: yamux spec.md, "Framing".
const (
	muxHeader = 12
	muxData   = 0
	muxWindow = 1
)

// linkUnits cuts one direction into units.
type linkUnits struct {
	r         *bufio.Reader
	handshake int // handshake messages still to come
}

// next reads one unit. At an error it returns the bytes before it.
func (u *linkUnits) next() (linkUnit, error) {
	if u.handshake > 0 {
		u.handshake--
		b := make([]byte, 4)
		if n, err := io.ReadFull(u.r, b); err != nil {
			return linkUnit{b: b[:n]}, err
		}
		return u.body(linkUnit{b: b}, binary.BigEndian.Uint32(b))
	}
	h := make([]byte, muxHeader)
	if n, err := io.ReadFull(u.r, h); err != nil {
		return linkUnit{b: h[:n]}, err
	}
	x := linkUnit{b: h}
	if h[1] == muxData || h[1] == muxWindow {
		x.stream = binary.BigEndian.Uint32(h[4:])
	}
	if h[1] != muxData {
		return x, nil
	}
	return u.body(x, binary.BigEndian.Uint32(h[8:]))
}

func (u *linkUnits) body(x linkUnit, n uint32) (linkUnit, error) {
	if n > maxLinkUnit {
		return x, fmt.Errorf("link: unit of %d bytes, at most %d", n, maxLinkUnit)
	}
	b := make([]byte, len(x.b)+int(n))
	m, err := io.ReadFull(u.r, b[copy(b, x.b):])
	x.b = b[:len(x.b)+m]
	return x, err
}
