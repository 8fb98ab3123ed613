package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// One message is a 4-byte big-endian length and that many bytes of CBOR. The
// length comes first so that a decoder never scans an incomplete message
// (cbor.Decoder re-scans from the start at each read) and never takes more
// than the cap.

var encMode = mustEncMode()

// decMode reads messages from the guest, decModeHost those from the host: only
// an argv or an environment needs long arrays.
var (
	decMode     = mustDecMode(1024)
	decModeHost = mustDecMode(128 << 10)
)

func mustEncMode() cbor.EncMode {
	// Strings travel as byte strings: argv, environment and paths are bytes.
	m, err := cbor.EncOptions{String: cbor.StringToByteString, Sort: cbor.SortNone}.EncMode()
	if err != nil {
		panic(err) // constant options: a programming error
	}
	return m
}

func mustDecMode(maxArray int) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:          cbor.DupMapKeyEnforcedAPF,
		IndefLength:        cbor.IndefLengthForbidden,
		TagsMd:             cbor.TagsForbidden,
		MaxNestedLevels:    8,
		MaxArrayElements:   maxArray,
		MaxMapPairs:        64,
		ByteStringToString: cbor.ByteStringToStringAllowed,
		UTF8:               cbor.UTF8DecodeInvalid,
	}.DecMode()
	if err != nil {
		panic(err) // constant options: a programming error
	}
	return m
}

// errFrameSize is wrapped by readFrame for a length over the cap.
var errFrameSize = errors.New("message length over the limit")

// errMalformed is wrapped by readFrame for a body that does not decode.
var errMalformed = errors.New("malformed message")

// appendFrame appends the framed encoding of v, which must be a wire struct.
func appendFrame[T any](b []byte, v *T) ([]byte, error) {
	p, err := encMode.Marshal(v)
	if err != nil {
		return b, err
	}
	if len(p) > maxFrame {
		return b, &LimitError{What: LimitRequest, Max: maxFrame, Need: len(p)}
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p...), nil
}

// writeFrame writes v in one Write, so that two messages of different
// goroutines cannot interleave on a stream.
func writeFrame[T any](w io.Writer, v *T) error {
	b, err := appendFrame(nil, v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// readFrame reads one message of at most max bytes into v. io.EOF means that
// the stream ended between two messages, io.ErrUnexpectedEOF within one.
func readFrame[T any](r io.Reader, mode cbor.DecMode, max int, v *T) error {
	p, err := readBody(r, max)
	if err != nil {
		return err
	}
	return decodeFrame(p, mode, v)
}

// readBody reads one message and returns it without its length.
func readBody(r io.Reader, max int) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n == 0 || uint64(n) > uint64(max) {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", errFrameSize, n, max)
	}
	return readGrowing(r, int(n))
}

// readGrowing reads n bytes, taking memory as they arrive: a length alone, with
// no bytes after it, costs 4 KiB.
func readGrowing(r io.Reader, n int) ([]byte, error) {
	p := make([]byte, 0, min(n, 4096))
	for len(p) < n {
		if len(p) == cap(p) {
			q := make([]byte, len(p), min(n, 4*cap(p)))
			copy(q, p)
			p = q
		}
		m, err := io.ReadFull(r, p[len(p):cap(p)])
		p = p[:len(p)+m]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return p, nil
}

// decodeFrame decodes a message body.
func decodeFrame[T any](p []byte, mode cbor.DecMode, v *T) error {
	if err := mode.Unmarshal(p, v); err != nil {
		return fmt.Errorf("%w of %d bytes: %w", errMalformed, len(p), err)
	}
	return nil
}

// count returns how many of the given are true; message unions have exactly one.
func count(set ...bool) (n int) {
	for _, b := range set {
		if b {
			n++
		}
	}
	return n
}

func (m *hostMsg) valid() bool {
	return count(m.Signal != nil, m.Kill != nil, m.Resize != nil, m.Detach != nil) == 1
}

func (m *agentMsg) valid() bool {
	return count(m.Started != nil, m.Failed != nil, m.SignalAck != nil, m.StdinClosed != nil,
		m.Exited != nil, m.Drained != nil, m.Attached != nil, m.Gap != nil, m.Detached != nil) == 1
}

// valid says whether the record is of a process that can have ended so: a code
// beyond a byte would change its value, to 0 even, when a caller exits with it.
func (m *exitedMsg) valid() bool {
	if m.Signal != 0 {
		return m.Code == -1 && m.Signal > 0 && m.Signal <= int(maxSignal)
	}
	return m.Code >= 0 && m.Code <= maxExitCode
}

// maxExitCode is the largest exit code. Source: wait(2), WEXITSTATUS.
const maxExitCode = 255

func (m *callReq) valid() bool {
	return count(m.Stat, m.Shutdown != nil, m.Sessions != nil, m.Forget != nil) == 1
}
