package sandbox

import "time"

// Stage is how far a boot has come. The zero value is StageStart.
type Stage int

// The stages of New, in their order.
const (
	StageStart     Stage = iota // nothing is done yet
	StageKVM                    // the KVM device is open and usable
	StageKernel                 // a kernel was found and opened
	StageInitramfs              // the initial file system is there
	StageLoaded                 // kernel, file system and tables lie in guest memory
	StageRunning                // the virtual CPUs run guest code
	StageDevices                // the guest kernel's driver has set up the socket device
	StageAgent                  // the guest agent has connected
	StageReady                  // the agent has answered
)

// String returns the stage's name: "start", "kvm", "kernel", "initramfs", "loaded", "running", "devices", "agent" or "ready".
func (s Stage) String() string {
	names := [...]string{"start", "kvm", "kernel", "initramfs", "loaded", "running", "devices", "agent", "ready"}
	if s < 0 || int(s) >= len(names) {
		return "unknown"
	}
	return names[s]
}

// doing says in words what was under way when a boot failed after stage s.
func (s Stage) doing() string {
	switch s {
	case StageStart:
		return "opening KVM"
	case StageKVM:
		return "finding a kernel"
	case StageKernel:
		return "preparing the initial file system"
	case StageInitramfs:
		return "building the virtual machine"
	case StageLoaded:
		return "starting the virtual CPUs"
	case StageRunning:
		return "guest kernel starting (its socket driver is not up yet)"
	case StageDevices:
		return "guest init starting (its agent has not connected yet)"
	case StageAgent:
		return "greeting the guest agent"
	default:
		return "running"
	}
}

// BootTimes tells when each phase of a boot was over, all as the time since New was called; zero for a phase not reached.
type BootTimes struct {
	KVM              time.Duration `json:"kvm"`              // KVM device open and checked
	Kernel           time.Duration `json:"kernel"`           // kernel found and opened
	Initramfs        time.Duration `json:"initramfs"`        // initial file system at hand
	VMMade           time.Duration `json:"vmMade"`           // virtual machine built, kernel in guest memory
	FirstInstruction time.Duration `json:"firstInstruction"` // first entry into the guest
	Connected        time.Duration `json:"connected"`        // the guest agent connected over the socket device
	Init             time.Duration `json:"init"`             // the agent began to run as PID 1 (by the guest's clock, hence approximate)
	Agent            time.Duration `json:"agent"`            // the agent answered: New returns
}
