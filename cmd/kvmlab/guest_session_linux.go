package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/agent"
)

// guestSession is the first process of a session's own mount and PID namespace. It makes the host's files the root, starts the agent,
// and reaps orphans until the agent ends; then the kernel kills whatever is left in the namespace.
func guestSession(tag, program string) error {
	if os.Getpid() != 1 {
		return errNoSession
	}
	if err := hostRoot(tag); err != nil {
		return err
	}
	if program == "" {
		program = "/proc/self/exe"
	}
	// ForkExec, not os/exec: the loop below waits for every child, so nobody else may.
	server, err := syscall.ForkExec(program, []string{"kvmlab", agentCommand}, &syscall.ProcAttr{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []uintptr{0, 1, 2, wireFD},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start agent %s: %w", program, err)
	}
	unix.Close(wireFD) // so that the agent's end is the connection's end
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the agent: %w", err)
		case pid == server && ws.ExitStatus() != 0:
			return fmt.Errorf("agent ended with status %#x", uint32(ws))
		case pid == server:
			return nil
		}
	}
}

// wireFD is the file descriptor of a session's connection.
const wireFD = 3

// hostRoot makes a new mount of the host's root, with an overlay in memory above it, this process's root.
func hostRoot(tag string) error {
	const (
		host = "/mnt/host"
		over = "/mnt/over"
		root = "/mnt/root"
	)
	type mount struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}
	before := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"tmpfs", "/mnt", "tmpfs", 0, "mode=755,size=75%"},
		{tag, host, "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,msize=512000,cache=loose"},
		{"overlay", root, "overlay", 0, "lowerdir=" + host + ",upperdir=" + over + "/upper,workdir=" + over + "/work"},
		{"proc", root + "/proc", "proc", 0, ""},
		{"sysfs", root + "/sys", "sysfs", 0, ""},
		{"cgroup2", root + "/sys/fs/cgroup", "cgroup2", 0, ""},
		{"/dev", root + "/dev", "", unix.MS_BIND, ""},
		{"devpts", root + "/dev/pts", "devpts", 0, "mode=620,ptmxmode=666"},
		{"tmpfs", root + "/dev/shm", "tmpfs", 0, "mode=1777"},
	}
	for _, m := range before {
		dirs := []string{m.target}
		if m.fstype == "overlay" {
			dirs = []string{root, over + "/upper", over + "/work"}
		}
		for _, dir := range dirs {
			if err := os.MkdirAll(dir, 0o755); err != nil && m.fstype != "cgroup2" {
				return err
			}
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", root, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// guestAgent tells the client that its session is ready, and serves the exec protocol on the connection until it ends.
func guestAgent() error {
	f := os.NewFile(wireFD, "wire")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return errors.Join(errNoSession, err)
	}
	if err := writeLine(conn, reply{}); err != nil {
		return err
	}
	// It always returns an error: the client ends the connection, there is no farewell.
	agent.Serve(context.Background(), conn, agent.Options{})
	return nil
}
