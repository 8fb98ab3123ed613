package agent

import (
	"cmp"
	"errors"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/channel"
)

// errnoOf is the errno in err, 0 for nil and EINVAL for an error without one.
func errnoOf(err error) channel.Errno {
	var e syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return channel.Errno(e)
	}
	return channel.EINVAL
}

func failure(stage, path string, err error) *channel.StartFailure {
	f := &channel.StartFailure{Stage: stage, Path: path, Errno: errnoOf(err)}
	var e syscall.Errno
	if err != nil && !errors.As(err, &e) {
		f.Msg = err.Error()
	}
	return f
}

// start starts the process, in the order of channel's Stage constants. At a
// failure nothing is left behind.
func (s *session) start() (f *channel.StartFailure) {
	id, err := lookupUser("/etc", s.req.User)
	if err != nil {
		return failure(channel.StageUser, s.req.User, err)
	}
	env := s.environ(id)
	dir := s.req.Dir
	if dir == "" {
		dir = s.a.opt.Dir
	}
	if err := checkDir(dir, id); err != nil {
		return failure(channel.StageChdir, dir, err)
	}
	path, f := lookPath(s.req.Path, dir, getenv(env, "PATH"), id)
	if f != nil {
		return f
	}
	limits, f := parseRlimits(s.req.Rlimits)
	if f != nil {
		return f
	}
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Sys: &syscall.SysProcAttr{Setsid: true, Ptrace: len(limits) > 0}}
	if id.switches() {
		attr.Sys.Credential = id.credential()
	}
	files, err := s.stdio(attr)
	defer files.close()
	if err != nil {
		s.closeFiles()
		return failure(channel.StageStdio, "", err)
	}
	if f := s.enterCgroup(); f != nil {
		s.closeFiles()
		return f
	}
	if s.cgroup != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, s.cgroup.fd()
	}
	if f := s.fork(path, attr, limits, id); f != nil {
		s.closeFiles()
		if s.cgroup != nil {
			s.a.cgroups.release(s.cgroup)
		}
		return f
	}
	return nil
}

// fork starts the process and sets its limits before its first instruction.
func (s *session) fork(path string, attr *syscall.ProcAttr, limits []rlimit, id *identity) (f *channel.StartFailure) {
	var err error
	s.begun = time.Now()
	s.child, err = s.a.kids.spawn(func() (int, error) {
		if len(limits) > 0 {
			// ptrace belongs to the thread that started the process.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
		}
		pid, err := syscall.ForkExec(path, s.req.Args, attr)
		if err != nil {
			f = s.forkFailure(path, attr.Dir, err, id)
			return 0, err
		}
		if len(limits) > 0 {
			if f = limitStopped(pid, limits); f != nil {
				return 0, unix.EINVAL
			}
		}
		return pid, nil
	})
	if err != nil {
		return f
	}
	return nil
}

// forkFailure finds the stage of an error of ForkExec, which does not tell it.
func (s *session) forkFailure(path, dir string, err error, id *identity) *channel.StartFailure {
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM):
		return failure(channel.StageFork, path, err)
	case errors.Is(err, unix.EPERM) && id.switches():
		return failure(channel.StageUser, s.req.User, err)
	}
	if derr := checkDir(dir, id); derr != nil {
		return failure(channel.StageChdir, dir, derr) // it went away meanwhile
	}
	f := failure(channel.StageExec, path, err)
	if errors.Is(err, unix.ENOENT) {
		f.Msg = "the file or its interpreter does not exist"
	}
	return f
}

// limitStopped sets the limits of a process that is stopped before its first
// instruction and lets it go, or kills it.
func limitStopped(pid int, limits []rlimit) *channel.StartFailure {
	kill := func(l string, err error) *channel.StartFailure {
		_ = unix.Kill(pid, unix.SIGKILL)
		var st unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &st, 0, nil); err != unix.EINTR && (err != nil || !st.Stopped()) {
				return failure(channel.StageRlimit, l, cmp.Or[error](err, unix.EINVAL))
			}
		}
	}
	var st unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &st, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || !st.Stopped() {
			return failure(channel.StageExec, "", cmp.Or[error](err, unix.ESRCH))
		}
		break
	}
	for _, l := range limits {
		if err := unix.Prlimit(pid, l.resource, &unix.Rlimit{Cur: l.soft, Max: l.hard}, nil); err != nil {
			f := kill(l.name, err)
			f.Errno = errnoOf(err)
			return f
		}
	}
	if err := unix.PtraceDetach(pid); err != nil {
		return kill("ptrace", err)
	}
	return nil
}

// fds are the child's ends, which are closed here after the start.
type fds []int

func (f fds) close() {
	for _, fd := range f {
		unix.Close(fd)
	}
}

// stdio makes the pipes or the terminal of the exec.
func (s *session) stdio(attr *syscall.ProcAttr) (files fds, err error) {
	if s.req.TTY != nil {
		return s.terminal(attr)
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	files = append(files, null)
	attr.Files = []uintptr{uintptr(null), uintptr(null), uintptr(null)}
	if s.x.Stdin() != nil || s.detachable() && s.req.OpenStdin {
		r, w, err := pipe()
		if err != nil {
			return files, err
		}
		files = append(files, r)
		attr.Files[0] = uintptr(r)
		s.takeStdin(ours(w, "stdin"), false)
	}
	for i, out := range s.dests() {
		if out == nil {
			continue
		}
		r, w, err := pipe()
		if err != nil {
			return files, err
		}
		files = append(files, w)
		attr.Files[1+i] = uintptr(w)
		s.outs = append(s.outs, &outCopy{f: ours(r, "output"), w: out, stderr: i == 1, done: make(chan struct{})})
	}
	if s.x.Merged() {
		attr.Files[2] = attr.Files[1]
	}
	return files, nil
}

func pipe() (r, w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return 0, 0, os.NewSyscallError("pipe2", err)
	}
	return p[0], p[1], nil
}

// ours puts our end of a pipe into Go's poller. The process's end is another
// open file and stays blocking.
func ours(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// terminal makes a terminal with its size, before the process can ask for it.
func (s *session) terminal(attr *syscall.ProcAttr) (files fds, err error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, err
	}
	defer master.Close()
	defer slave.Close()
	if err := setSize(master, s.req.TTY.Rows, s.req.TTY.Cols); err != nil {
		return nil, err
	}
	// pty.Open leaves both in blocking mode; duplicates of the master share one
	// open file, so one SetNonblock is for all.
	dup := func(f *os.File) (int, error) { return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3) }
	sfd, err := dup(slave)
	if err != nil {
		return nil, err
	}
	files = fds{sfd}
	attr.Files = []uintptr{uintptr(sfd), uintptr(sfd), uintptr(sfd)}
	attr.Sys.Setctty, attr.Sys.Ctty = true, 0
	mfd, err := dup(master)
	if err != nil {
		return files, err
	}
	s.outs = []*outCopy{{f: ours(mfd, "terminal"), w: s.dests()[0], tty: true, done: make(chan struct{})}}
	if mfd, err = dup(master); err != nil {
		return files, err
	}
	s.tty = ours(mfd, "terminal")
	if s.x.Stdin() != nil || s.detachable() {
		if mfd, err = dup(master); err != nil {
			return files, err
		}
		s.takeStdin(ours(mfd, "terminal"), true)
	}
	if id, err := lookupUser("/etc", s.req.User); err == nil && id.switches() {
		_ = unix.Fchown(sfd, int(id.uid), -1) // so that /dev/tty can be opened by name
	}
	return files, nil
}

// setSize sets a terminal's size; 0 is 24 and 80.
func setSize(f *os.File, rows, cols uint16) error {
	if rows == 0 {
		rows = 24
	}
	if cols == 0 {
		cols = 80
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// closeFiles undoes stdio.
func (s *session) closeFiles() {
	for _, o := range s.outs {
		o.f.Close()
	}
	if s.stdin != nil {
		s.stdin.f.Close()
	}
	if s.sink != nil {
		s.sink.f.Close()
	}
	if s.tty != nil {
		s.tty.Close()
	}
}

// environ is the environment of the exec: defaults, the agent's, the request's;
// the last one of a key wins.
func (s *session) environ(id *identity) []string {
	var env []string
	if !s.req.ClearEnv {
		env = append(env, "PATH="+DefaultPath, "HOME="+id.home)
		if id.name != "" {
			env = append(env, "USER="+id.name)
		}
		env = append(env, s.a.opt.Env...)
	}
	if t := s.req.TTY; t != nil && (!s.req.ClearEnv || t.Term != "") {
		term := t.Term
		if term == "" {
			term = "xterm-256color"
		}
		env = append(env, "TERM="+term)
	}
	return dedupe(append(env, s.req.Env...))
}

func dedupe(env []string) []string {
	at := make(map[string]int, len(env))
	out := env[:0:0]
	for _, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

func getenv(env []string, key string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// fitTerminal sets the size for somebody who comes back to a terminal. The kernel tells the foreground programs of a new size only, but they
// should draw themselves on this screen in any case: the replay may have lost what they drew before.
func fitTerminal(f *os.File, rows, cols uint16) {
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		old, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ)
		if err == nil && old.Row == rows && old.Col == cols {
			if group, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil && group > 1 {
				_ = unix.Kill(-group, unix.SIGWINCH)
			}
			return
		}
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}
