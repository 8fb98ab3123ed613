package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	bootpkg "github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/channel"
	"github.com/hutchvm/hutch/initramfs"
	"github.com/hutchvm/hutch/kvm"
)

// booting is the state of one New.
type booting struct {
	cfg      *config
	began    time.Time
	stage    Stage
	times    BootTimes
	console  *console
	machine  *machine
	listener net.Listener
	kernel   *bootpkg.Kernel
	archives []bootpkg.Archive
	files    []*os.File // open until the archives have been copied into guest memory
	info     Info
}

func (b *booting) since() time.Duration { return time.Since(b.began) }

// bootSandbox is New after the options were checked.
func bootSandbox(ctx context.Context, cfg *config) (*Sandbox, error) {
	b := &booting{cfg: cfg, began: time.Now(), console: newConsole(cfg.console)}
	sb, err := b.run(ctx)
	for _, f := range b.files {
		f.Close()
	}
	if b.kernel != nil {
		b.kernel.Close() // what is needed of it lies in guest memory
	}
	if err == nil {
		return sb, nil
	}
	tail := b.console.tail(consoleTail)
	b.console.close()
	if b.stage == StageRunning {
		b.stage = b.machine.evidence().stage()
	}
	return nil, wrapBoot(b.stage, tail, err)
}

func (b *booting) run(ctx context.Context) (*Sandbox, error) {
	sys, err := openKVM(b.cfg.kvmPath)
	if err != nil {
		return nil, err
	}
	// The machine keeps what it needs of it; the device itself is not needed while a guest runs.
	defer sys.Close()
	b.stage, b.times.KVM = StageKVM, b.since()
	for _, step := range []func(context.Context) error{b.findKernel, b.findInitramfs} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if err := b.build(sys); err != nil {
		return nil, err
	}
	sb, err := b.start(ctx)
	if err != nil {
		b.machine.end(err)
		<-b.machine.done
		return nil, err
	}
	return sb, nil
}

// openKVM opens the device and refuses one that would only pretend to run a guest.
func openKVM(path string) (*kvm.System, error) {
	sys, err := kvm.OpenPath(path)
	if err != nil {
		return nil, err
	}
	if kvm.VendorFlag() != "" {
		return sys, nil // hardware virtualisation: no need to look closer
	}
	probe, err := sys.Probe()
	if err == nil && probe.SoftwareKVM() {
		err = softwareKVM(path, probe)
	}
	if err != nil {
		sys.Close()
		return nil, err
	}
	return sys, nil
}

// softwareKVM is the refusal of a KVM that no kernel runs on.
func softwareKVM(path string, probe kvm.Probe) error {
	return fmt.Errorf("%s: %w: %v: it interprets guest kernels, and ordinary ones do not run on it: use a machine with hardware virtualisation, or %s",
		path, ErrSoftwareKVM, probe, labHint)
}

func (b *booting) findKernel(ctx context.Context) error {
	k, err := bootpkg.Resolve(ctx, bootpkg.ResolveOptions{Ref: b.cfg.kernel, Progress: b.cfg.progress})
	if err != nil {
		return err
	}
	b.kernel = k
	if err := k.CheckFeatures(); err != nil {
		return err // the boot would only time out
	}
	b.stage, b.times.Kernel = StageKernel, b.since()
	return nil
}

// findInitramfs collects the archives that make up the initial file system: the userland, and the modules this kernel needs.
func (b *booting) findInitramfs(ctx context.Context) error {
	path := b.cfg.initramfs
	if path == "" {
		img, err := initramfs.Base(ctx, initramfs.Options{Progress: b.cfg.progress})
		if err != nil {
			return err
		}
		path = img.Path
	} else if err := checkInitramfs(path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	b.files = append(b.files, f)
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b.archives = []bootpkg.Archive{{Name: path, Data: f, Size: st.Size()}}
	mods, err := b.kernel.Modules(bootpkg.DefaultModules...)
	if err != nil {
		return err
	}
	if len(mods) > 0 {
		files := make([]initramfs.File, len(mods))
		for i, m := range mods {
			files[i] = initramfs.File{Name: fmt.Sprintf("lib/hutch/modules/%03d-%s.ko", i, m.Name), Data: m.Data}
		}
		extra, err := initramfs.Files(files)
		if err != nil {
			return err
		}
		b.archives = append(b.archives, bootpkg.BytesArchive("modules", extra))
	}
	b.info = Info{Kernel: b.kernel.Release, KernelPath: b.kernel.Path, Initramfs: path, CPUs: b.cfg.cpus, Memory: b.cfg.memory}
	b.stage, b.times.Initramfs = StageInitramfs, b.since()
	return nil
}

// build makes the machine and fills its memory.
func (b *booting) build(sys *kvm.System) error {
	m, err := newMachine(b.cfg, sys, b.console)
	if err != nil {
		return err
	}
	err = m.load(b.kernel, b.archives)
	if err == nil {
		b.listener, err = m.sock.Listen(agentPort)
	}
	if err != nil {
		m.discard()
		return err
	}
	b.machine = m
	b.stage, b.times.VMMade = StageLoaded, b.since()
	return nil
}

// start runs the machine and waits for the agent. The caller ends the machine on an error.
func (b *booting) start(ctx context.Context) (*Sandbox, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.bootTimeout, fmt.Errorf("%w: waited %v; WithBootTimeout changes that", ErrBootTimeout, b.cfg.bootTimeout))
	defer cancel()
	// Whatever ends the machine or the context unblocks the listener.
	stop := context.AfterFunc(ctx, func() { b.listener.Close() })
	defer stop()
	b.times.FirstInstruction = b.since()
	b.machine.start()
	b.stage = StageRunning
	defer b.listener.Close() // the agent is the only one to connect: later callers are refused

	conn, err := b.listener.Accept()
	if err != nil {
		return nil, b.explain(ctx, err)
	}
	b.stage, b.times.Connected = StageAgent, b.since()
	client, err := b.greet(ctx, conn)
	if err != nil {
		return nil, b.explain(ctx, err)
	}
	b.stage, b.times.Agent = StageReady, b.since()
	hello := client.Hello()
	b.times.Init = initTime(b.times.Agent, hello.UptimeStart, hello.UptimeHello)
	b.info.Shell, b.info.Name, b.info.Log = b.cfg.shell, b.cfg.name, b.cfg.logPath
	b.info.Boot, b.info.Agent = b.times, guestWord(hello.Build)
	if hello.Kernel != "" {
		b.info.Kernel = guestWord(hello.Kernel)
	}
	sb := &Sandbox{cfg: b.cfg, host: b.machine, life: &b.machine.life, client: client, info: b.info, logs: newExecLog(b.cfg, client)}
	sb.watch.Add(1)
	go sb.watchAgent()
	return sb, nil
}

// greet begins the exec protocol with the agent. An agent of another version came with the image, so that is named.
func (b *booting) greet(ctx context.Context, conn net.Conn) (*channel.Client, error) {
	client, err := channel.NewClient(ctx, conn, channel.Config{HandshakeTimeout: b.cfg.bootTimeout, Logger: b.cfg.logger})
	if ve := (*VersionError)(nil); errors.As(err, &ve) {
		err = fmt.Errorf("%s: %w", b.info.Initramfs, err)
	}
	return client, err
}

// initTime is when the agent began to run, if it answered at agent and its own clock, in nanoseconds, stood at start and hello then. These
// two are the guest's: whatever they are, the result lies within the boot.
func initTime(agent time.Duration, start, hello int64) time.Duration {
	if start < 0 || hello < start {
		return agent
	}
	return max(0, agent-time.Duration(hello-start))
}

// explain finds the reason why waiting for the agent ended with err.
func (b *booting) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	select {
	case <-b.machine.ended:
		return b.machine.cause
	case <-time.After(agentGrace): // the connection may break a moment before the machine's end is seen
	}
	if errors.Is(err, net.ErrClosed) {
		return ErrClosed
	}
	return err
}
