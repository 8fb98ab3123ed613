package kvm

import (
	"errors"
	"slices"
)

// MSRs whose place in the order of restoring matters.
const (
	msrTSC         = 0x10
	msrTSCDeadline = 0x6e0
)

// State takes everything KVM keeps for this vCPU. It must be outside Run, and the last Run
// must have ended with ExitStopped or ExitHLT: after these no access is half done.
func (c *VCPU) State() (VCPUState, error) {
	var s VCPUState
	// MP state first: reading it makes KVM handle an INIT or SIPI that waits, which changes registers.
	var errs [9]error
	s.MPState, errs[0] = c.MPState()
	s.CPUID, errs[1] = c.CPUID()
	s.Regs, errs[2] = c.Regs()
	s.Sregs, errs[3] = c.Sregs()
	s.XSAVE, errs[4] = c.XSAVE()
	s.FPU, errs[5] = c.FPU()
	s.XCRs, errs[6] = c.XCRs()
	s.DebugRegs, errs[7] = c.DebugRegs()
	s.Events, errs[8] = c.Events()
	if err := errors.Join(errs[:]...); err != nil {
		return VCPUState{}, err
	}
	indices, err := c.vm.sys.MSRIndices()
	if err != nil {
		return VCPUState{}, err
	}
	if !slices.Contains(indices, msrTSCDeadline) {
		indices = append(indices, msrTSCDeadline)
	}
	if s.MSRs, err = c.MSRs(indices); err != nil {
		return VCPUState{}, err
	}
	if c.vm.hasIRQChip() {
		l, err := c.LAPIC()
		if err != nil {
			return VCPUState{}, err
		}
		s.LAPIC = &l
	}
	return s, nil
}

// SetState restores what State took, into a fresh vCPU of the same number.
// MSRs that this KVM refuses (the list holds read-only ones) are skipped when they already
// have the wanted value, and reported otherwise.
func (c *VCPU) SetState(s VCPUState) error {
	steps := []func() error{
		func() error { return c.SetCPUID(s.CPUID) },
		func() error { return c.SetMPState(s.MPState) },
		func() error { return c.SetRegs(s.Regs) },
		func() error { return c.SetSregs(s.Sregs) },
		func() error { return c.setExtended(s) },
		func() error { return c.SetDebugRegs(s.DebugRegs) },
		func() error {
			if s.LAPIC == nil {
				return nil
			}
			return c.SetLAPIC(*s.LAPIC)
		},
		// After the LAPIC, whose restoring disarms the TSC deadline timer.
		func() error { return c.restoreMSRs(s.MSRs) },
		func() error { return c.SetEvents(s.Events) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// setExtended restores XCRs before XSAVE: XCR0 decides which parts of the area count.
func (c *VCPU) setExtended(s VCPUState) error {
	if s.XCRs.Count > 0 {
		if err := c.SetXCRs(s.XCRs); err != nil {
			return err
		}
	}
	if len(s.XSAVE) == 0 {
		return c.SetFPU(s.FPU)
	}
	return c.SetXSAVE(s.XSAVE)
}

// restoreMSRs sets the TSC first and the deadline, which is compared with it, last.
func (c *VCPU) restoreMSRs(msrs []MSR) error {
	sorted := slices.Clone(msrs)
	rank := func(m MSR) int {
		switch m.Index {
		case msrTSC:
			return 0
		case msrTSCDeadline:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(sorted, func(a, b MSR) int { return rank(a) - rank(b) })
	for len(sorted) > 0 {
		t := &msrTable{count: uint32(min(len(sorted), maxMSRs))}
		copy(t.entries[:], sorted[:t.count])
		n, err := ioctlCount(c.fd, reqSetMSRs, t)
		if err != nil {
			return err
		}
		if n < int(t.count) {
			now, err := c.MSRs([]uint32{sorted[n].Index})
			if err != nil {
				return err
			}
			if len(now) != 1 || now[0].Data != sorted[n].Data {
				return &ArgumentError{"SetState", "MSR", uint64(sorted[n].Index), "a register and value that this KVM takes"}
			}
			n++
		}
		sorted = sorted[n:]
	}
	return nil
}
