package kvm

import (
	"fmt"
	"time"
)

// Probe is what a quick look at this host's KVM found.
type Probe struct {
	VendorFlag   string        // "vmx" or "svm" if the processor shows it, else ""
	Instructions int           // how many the probe guest ran
	Elapsed      time.Duration // processor time it took
	Err          error         // why the probe guest died, if it did
}

// slowInstruction is where software begins. Hardware takes below 1 ns per instruction of
// the probe's loop, hardware emulated by QEMU about 3 ns, an interpreting KVM about 1 µs.
const slowInstruction = 100 * time.Nanosecond

// PerInstruction is the time of one guest instruction in kernel mode; 0 if none ran.
func (p Probe) PerInstruction() time.Duration {
	if p.Instructions == 0 {
		return 0
	}
	return p.Elapsed / time.Duration(p.Instructions)
}

// SoftwareKVM reports whether this KVM interprets guest kernel code instead of running it
// on the processor. Linux does not boot on such a KVM, although /dev/kvm answers. It takes
// both signs to say so: no virtualisation flag, and a guest that is slow or dies.
func (p Probe) SoftwareKVM() bool {
	return p.VendorFlag == "" && (p.Err != nil || p.Instructions == 0 || p.PerInstruction() > slowInstruction)
}

func (p Probe) String() string {
	kind := "hardware KVM"
	if p.SoftwareKVM() {
		kind = "software KVM"
	}
	flag := p.VendorFlag
	if flag == "" {
		flag = "no vmx or svm flag"
	}
	if p.Err != nil {
		return fmt.Sprintf("%s (%s; probe guest: %v)", kind, flag, p.Err)
	}
	if p.Instructions == 0 { // the flag was enough
		return fmt.Sprintf("%s (%s)", kind, flag)
	}
	return fmt.Sprintf("%s (%s; %d instructions at %v each)", kind, flag, p.Instructions, p.PerInstruction())
}
