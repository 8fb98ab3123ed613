package kvm

import (
	"errors"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	probeLoops    = 20000
	probeDeadline = 20 * time.Millisecond
	probeEntry    = 0x1000
	probeTSS      = 0xfffbd000 // old Intel processors need it in real mode
)

// probeCode runs in 16-bit real mode, hence at CPL 0.
//
//	1000: 49     dec cx
//	1001: 75 fd  jnz 1000
//	1003: f4     hlt
var probeCode = []byte{0x49, 0x75, 0xfd, 0xf4}

// Probe runs a guest of 40,000 instructions in kernel mode, for at most 20 ms, and looks
// for the processor's virtualisation flag.
// Errors: only if the probe VM could not be made; a guest that dies is a result.
func (s *System) Probe() (Probe, error) {
	p := Probe{VendorFlag: VendorFlag()}
	ram, err := NewRAM(uint64(os.Getpagesize()))
	if err != nil {
		return p, err
	}
	vm, err := s.CreateVM()
	if err == nil {
		err = p.run(vm, ram)
		err = errors.Join(err, vm.Close())
	}
	return p, errors.Join(err, ram.Close())
}

func (p *Probe) run(vm *VM, ram *RAM) error {
	copy(ram.Bytes(), probeCode)
	if err := vm.SetMemory(0, probeEntry, ram.Bytes()); err != nil {
		return err
	}
	if err := vm.SetTSSAddr(probeTSS); err != nil {
		return err
	}
	c, err := vm.CreateVCPU(0)
	if err != nil {
		return err
	}
	if err := c.setRealMode(Regs{RIP: probeEntry, RCX: probeLoops, RFLAGS: 2}); err != nil {
		return err
	}
	// The clock of this thread, so that a busy host does not look like a slow KVM.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	timer := time.AfterFunc(probeDeadline, c.Stop)
	start, err := threadTime()
	if err != nil {
		return err
	}
	_, p.Err = c.Run(noDevices{})
	end, err := threadTime()
	timer.Stop()
	if err != nil {
		return err
	}
	regs, err := c.Regs()
	if err != nil {
		return err
	}
	p.Elapsed = end - start
	p.Instructions = 2 * int(probeLoops-regs.RCX&0xffff)
	return nil
}

// setRealMode makes all segments start at address 0, as the code of a payload expects.
func (c *VCPU) setRealMode(r Regs) error {
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s.CS.Base, s.CS.Selector = 0, 0
	if err := c.SetSregs(s); err != nil {
		return err
	}
	return c.SetRegs(r)
}

func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, sysError("clock_gettime", err)
	}
	return time.Duration(ts.Nano()), nil
}

// noDevices is the bus of a machine without devices: reads float high.
type noDevices struct{}

func (noDevices) PortIn(_ uint16, p []byte)   { fill(p) }
func (noDevices) PortOut(uint16, []byte)      {}
func (noDevices) MMIORead(_ uint64, p []byte) { fill(p) }
func (noDevices) MMIOWrite(uint64, []byte)    {}

func fill(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}
