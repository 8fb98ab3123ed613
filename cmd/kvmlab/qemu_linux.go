package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// slots is how many commands run at once. Each has a 9p device of its own, since a 9p mount caches what it has seen and only a
	// new mount is sure to see the files as they are; more commands wait.
	slots = 8
	// portName names the virtio-serial port of the wire protocol.
	portName = "hutch.kvmlab.0"
)

// emulatorCommand is the emulator on img, with the wire protocol on file descriptor 3, and the console's log and the emulator's monitor in dir.
func emulatorCommand(ctx context.Context, img image, memMiB, cpus int, build, dir string) (*exec.Cmd, error) {
	cmdline := []string{
		"console=ttyS0", "quiet", "loglevel=4", "panic=-1", "rdinit=/init",
		"mitigations=off", "random.trust_cpu=on", "nokaslr", "no_timer_check", "rcupdate.rcu_expedited=1", "cryptomgr.notests",
		"audit=0", "apparmor=0", "nowatchdog", "tsc=reliable", "8250.nr_uarts=1", "i8042.noaux", "i8042.nomux", "i8042.nopnp", "i8042.dumbkbd",
		"kvmlab.build=" + build,
	}
	args := []string{
		"-accel", "tcg,thread=" + threads() + ",tb-size=1024", "-cpu", "max,la57=off", "-M", "pc,usb=off,vmport=off,hpet=off",
		"-m", strconv.Itoa(memMiB), "-smp", strconv.Itoa(cpus),
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-serial", "file:" + consolePath(dir), "-monitor", "unix:" + filepath.Join(dir, "monitor") + ",server=on,wait=off",
		"-kernel", img.kernel, "-initrd", img.initrd, "-append", strings.Join(cmdline, " "),
		"-device", "virtio-serial-pci,disable-legacy=on,max_ports=2",
		"-chardev", "socket,id=wire,fd=3",
		"-device", "virtserialport,chardev=wire,name=" + portName,
		"-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
	}
	for i := range slots {
		args = append(args, "-device", fmt.Sprintf("virtio-9p-pci,disable-legacy=on,fsdev=root,mount_tag=%s", slotTag(i)))
	}
	args = append(firmwareArgs(img), args...)
	cmd, err := img.emulator.Command(ctx, "qemu-system-x86_64", args...)
	if err != nil {
		return nil, fmt.Errorf("the emulator: %w", err)
	}
	return cmd, nil
}

// firmwareArgs tells the emulator where its firmware lies. A part that the system has installed is not in the unpacked tree, so both are
// searched, in that order.
func firmwareArgs(img image) []string {
	if img.emulator.Root == "" {
		return nil // wholly installed: the emulator knows its places
	}
	var args []string
	for _, folder := range []string{"qemu", "seabios"} {
		args = append(args, "-L", img.emulator.Path("usr", "share", folder), "-L", filepath.Join("/usr/share", folder))
	}
	return args
}

func slotTag(i int) string { return "root" + strconv.Itoa(i) }

// threadsEnv overrides how the emulator runs the machine's processors: "single" in one thread, or "multi".
const threadsEnv = "KVMLAB_THREADS"

// threads is "single" by default. Emulators before QEMU 8.1 lose a write to code when another processor translates that code at the same
// time (they check for code on a page after they have read it). Linux patches its code while it runs, KVM does so whenever the first virtual machine
// is created or the last one closed; with a thread per processor the lab then hangs in a loop of breakpoint traps within seconds.
//
// One thread takes turns of up to 100 ms between processors that are both busy, so that processors waiting for each other crawl. Hence the
// default of one processor, on which the lab's kernel schedules a guest's processors as threads.
func threads() string {
	if os.Getenv(threadsEnv) == "multi" {
		return "multi"
	}
	return "single"
}
