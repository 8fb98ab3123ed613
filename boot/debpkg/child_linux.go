package debpkg

import "syscall"

// dieWithUs has the kernel kill the program when the thread that starts it ends: a killed hutch must not leave a client behind that goes on
// downloading and holds the client's own locks.
func dieWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
