package devices

// Registers of a 16550A by offset (16550D data sheet, "Summary of Registers").
// With LCR bit 7 (DLAB) set, the first two are the divisor latch.
const (
	uartData = 0 // RBR (read), THR (write); DLL
	uartIER  = 1 // interrupt enable; DLM
	uartIIR  = 2 // interrupt identification (read); FCR, FIFO control (write)
	uartLCR  = 3 // line control
	uartMCR  = 4 // modem control
	uartLSR  = 5 // line status
	uartMSR  = 6 // modem status
	uartSCR  = 7 // scratch
)

const (
	uartFIFOSize = 16

	ierRDA  = 0x01 // received data available
	ierTHRE = 0x02 // transmitter holding register empty
	ierRLS  = 0x04 // receiver line status
	ierMask = 0x0f // upper bits read 0: a set one looks like another chip

	iirNone    = 0x01
	iirTHRE    = 0x02
	iirRDA     = 0x04
	iirRLS     = 0x06
	iirTimeout = 0x0c
	iirFIFO    = 0xc0 // FIFOs enabled

	fcrEnable  = 0x01
	fcrClearRx = 0x02

	lcrDLAB = 0x80

	mcrRTS  = 0x02
	mcrDTR  = 0x01
	mcrOut1 = 0x04
	mcrOut2 = 0x08 // connects the interrupt pin, on a PC
	mcrLoop = 0x10
	mcrMask = 0x1f

	lsrDataReady = 0x01
	lsrOverrun   = 0x02
	lsrTxEmpty   = 0x60 // THRE and TEMT

	msrCTS = 0x10
	msrDSR = 0x20
	msrRI  = 0x40
	msrDCD = 0x80
)

// uartTrigger is the receive FIFO's interrupt level by FCR bits 7:6.
var uartTrigger = [4]int{1, 4, 8, 14}

// uart is the chip as a pure state machine: no lock, no I/O.
type uart struct {
	ier, fcr, lcr, mcr, scr, dll, dlm byte

	overrun     bool   // a byte was lost; until LSR is read
	threPending bool   // THRE interrupt not yet acknowledged
	fifo        []byte // received bytes; at most room allows
}

func newUART() uart {
	return uart{dll: 1, fifo: make([]byte, 0, uartFIFOSize)}
}

func (u *uart) dlab() bool     { return u.lcr&lcrDLAB != 0 }
func (u *uart) loopback() bool { return u.mcr&mcrLoop != 0 }

// room is how many more bytes the receiver can hold: one without FIFOs.
func (u *uart) room() int {
	size := 1
	if u.fcr&fcrEnable != 0 {
		size = uartFIFOSize
	}
	return max(0, size-len(u.fifo))
}

// read reads a register, with its side effects.
func (u *uart) read(reg int) byte {
	switch reg {
	case uartData:
		if u.dlab() {
			return u.dll
		}
		return u.receive()
	case uartIER:
		if u.dlab() {
			return u.dlm
		}
		return u.ier
	case uartIIR:
		id := u.pending()
		if id == iirTHRE {
			u.threPending = false // reading IIR acknowledges it
		}
		if u.fcr&fcrEnable != 0 {
			id |= iirFIFO
		}
		return id
	case uartLCR:
		return u.lcr
	case uartMCR:
		return u.mcr
	case uartLSR:
		v := byte(lsrTxEmpty)
		if len(u.fifo) > 0 {
			v |= lsrDataReady
		}
		if u.overrun {
			v |= lsrOverrun
		}
		u.overrun = false
		return v
	case uartMSR:
		return u.modemStatus()
	case uartSCR:
		return u.scr
	}
	return 0
}

func (u *uart) receive() byte {
	if len(u.fifo) == 0 {
		return 0
	}
	b := u.fifo[0]
	u.fifo = append(u.fifo[:0], u.fifo[1:]...) // at most 15 bytes
	return b
}

// modemStatus is constant on the line and, in loopback, what MCR drives.
func (u *uart) modemStatus() byte {
	if !u.loopback() {
		return msrCTS | msrDSR | msrDCD
	}
	var v byte
	for _, w := range [...]struct{ out, in byte }{
		{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD},
	} {
		if u.mcr&w.out != 0 {
			v |= w.in
		}
	}
	return v
}

// write writes a register and says whether v goes out on the line.
func (u *uart) write(reg int, v byte) (send bool) {
	switch reg {
	case uartData:
		if u.dlab() {
			u.dll = v
			return false
		}
		u.threPending = true // sent, and empty again
		if u.loopback() {
			u.loop(v)
			return false
		}
		return true
	case uartIER:
		if u.dlab() {
			u.dlm = v
			return false
		}
		// Enabling the interrupt with an empty transmitter raises it: Linux
		// tests for it, and its transmission starts that way.
		if v&ierTHRE != 0 && u.ier&ierTHRE == 0 {
			u.threPending = true
		}
		u.ier = v & ierMask
	case uartIIR:
		u.writeFCR(v)
	case uartLCR:
		u.lcr = v
	case uartMCR:
		u.mcr = v & mcrMask
	case uartSCR:
		u.scr = v
	}
	return false
}

func (u *uart) loop(v byte) {
	if u.room() == 0 {
		u.overrun = true
		return
	}
	u.fifo = append(u.fifo, v)
}

// writeFCR sets the FIFO control. Changing the enable bit, or asking for it,
// clears the receive FIFO.
func (u *uart) writeFCR(v byte) {
	if v&fcrClearRx != 0 || (v^u.fcr)&fcrEnable != 0 {
		u.fifo = u.fifo[:0]
	}
	u.fcr = v & (fcrEnable | 0xc0)
	if v&fcrEnable == 0 {
		u.fcr = 0 // the other bits count only with bit 0 (data sheet, FCR)
	}
}

// pending is the interrupt of highest priority, as IIR names it.
func (u *uart) pending() byte {
	switch {
	case u.ier&ierRLS != 0 && u.overrun:
		return iirRLS
	case u.ier&ierRDA != 0 && len(u.fifo) > 0:
		if u.fcr&fcrEnable != 0 && len(u.fifo) < uartTrigger[u.fcr>>6] {
			return iirTimeout
		}
		return iirRDA
	case u.ier&ierTHRE != 0 && u.threPending:
		return iirTHRE
	}
	return iirNone
}

// interrupting is the level of the interrupt pin on the PC's bus.
func (u *uart) interrupting() bool {
	return u.pending() != iirNone && u.mcr&mcrOut2 != 0 && !u.loopback()
}
