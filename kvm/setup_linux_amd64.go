package kvm

const (
	msrMiscEnable   = 0x1a0
	msrMTRRDefType  = 0x2ff
	miscFastStrings = 1 << 0
	mtrrEnable      = 1 << 11
	mtrrWriteBack   = 6
)

// Setup makes this vCPU one of count equal cores of a machine that boots Linux: CPUID
// (GuestCPUID) and the few MSRs that firmware would have set. Call it once per vCPU, after
// CreateIRQChip and before the first Run. Registers stay the caller's.
// Errors: *ArgumentError, *Error.
func (c *VCPU) Setup(count int) error {
	entries, err := c.GuestCPUID(count)
	if err != nil {
		return err
	}
	if err := c.SetCPUID(entries); err != nil {
		return err
	}
	return c.SetMSRs([]MSR{
		// String instructions may work on whole cache lines.
		{Index: msrMiscEnable, Data: miscFastStrings},
		// All memory is write-back. With the MTRRs off, Linux gives up on PAT as well.
		{Index: msrMTRRDefType, Data: mtrrEnable | mtrrWriteBack},
	})
}

// GuestCPUID is what Setup gives SetCPUID: this host's supported CPUID as a package of
// count cores with kvmclock and without what a guest of ours cannot use (nested
// virtualisation, MONITOR/MWAIT, PMU, SGX, processor trace).
func (c *VCPU) GuestCPUID(count int) ([]CPUIDEntry, error) {
	if err := checkCount("GuestCPUID", c.id, count); err != nil {
		return nil, err
	}
	supported, err := c.vm.sys.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	g := guestCPU{id: c.id, count: count, irqchip: c.vm.hasIRQChip()}
	if g.tscKHz, err = c.TSCKHz(); err != nil {
		return nil, err
	}
	deadline, err := c.vm.CheckExtension(CapTSCDeadlineTimer)
	if err != nil {
		return nil, err
	}
	g.tscDeadline = deadline > 0
	return guestCPUID(supported, g), nil
}
