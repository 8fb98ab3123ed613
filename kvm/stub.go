//go:build !linux || !amd64

package kvm

// On other systems the package compiles, so that programs and tests that only mention it
// do, and Open says ErrUnsupported. The other types cannot be made there.

// DefaultPath is the KVM device.
const DefaultPath = "/dev/kvm"

// Cap is a KVM extension number.
type Cap int

// System is an open /dev/kvm.
type System struct{}

// VM is one virtual machine.
type VM struct{}

// VCPU is one virtual processor.
type VCPU struct{}

// RAM is memory for a guest.
type RAM struct{}

var errStub = &Error{Op: "open " + DefaultPath, Kind: ErrUnsupported, Hint: "hutch runs on Linux on x86-64 only, so far"}

// Open returns ErrUnsupported.
func Open() (*System, error) { return nil, errStub }

// OpenPath returns ErrUnsupported.
func OpenPath(string) (*System, error) { return nil, errStub }

// NewRAM returns ErrUnsupported.
func NewRAM(uint64) (*RAM, error) { return nil, errStub }

// The methods below are those of a Linux host.

// Close does nothing.
func (*System) Close() error { return nil }

// CheckExtension returns ErrUnsupported.
func (*System) CheckExtension(Cap) (int, error) { return 0, errStub }

// CreateVM returns ErrUnsupported.
func (*System) CreateVM() (*VM, error) { return nil, errStub }

// Probe returns ErrUnsupported.
func (*System) Probe() (Probe, error) { return Probe{}, errStub }

// SetMemory returns ErrUnsupported.
func (*VM) SetMemory(uint32, uint64, []byte) error { return errStub }

// SetTSSAddr returns ErrUnsupported.
func (*VM) SetTSSAddr(uint32) error { return errStub }

// SetIdentityMapAddr returns ErrUnsupported.
func (*VM) SetIdentityMapAddr(uint64) error { return errStub }

// CreateIRQChip returns ErrUnsupported.
func (*VM) CreateIRQChip() error { return errStub }

// IRQFD returns ErrUnsupported.
func (*VM) IRQFD(uint32, int) error { return errStub }

// RemoveIRQFD returns ErrUnsupported.
func (*VM) RemoveIRQFD(uint32, int) error { return errStub }

// IRQLine returns ErrUnsupported.
func (*VM) IRQLine(uint32, bool) error { return errStub }

// IOEventFD returns ErrUnsupported.
func (*VM) IOEventFD(uint64, uint32, *uint64, int) error { return errStub }

// RemoveIOEventFD returns ErrUnsupported.
func (*VM) RemoveIOEventFD(uint64, uint32, *uint64, int) error { return errStub }

// CreateVCPU returns ErrUnsupported.
func (*VM) CreateVCPU(int) (*VCPU, error) { return nil, errStub }

// Close does nothing.
func (*VM) Close() error { return nil }

// ID is 0.
func (*VCPU) ID() int { return 0 }

// Setup returns ErrUnsupported.
func (*VCPU) Setup(int) error { return errStub }

// Regs returns ErrUnsupported.
func (*VCPU) Regs() (Regs, error) { return Regs{}, errStub }

// SetRegs returns ErrUnsupported.
func (*VCPU) SetRegs(Regs) error { return errStub }

// Sregs returns ErrUnsupported.
func (*VCPU) Sregs() (Sregs, error) { return Sregs{}, errStub }

// SetSregs returns ErrUnsupported.
func (*VCPU) SetSregs(Sregs) error { return errStub }

// State returns ErrUnsupported.
func (*VCPU) State() (VCPUState, error) { return VCPUState{}, errStub }

// SetState returns ErrUnsupported.
func (*VCPU) SetState(VCPUState) error { return errStub }

// Run returns ErrUnsupported.
func (*VCPU) Run(Handler) (Exit, error) { return Exit{}, errStub }

// Stop does nothing.
func (*VCPU) Stop() {}

// Kick does nothing.
func (*VCPU) Kick() {}

// Close does nothing.
func (*VCPU) Close() error { return nil }

// Bytes is nil.
func (*RAM) Bytes() []byte { return nil }

// Close does nothing.
func (*RAM) Close() error { return nil }
