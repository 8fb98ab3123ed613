//go:build amd64

package kvm

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// VCPU is one virtual processor. Run drives it; everything else may be called from any
// goroutine, but register access waits while the vCPU is inside the guest.
type VCPU struct {
	vm  *VM
	fd  *fd
	id  int
	run []byte         // the kernel's struct kvm_run, mapped
	req *atomic.Uint32 // its first word, which holds immediate_exit

	// running is held by Run. Close takes it to unmap run. Run looks at closing once it has
	// running: a Run that waited for another one must not start after Close began.
	running sync.Mutex
	closing atomic.Bool

	// The kick. A stopper sets wanted, then immediate_exit, then looks at phase and
	// signals tid while phase is odd. Run makes phase odd before KVM_RUN and even after
	// it, and takes wanted only when KVM_RUN said EINTR. So whatever the interleaving,
	// either the kernel sees immediate_exit or the stopper sees an odd phase.
	// immediate_exit is cleared in takeRequests only, never on the way into KVM_RUN.
	wanted atomic.Uint32 // wantStop, wantKick
	phase  atomic.Uint64 // odd: inside KVM_RUN
	tid    atomic.Int32  // the thread in Run, 0 if none
}

// Bits of VCPU.wanted.
const (
	wantStop = 1 << iota // Run returns ExitStopped
	wantKick             // KVM_RUN returns, Run goes on
)

// maxVCPUID keeps ids within 8-bit APIC ids, 255 being the broadcast address.
const maxVCPUID = 254

// CreateVCPU makes vCPU number id, which is its APIC id as well. With an irqchip, vCPU 0
// is ready to run and the others wait for a start-up IPI in Run.
// Errors: *ArgumentError, ErrLimit, ErrClosed. Source: api.rst, KVM_CREATE_VCPU.
func (v *VM) CreateVCPU(id int) (*VCPU, error) {
	if id < 0 || id > maxVCPUID {
		return nil, &ArgumentError{"CreateVCPU", "id", id, "0 to 254"}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, &Error{Op: reqCreateVCPU.name, Kind: ErrClosed}
	}
	n, err := ioctl(v.fd, reqCreateVCPU, uintptr(id))
	if err != nil {
		return nil, err
	}
	c := &VCPU{vm: v, fd: newFD(n), id: id}
	if err = injected("mmap"); err == nil {
		c.run, err = unix.Mmap(n, 0, v.sys.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		_ = c.fd.close()
		return nil, sysError("mmap kvm_run", err)
	}
	c.req = requestWord(c.run)
	v.vcpus = append(v.vcpus, c)
	return c, nil
}

// ID is the number given to CreateVCPU.
func (c *VCPU) ID() int { return c.id }

// Stop makes Run return ExitStopped. It may be called from any goroutine, a Handler
// included, any number of times; without a Run under way the next Run returns at once.
// When Stop returns the vCPU is outside the guest, though a Handler may still be at work.
// It retries until the vCPU's thread has left KVM_RUN, normally within 0.2 ms.
func (c *VCPU) Stop() { c.request(wantStop) }

// Kick makes the vCPU leave the guest once and go on. The same rules as for Stop.
func (c *VCPU) Kick() { c.request(wantKick) }

func (c *VCPU) request(bit uint32) {
	c.wanted.Or(bit)
	if !c.setImmediateExit() {
		return // closed: nothing runs
	}
	phase := c.phase.Load()
	if phase%2 == 0 {
		return // outside the guest: the next KVM_RUN returns at once
	}
	pid := unix.Getpid()
	wait := 50 * time.Microsecond
	for give := time.Now().Add(kickTimeout); time.Now().Before(give); {
		// The Go runtime owns SIGURG and ignores what it did not send itself.
		_ = unix.Tgkill(pid, int(c.tid.Load()), unix.SIGURG)
		for until := time.Now().Add(wait); time.Now().Before(until); {
			if c.phase.Load() != phase {
				return
			}
			time.Sleep(5 * time.Microsecond)
		}
		wait = min(2*wait, 10*time.Millisecond)
	}
}

// kickTimeout bounds the wait for a kernel that does not react to signals; the request
// stays set, and Run honours it if the kernel ever comes back.
const kickTimeout = time.Minute

// setImmediateExit touches the mapping only while it is known to be there.
func (c *VCPU) setImmediateExit() bool {
	if _, err := c.fd.acquire("kick"); err != nil {
		return false
	}
	defer c.fd.release()
	c.req.Or(immediateExit)
	return true
}

// takeRequests is called by Run after EINTR. The order matters: a stopper sets wanted, then
// immediate_exit. Clearing in the other order can neither lose a request (one that Swap
// misses sets immediate_exit after it) nor leave immediate_exit behind for good (one whose
// wanted was taken before it set immediate_exit costs a spurious EINTR, which clears it).
func (c *VCPU) takeRequests() uint32 {
	c.req.And(^uint32(immediateExit))
	return c.wanted.Swap(0)
}

// onRunThread says whether the caller is a Handler of this vCPU's Run.
func (c *VCPU) onRunThread() bool { return int(c.tid.Load()) == unix.Gettid() }

// Close stops the vCPU, waits for Run to return and releases fd and mapping. VM.Close does
// it for all. Idempotent. Errors: ErrInRun if called by a Handler of this vCPU.
// KVM keeps the id taken until the VM is closed.
func (c *VCPU) Close() error {
	if c.onRunThread() {
		return &Error{Op: "close vCPU", Kind: ErrInRun}
	}
	c.closing.Store(true)
	c.Stop()
	c.running.Lock()
	defer c.running.Unlock()
	err := c.fd.close() // waits for register access and stoppers
	if c.run != nil {
		_ = unix.Munmap(c.run)
		c.run, c.req = nil, nil
	}
	return err
}

func (c *VCPU) run16(off int) uint16 { return binary.NativeEndian.Uint16(c.run[off:]) }
func (c *VCPU) run32(off int) uint32 { return binary.NativeEndian.Uint32(c.run[off:]) }
func (c *VCPU) run64(off int) uint64 { return binary.NativeEndian.Uint64(c.run[off:]) }
