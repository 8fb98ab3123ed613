package kvm

import (
	"errors"
	"slices"
	"syscall"
)

// Register access. The structs are the kernel's (api.rst, the ioctl of the same name).
// While the vCPU is inside the guest a call waits in the kernel until it comes out, so
// call Stop first; a Handler may call any of these for its own vCPU.

// Regs reads the general-purpose registers.
func (c *VCPU) Regs() (Regs, error) { return get[Regs](c, reqGetRegs) }

// SetRegs sets the general-purpose registers.
func (c *VCPU) SetRegs(r Regs) error { return ioctlPtr(c.fd, reqSetRegs, &r) }

// Sregs reads segments, descriptor tables and control registers.
func (c *VCPU) Sregs() (Sregs, error) { return get[Sregs](c, reqGetSregs) }

// SetSregs sets them. KVM answers EINVAL for a combination that no CPU can be in.
func (c *VCPU) SetSregs(s Sregs) error { return ioctlPtr(c.fd, reqSetSregs, &s) }

// FPU reads the x87 and SSE registers.
func (c *VCPU) FPU() (FPU, error) { return get[FPU](c, reqGetFPU) }

// SetFPU sets the x87 and SSE registers.
func (c *VCPU) SetFPU(f FPU) error { return ioctlPtr(c.fd, reqSetFPU, &f) }

// LAPIC reads the local APIC. Needs an irqchip.
func (c *VCPU) LAPIC() (LAPIC, error) { return get[LAPIC](c, reqGetLAPIC) }

// SetLAPIC sets the local APIC.
func (c *VCPU) SetLAPIC(l LAPIC) error { return ioctlPtr(c.fd, reqSetLAPIC, &l) }

// MPState reads whether the vCPU runs, halts or waits for a start-up IPI.
func (c *VCPU) MPState() (MPState, error) { return get[MPState](c, reqGetMPState) }

// SetMPState sets it.
func (c *VCPU) SetMPState(s MPState) error { return ioctlPtr(c.fd, reqSetMPState, &s) }

// XCRs reads the extended control registers.
func (c *VCPU) XCRs() (XCRs, error) { return get[XCRs](c, reqGetXCRs) }

// SetXCRs sets the extended control registers.
func (c *VCPU) SetXCRs(x XCRs) error { return ioctlPtr(c.fd, reqSetXCRs, &x) }

// Events reads the exceptions, interrupts and NMIs under way.
func (c *VCPU) Events() (VCPUEvents, error) { return get[VCPUEvents](c, reqGetVCPUEvents) }

// SetEvents sets them. Its Flags are those that Events returned.
func (c *VCPU) SetEvents(e VCPUEvents) error { return ioctlPtr(c.fd, reqSetVCPUEvents, &e) }

// DebugRegs reads the breakpoint registers.
func (c *VCPU) DebugRegs() (DebugRegs, error) { return get[DebugRegs](c, reqGetDebugRegs) }

// SetDebugRegs sets the breakpoint registers.
func (c *VCPU) SetDebugRegs(d DebugRegs) error { return ioctlPtr(c.fd, reqSetDebugRegs, &d) }

func get[T any](c *VCPU, r request) (T, error) {
	v := new(T)
	if err := ioctlPtr(c.fd, r, v); err != nil {
		var zero T
		return zero, err
	}
	return *v, nil
}

// XSAVE reads the extended processor state: 4096 bytes, or more where the host's
// processor has state that needs it.
func (c *VCPU) XSAVE() ([]byte, error) {
	n, err := c.vm.CheckExtension(CapXSAVE2)
	if err != nil {
		return nil, err
	}
	if n <= sizeofXSAVE {
		b := make([]byte, sizeofXSAVE)
		return b, ioctlBytes(c.fd, reqGetXSAVE, b)
	}
	b := make([]byte, n)
	return b, ioctlBytes(c.fd, reqGetXSAVE2, b)
}

// SetXSAVE sets the extended processor state, in the size that XSAVE gave on this host.
func (c *VCPU) SetXSAVE(b []byte) error {
	n, err := c.vm.CheckExtension(CapXSAVE2)
	if err != nil {
		return err
	}
	if n = max(n, sizeofXSAVE); len(b) != n {
		return &ArgumentError{"SetXSAVE", "length", len(b), "as many bytes as XSAVE returns here"}
	}
	return ioctlBytes(c.fd, reqSetXSAVE, b)
}

// TSCKHz is the guest's TSC frequency in kHz; 0 if the host does not know it.
func (c *VCPU) TSCKHz() (int, error) {
	n, err := ioctl(c.fd, reqGetTSCKHz, 0)
	if errors.Is(err, syscall.EIO) { // the host's TSC is not stable
		return 0, nil
	}
	return n, err
}

// SetCPUID sets what CPUID answers, before the first Run.
func (c *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUIDEntries {
		return &ArgumentError{"SetCPUID", "number of entries", len(entries), "at most 256"}
	}
	t := &cpuidTable{count: uint32(len(entries))}
	copy(t.entries[:], entries)
	return ioctlPtr(c.fd, reqSetCPUID2, t)
}

// CPUID reads what CPUID answers.
func (c *VCPU) CPUID() ([]CPUIDEntry, error) { return readCPUID(c.fd, reqGetCPUID2) }

// SupportedCPUID is what this host's KVM can give a guest.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) { return readCPUID(s.fd, reqGetSupportedCPUID) }

func readCPUID(f *fd, r request) ([]CPUIDEntry, error) {
	t := &cpuidTable{count: maxCPUIDEntries}
	if err := ioctlPtr(f, r, t); err != nil {
		return nil, err
	}
	return slices.Clone(t.entries[:min(t.count, maxCPUIDEntries)]), nil
}

// MSRs reads the given model-specific registers. Those that this vCPU does not have are
// left out of the answer.
func (c *VCPU) MSRs(indices []uint32) ([]MSR, error) {
	var got []MSR
	for len(indices) > 0 {
		t := &msrTable{count: uint32(min(len(indices), maxMSRs))}
		for i := range t.count {
			t.entries[i].Index = indices[i]
		}
		n, err := ioctlCount(c.fd, reqGetMSRs, t)
		if err != nil {
			return nil, err
		}
		// KVM stops at the first it refuses.
		n = min(n, int(t.count))
		got = append(got, t.entries[:n]...)
		if n < int(t.count) {
			n++
		}
		indices = indices[n:]
	}
	return got, nil
}

// SetMSRs sets model-specific registers in the given order.
// Errors: *ArgumentError naming the register that KVM refuses; those before it are set.
func (c *VCPU) SetMSRs(msrs []MSR) error {
	for len(msrs) > 0 {
		t := &msrTable{count: uint32(min(len(msrs), maxMSRs))}
		copy(t.entries[:], msrs[:t.count])
		n, err := ioctlCount(c.fd, reqSetMSRs, t)
		if err != nil {
			return err
		}
		if n < int(t.count) {
			return &ArgumentError{"SetMSRs", "MSR", uint64(msrs[n].Index), "a register and value that this KVM takes"}
		}
		msrs = msrs[t.count:]
	}
	return nil
}

// MSRIndices lists the model-specific registers that make up a vCPU's state on this host.
func (s *System) MSRIndices() ([]uint32, error) {
	l := &msrList{count: maxMSRs}
	if err := ioctlPtr(s.fd, reqGetMSRIndexList, l); err != nil {
		return nil, err
	}
	return slices.Clone(l.indices[:min(l.count, maxMSRs)]), nil
}
