package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/devices"
	"github.com/hutchvm/hutch/devices/vsock"
	"github.com/hutchvm/hutch/kvm"
	"github.com/hutchvm/hutch/virtio"
)

// guestCID is the guest's address on its socket device. Every sandbox has its own device, so they can all use one number: the first that is
// not reserved (VIRTIO 1.2 §5.10.4).
const guestCID = 3

// sockBuffer is what the host buffers of one connection. All commands share one connection, so it is larger than the device's default.
const sockBuffer = 1 << 20

// machine is one virtual machine: memory, virtual CPUs, buses and devices, and the goroutines that run them.
//
// Life: newMachine builds it, load fills its memory, start runs it. It ends by end, from whichever side; a supervising goroutine then takes
// everything down in order and closes done. close is end and waiting. Lock order: none is held while a device is called.
type machine struct {
	cfg     *config
	console *console

	sys   *kvm.System
	vm    *kvm.VM
	ram   *kvm.RAM
	mem   *virtio.Memory
	vcpus []*kvm.VCPU

	ports  *devices.Bus
	mmio   *devices.Bus
	sock   *vsock.Device
	trans  *virtio.MMIO
	serial *devices.Serial
	kicks  *kickReader
	irqs   []*eventFD
	faults *faultLog

	threads sync.WaitGroup // virtual CPUs
	exited  atomic.Bool    // the guest has used a device

	life
}

// newMachine builds a machine that has not run yet. On an error nothing is left behind.
func newMachine(cfg *config, sys *kvm.System, con *console) (m *machine, err error) {
	m = &machine{cfg: cfg, console: con, sys: sys, life: newLife()}
	defer func() {
		if err != nil {
			m.release()
		}
	}()
	if m.vm, err = sys.CreateVM(); err != nil {
		return m, err
	}
	// Memory before the interrupt controller: the other order makes some host kernels wait for a whole grace period.
	if err = m.addMemory(); err != nil {
		return m, err
	}
	if err = m.vm.SetTSSAddr(boot.TSSBase); err != nil {
		return m, err
	}
	if err = m.vm.SetIdentityMapAddr(boot.IdentityMapBase); err != nil {
		return m, err
	}
	if err = m.vm.CreateIRQChip(); err != nil {
		return m, err
	}
	for id := range cfg.cpus {
		if err = m.addVCPU(id); err != nil {
			return m, err
		}
	}
	return m, m.addDevices()
}

func (m *machine) tail(n int) []byte { return m.console.tail(n) }

func (m *machine) addMemory() (err error) {
	size := uint64(m.cfg.memory)
	if m.ram, err = kvm.NewRAM(size); err != nil {
		return err
	}
	all := m.ram.Bytes()
	low := min(size, boot.LowRAMLimit)
	regions := []virtio.Region{{GPA: 0, Bytes: all[:low:low]}}
	if size > low {
		regions = append(regions, virtio.Region{GPA: boot.HighRAMBase, Bytes: all[low:]})
	}
	for slot, r := range regions {
		if err := m.vm.SetMemory(uint32(slot), r.GPA, r.Bytes); err != nil {
			return err
		}
	}
	m.mem, err = virtio.NewMemory(regions...)
	return err
}

func (m *machine) addVCPU(id int) error {
	vcpu, err := m.vm.CreateVCPU(id)
	if err != nil {
		return err
	}
	m.vcpus = append(m.vcpus, vcpu)
	return vcpu.Setup(m.cfg.cpus)
}

// addIRQ makes the function that raises interrupt line gsi, by an eventfd that KVM listens to: no ioctl, no exit.
func (m *machine) addIRQ(gsi uint32) (raise func() error, err error) {
	e, err := newEventFD()
	if err != nil {
		return nil, err
	}
	m.irqs = append(m.irqs, e)
	return e.signal, m.vm.IRQFD(gsi, e.fd)
}

func (m *machine) addDevices() error {
	m.ports, m.mmio = &devices.Bus{}, &devices.Bus{}
	if err := m.addPorts(); err != nil {
		return err
	}
	slot, _ := boot.MMIODevice(0)
	raise, err := m.addIRQ(slot.IRQ)
	if err != nil {
		return err
	}
	m.sock, err = vsock.New(vsock.Config{GuestCID: guestCID, BufferSize: sockBuffer, Logger: m.cfg.logger})
	if err != nil {
		return err
	}
	m.trans = virtio.NewMMIO(m.mem, m.sock, raise)
	m.faults = newFaultLog(m.cfg.logger)
	m.trans.SetFaultHandler(m.faults.report)
	if err := m.mmio.Add("virtio-vsock", slot.Base, slot.Size, m.trans); err != nil {
		return err
	}
	m.kicks, err = newKickReader(m.trans, len(m.sock.QueueSizes()), func(queue uint64, fd int) error {
		return m.vm.IOEventFD(slot.Base+virtio.NotifyOffset, 4, &queue, fd)
	})
	return err
}

// load puts the kernel into guest memory and sets the first virtual CPU's registers.
func (m *machine) load(k *boot.Kernel, archives []boot.Archive) error {
	slot, _ := boot.MMIODevice(0)
	entry, err := boot.Load(m.mem, k, boot.Params{
		Initrd:  archives,
		Cmdline: boot.Cmdline(boot.CmdlineOptions{Extra: m.cfg.cmdline}),
		CPUs:    m.cfg.cpus,
		Devices: []boot.Device{slot},
	})
	if err != nil {
		return err
	}
	m.cfg.logger.Debug("kernel loaded", "release", k.Release, "cmdline", entry.Cmdline, "tables", entry.Tables)
	first := m.vcpus[0]
	sregs, err := first.Sregs()
	if err != nil {
		return err
	}
	entry.Apply(&sregs)
	if err := first.SetSregs(sregs); err != nil {
		return err
	}
	return first.SetRegs(entry.Regs)
}

// start runs the machine. From here on it ends only by end.
func (m *machine) start() {
	m.kicks.start()
	m.threads.Add(len(m.vcpus))
	for _, vcpu := range m.vcpus {
		go m.runVCPU(vcpu)
	}
	go m.faults.run(m.ended)
	go m.supervise()
}

// runVCPU is the goroutine of one virtual CPU. It keeps its thread and takes it along when it ends: a thread that ran a guest is not reused.
func (m *machine) runVCPU(vcpu *kvm.VCPU) {
	runtime.LockOSThread()
	defer m.threads.Done()
	exit, err := vcpu.Run((*exitHandler)(m))
	switch {
	case err != nil:
		m.end(&StoppedError{Reason: ReasonVCPU, Err: err})
	case exit.Reason == kvm.ExitStopped:
	case exit.Reason == kvm.ExitShutdown:
		m.end(m.resetCause(ReasonTripleFault))
	case exit.Reason == kvm.ExitSystemEvent && exit.Event == kvm.EventShutdown:
		m.end(&StoppedError{Reason: ReasonPowerOff})
	case exit.Reason == kvm.ExitSystemEvent:
		m.end(m.resetCause(ReasonReboot))
	default:
		m.end(&StoppedError{Reason: ReasonVCPU, Err: fmt.Errorf("virtual CPU %d: unexpected exit %v", vcpu.ID(), exit.Reason)})
	}
}

// resetCause tells a kernel panic, after which the kernel resets the machine (panic=-1), from a reset for its own sake.
func (m *machine) resetCause(otherwise Reason) error {
	if msg, ok := m.console.panicMessage(); ok {
		return &StoppedError{Reason: ReasonPanic, Message: msg}
	}
	return &StoppedError{Reason: otherwise}
}

// end makes the machine end for the given cause; only the first cause counts. It returns at once and may be called from a virtual CPU.
func (m *machine) end(cause error) {
	m.once.Do(func() {
		var stopped *StoppedError
		if errors.As(cause, &stopped) && stopped.Console == nil {
			stopped.Console = m.console.tail(consoleTail)
		}
		m.cause = cause
		close(m.ended)
	})
}

// supervise waits for the end and takes everything down: first what runs, then what it ran on.
func (m *machine) supervise() {
	<-m.ended
	for _, vcpu := range m.vcpus {
		vcpu.Stop()
	}
	m.threads.Wait()
	m.release()
}

// release frees whatever newMachine got as far as making. Nothing of it runs any more, except device workers, which it ends.
func (m *machine) release() {
	if m.kicks != nil {
		m.kicks.close()
	}
	if m.trans != nil {
		m.trans.Close()
	}
	if m.sock != nil {
		m.sock.Close()
	}
	if m.vm != nil {
		if err := m.vm.Close(); err != nil {
			m.cfg.logger.Error("closing the virtual machine", "err", err)
		}
	}
	for _, e := range m.irqs {
		e.close()
	}
	if m.ram != nil {
		if err := m.ram.Close(); err != nil {
			m.cfg.logger.Error("freeing guest memory", "err", err)
		}
	}
	m.console.close()
	close(m.done)
}

// discard frees a machine that was built but never started.
func (m *machine) discard() { m.release() }

// evidence is what was seen of the guest so far.
func (m *machine) evidence() evidence {
	e := evidence{exited: m.exited.Load(), driver: m.trans.Status()&virtio.StatusDriverOK != 0}
	e.printed, e.init = m.console.evidence()
	return e
}
