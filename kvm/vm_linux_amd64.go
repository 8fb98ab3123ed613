package kvm

// SetTSSAddr gives KVM three pages at gpa for the real-mode TSS that Intel hosts need.
// They must lie below 4 GiB, outside RAM and devices. Call it before the first vCPU.
// Source: api.rst, KVM_SET_TSS_ADDR.
func (v *VM) SetTSSAddr(gpa uint32) error {
	_, err := ioctl(v.fd, reqSetTSSAddr, uintptr(gpa))
	return err
}

// SetIdentityMapAddr gives KVM the page at gpa for the page table that Intel hosts need
// in real mode. Same rules as SetTSSAddr. Source: api.rst, KVM_SET_IDENTITY_MAP_ADDR.
func (v *VM) SetIdentityMapAddr(gpa uint64) error {
	return ioctlPtr(v.fd, reqSetIdentityMap, &gpa)
}

// CreateIRQChip makes the in-kernel PICs, IOAPIC and a local APIC per vCPU. There is no
// PIT: guests keep time with kvmclock and the TSC deadline timer. Call it before the
// first vCPU. Source: api.rst, KVM_CREATE_IRQCHIP.
func (v *VM) CreateIRQChip() error {
	if _, err := ioctl(v.fd, reqCreateIRQChip, 0); err != nil {
		return err
	}
	v.mu.Lock()
	v.irqchip = true
	v.mu.Unlock()
	return nil
}

func (v *VM) hasIRQChip() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.irqchip
}

// VMState is what KVM keeps for a VM besides its vCPUs and memory, as plain values.
type VMState struct {
	Clock    Clock
	IRQChips []IRQChipState // empty without CreateIRQChip
}

// nrIRQChips is two PICs and an IOAPIC (KVM_NR_IRQCHIPS).
const nrIRQChips = 3

// State takes the VM's state. All vCPUs must be stopped.
func (v *VM) State() (VMState, error) {
	var s VMState
	var err error
	if s.Clock, err = v.Clock(); err != nil {
		return VMState{}, err
	}
	if !v.hasIRQChip() {
		return s, nil
	}
	s.IRQChips = make([]IRQChipState, nrIRQChips)
	for i := range s.IRQChips {
		s.IRQChips[i].Chip = uint32(i)
		if err := ioctlPtr(v.fd, reqGetIRQChip, &s.IRQChips[i]); err != nil {
			return VMState{}, err
		}
	}
	return s, nil
}

// SetState restores what State took, before the vCPUs run. CreateIRQChip is the caller's.
func (v *VM) SetState(s VMState) error {
	for i := range s.IRQChips {
		chip := s.IRQChips[i]
		if chip.Chip >= nrIRQChips {
			return &ArgumentError{"SetState", "chip", chip.Chip, "0, 1 or 2"}
		}
		if err := ioctlPtr(v.fd, reqSetIRQChip, &chip); err != nil {
			return err
		}
	}
	return v.SetClock(s.Clock)
}

// Clock reads the guest's kvmclock. Source: api.rst, KVM_GET_CLOCK.
func (v *VM) Clock() (Clock, error) {
	var c Clock
	err := ioctlPtr(v.fd, reqGetClock, &c)
	return c, err
}

// SetClock sets the guest's kvmclock to c.Nanos: time that passed since c was read does
// not count for the guest. Source: api.rst, KVM_SET_CLOCK.
func (v *VM) SetClock(c Clock) error {
	set := Clock{Nanos: c.Nanos} // flags are answers of KVM_GET_CLOCK; older kernels refuse them here
	return ioctlPtr(v.fd, reqSetClock, &set)
}
