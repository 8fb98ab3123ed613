package boot

import "strings"

// CmdlineOptions change the default kernel command line. The zero value is a quiet boot with the console on the first serial port.
type CmdlineOptions struct {
	// Verbose prints every kernel message on the console: slow, one exit per byte, and the way to see why a boot fails.
	Verbose bool
	// Init is the program started from the initramfs; "" leaves the kernel's choice, /init.
	Init string
	// Extra are the user's arguments. They come last: of an argument given twice the kernel mostly takes the last one.
	Extra []string
}

// cmdlineArg is a default argument and why it is there.
type cmdlineArg struct {
	arg, why string
}

// defaultArgs are given to every kernel. An argument for a driver that the kernel lacks is ignored by it.
var defaultArgs = []cmdlineArg{
	{"console=ttyS0", "messages go to the emulated 16550, so that a failed boot can be explained"},
	{"earlycon=uart8250,io,0x3f8,115200", "a panic before the serial driver starts is seen too; under quiet it prints errors only"},
	{"panic=-1", "a panic reboots at once, which ends the VM, instead of spinning in it for ever"},
	{"reboot=k", "reboot through the keyboard controller, the one way that every kernel knows; the VM sees it and ends"},
	{"no_timer_check", "there is no 8254 to test the I/O APIC's timer pin with"},
	{"tsc=nowatchdog", "a host that schedules us away for a while must not make the guest distrust its clock"},
	{"random.trust_cpu=on", "RDRAND seeds the generator: the first getrandom does not wait for interrupts"},
	{"i8042.noaux", "no mouse port: its probe takes hundreds of port accesses"},
	{"i8042.nomux", "nor a multiplexer"},
	{"i8042.nopnp", "nor a PnP description of the controller"},
	{"i8042.dumbkbd", "nor a keyboard that answers commands"},
	{"8250.nr_uarts=1", "one UART is there: three probes less"},
	{"pci=off", "there is no PCI: no scan of configuration ports"},
}

// Cmdline returns the command line for these options, without the descriptions of devices that Load adds where the kernel needs them.
func Cmdline(o CmdlineOptions) string {
	args := make([]string, 0, len(defaultArgs)+3+len(o.Extra))
	// The log level comes first: the early console starts printing while the kernel reads the line.
	if o.Verbose {
		args = append(args, "ignore_loglevel")
	} else {
		args = append(args, "quiet")
	}
	for _, a := range defaultArgs {
		args = append(args, a.arg)
	}
	if o.Init != "" {
		args = append(args, "rdinit="+o.Init)
	}
	return strings.Join(append(args, o.Extra...), " ")
}
