package devices

import (
	"errors"
	"io"
	"sync"
)

// Where the first serial port belongs on the port bus.
const (
	COM1Base   = 0x3f8
	SerialSize = 8
	COM1IRQ    = 4
)

// SerialInputLimit is how many bytes of host input wait for the guest, at most,
// besides the 16 of the UART.
const SerialInputLimit = 4096

// ErrInputFull says that the guest does not read its console fast enough.
var ErrInputFull = errors.New("devices: the serial port's input buffer is full; retry when the guest has read some")

// Serial is a 16550A UART, the guest's console, whose line is infinitely fast:
// a byte written is sent at once and the transmitter is always empty.
//
// Deviations from the 16550D data sheet: no baud rate, parity or break; the modem
// lines are constant (CTS, DSR and DCD on) outside loopback, so that they never
// interrupt; the character timeout is immediate.
//
// Concurrency: all methods may be called from any goroutine. Neither out nor
// raise is called with a lock held that Read or InjectInput needs.
type Serial struct {
	out   io.Writer
	raise func() error

	// outMu keeps the bytes of one guest access together and in order.
	outMu sync.Mutex

	mu   sync.Mutex // guards what follows
	uart uart
	// line is the level of the interrupt pin as last computed; raise is called
	// when it rises.
	line    bool
	input   []byte // waiting for room in the receive FIFO
	dropped uint64
}

// SerialState is the serialisable state of a Serial.
type SerialState struct {
	IER, FCR, LCR, MCR, SCR byte
	DLL, DLM                byte   // divisor latch
	Overrun                 bool   // LSR bit 1
	THREPending             bool   // "transmitter empty" was not yet acknowledged
	FIFO                    []byte // receive FIFO, at most 16 bytes
	Input                   []byte // host input behind it, at most SerialInputLimit
	Dropped                 uint64 // output bytes that out did not take
}

// NewSerial makes a UART after power-on. Output bytes go to out on the vCPU's
// thread: out must not block (give it a bounded buffer); its errors are counted
// as dropped bytes. raise injects one edge of the interrupt and must not block.
// Both may be nil.
func NewSerial(out io.Writer, raise func() error) *Serial {
	if out == nil {
		out = io.Discard
	}
	return &Serial{out: out, raise: raise, uart: newUART()}
}

// InjectInput makes p arrive at the guest's receiver. It returns how many bytes
// it took, with ErrInputFull if not all. It never blocks.
func (s *Serial) InjectInput(p []byte) (int, error) {
	s.mu.Lock()
	n := min(len(p), SerialInputLimit-len(s.input))
	s.input = append(s.input, p[:n]...)
	raise := s.settleLocked()
	s.mu.Unlock()
	s.fire(raise)
	if n < len(p) {
		return n, ErrInputFull
	}
	return n, nil
}

// Dropped counts the output bytes that out did not take.
func (s *Serial) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Read reads a register; only byte accesses exist, wider ones read their first
// register and zeroes.
func (s *Serial) Read(off uint64, p []byte) {
	clear(p)
	if len(p) == 0 || off >= SerialSize {
		return
	}
	s.mu.Lock()
	p[0] = s.uart.read(int(off))
	raise := s.settleLocked()
	s.mu.Unlock()
	s.fire(raise)
}

// Write writes a register; only byte accesses exist, wider ones are ignored.
func (s *Serial) Write(off uint64, p []byte) {
	if len(p) != 1 || off >= SerialSize {
		return
	}
	s.mu.Lock()
	send := s.uart.write(int(off), p[0])
	raise := s.settleLocked()
	s.mu.Unlock()
	if send {
		s.send(p)
	}
	s.fire(raise)
}

func (s *Serial) send(p []byte) {
	s.outMu.Lock()
	n, err := s.out.Write(p)
	s.outMu.Unlock()
	if err != nil || n < len(p) {
		s.mu.Lock()
		s.dropped += uint64(len(p) - max(0, min(n, len(p))))
		s.mu.Unlock()
	}
}

// settleLocked brings the receive FIFO and the interrupt pin up to date after a
// change and says whether the pin rose. The pin is looked at before and after the
// refill: taking the last byte lets it fall, and the next byte is a new edge.
func (s *Serial) settleLocked() bool {
	before := s.updateLocked()
	s.refillLocked()
	after := s.updateLocked()
	return before || after
}

// refillLocked moves waiting input into the receive FIFO.
func (s *Serial) refillLocked() {
	// In loopback the receiver is cut off from the line.
	if len(s.input) == 0 || s.uart.loopback() {
		return
	}
	n := min(len(s.input), s.uart.room())
	s.uart.fifo = append(s.uart.fifo, s.input[:n]...)
	s.input = append(s.input[:0], s.input[n:]...)
}

// updateLocked recomputes the interrupt pin and says whether it rose.
func (s *Serial) updateLocked() bool {
	old := s.line
	s.line = s.uart.interrupting()
	return s.line && !old
}

func (s *Serial) fire(raise bool) {
	if raise && s.raise != nil {
		// A failing eventfd means that the VM is going away.
		_ = s.raise()
	}
}

// State returns a copy of the serialisable state.
func (s *Serial) State() SerialState {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := &s.uart
	return SerialState{
		IER: u.ier, FCR: u.fcr, LCR: u.lcr, MCR: u.mcr, SCR: u.scr, DLL: u.dll, DLM: u.dlm,
		Overrun: u.overrun, THREPending: u.threPending,
		FIFO:    append([]byte(nil), u.fifo...),
		Input:   append([]byte(nil), s.input...),
		Dropped: s.dropped,
	}
}

// ErrBadState is wrapped by the errors of Restore methods.
var ErrBadState = errors.New("devices: state does not fit the device")

// Restore sets the state, of a UART whose guest does not run. It raises the
// interrupt if one is pending. Errors: ErrBadState; nothing changed then.
func (s *Serial) Restore(st SerialState) error {
	if len(st.FIFO) > uartFIFOSize || len(st.Input) > SerialInputLimit ||
		st.IER&^ierMask != 0 || st.MCR&^mcrMask != 0 {
		return ErrBadState
	}
	s.mu.Lock()
	s.uart = uart{
		ier: st.IER, fcr: st.FCR, lcr: st.LCR, mcr: st.MCR, scr: st.SCR, dll: st.DLL, dlm: st.DLM,
		overrun: st.Overrun, threPending: st.THREPending,
		fifo: append(make([]byte, 0, uartFIFOSize), st.FIFO...),
	}
	s.input = append([]byte(nil), st.Input...)
	s.dropped = st.Dropped
	s.line = false
	raise := s.updateLocked()
	s.mu.Unlock()
	s.fire(raise)
	return nil
}
