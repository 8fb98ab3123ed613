package sandbox

import "time"

// Stage is how far a boot has come. The zero value is StageStart.
type Stage int

// The stages of New, in their order. Those from StageRunning to StageDevices are what was seen of the guest; a kernel without modules has its
// devices before its init, and a quiet one prints nothing, so a later stage does not mean that each before it was seen.
const (
	StageStart     Stage = iota // nothing is done yet
	StageKVM                    // the KVM device is open and usable
	StageKernel                 // a kernel was found and opened
	StageInitramfs              // the initial file system is there
	StageLoaded                 // kernel, file system and tables lie in guest memory
	StageRunning                // the virtual CPUs run guest code
	StageFirstExit              // the guest has used a device for the first time
	StageConsole                // the guest has printed something
	StageInit                   // the guest kernel has started its first program
	StageDevices                // the guest's driver has set up the socket device: built in, or the agent has loaded its modules
	StageAgent                  // the guest agent has connected
	StageReady                  // the agent has answered
)

var stageNames = [...]string{"start", "kvm", "kernel", "initramfs", "loaded", "running", "first exit", "console", "init", "devices", "agent", "ready"}

// String returns the stage's name: "start", "kvm", "kernel", "initramfs", "loaded", "running", "first exit", "console", "init", "devices",
// "agent" or "ready".
func (s Stage) String() string {
	if s < 0 || int(s) >= len(stageNames) {
		return "unknown"
	}
	return stageNames[s]
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
		return "guest code runs, and has used no device yet"
	case StageFirstExit:
		return "the guest kernel starts, and has printed nothing yet"
	case StageConsole:
		return "the guest kernel starts, and its init has not been seen yet"
	case StageInit:
		return "the guest's init runs, and its socket driver is not up yet"
	case StageDevices:
		return "the guest's socket driver is up, and its agent has not connected yet"
	case StageAgent:
		return "greeting the guest agent"
	default:
		return "running"
	}
}

// evidence is what was seen of a guest that did not come up.
type evidence struct {
	exited  bool // it has used a device
	printed bool // there is something on its console
	init    bool // its first program was started
	driver  bool // the socket device is set up
}

// stage is the last one that there is evidence of.
func (e evidence) stage() Stage {
	switch {
	case e.driver:
		return StageDevices
	case e.init:
		return StageInit
	case e.printed:
		return StageConsole
	case e.exited:
		return StageFirstExit
	}
	return StageRunning
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
