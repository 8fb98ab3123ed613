package channel

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strconv"
	"syscall"
	"unicode"
	"unicode/utf8"
)

var (
	// ErrAgentLost means that the connection to the agent ended while the
	// operation was pending. Wrapped errors say why.
	ErrAgentLost = errors.New("channel: connection to the agent lost")
	// ErrExecLost means that the agent is there but the exec's control stream
	// ended without an exit record, so how the process ended is unknown.
	ErrExecLost = errors.New("channel: exec lost without an exit record")
	// ErrClosed means that this end closed the client.
	ErrClosed = errors.New("channel: client closed")
	// ErrOutputTruncated is what a *TruncatedError is, for errors.Is.
	ErrOutputTruncated = errors.New("channel: output truncated")
	// ErrStdinClosed is reported for stdin bytes that the process did not
	// take, because it closed its stdin or ended: EPIPE, in os/exec terms.
	ErrStdinClosed = errors.New("channel: broken pipe: the process closed its stdin")
	// ErrReaderClosed is for a Stdout or Stderr that is the writing end of a
	// pipe: returned by Write, it says that nobody reads the pipe any more. The
	// process sees a closed pipe, as with any error, but Wait does not fail.
	ErrReaderClosed = errors.New("channel: the reader of the output closed its pipe")
)

// ProtocolError reports a peer that broke the protocol. The session ends with
// it: a peer that sends one impossible frame cannot be trusted with the next.
type ProtocolError struct {
	Op  string // what was being done: "handshake", "frame", "exec"
	Msg string // what the peer did, with the offending value
	Err error  // the cause, or nil
}

func (e *ProtocolError) Error() string {
	s := "channel: protocol violation by the agent: " + e.Op + ": " + e.Msg
	if e.Err != nil {
		s += ": " + printable(e.Err.Error()) // a decoder quotes what it refuses
	}
	return s
}

func (e *ProtocolError) Unwrap() error { return e.Err }

// LimitError reports that a documented limit was reached; nothing was started.
type LimitError struct {
	What string // one of the Limit constants
	Max  int    // the limit
	Need int    // what was asked for, in bytes, where it is known; 0 = not known
}

// What a LimitError is about.
const (
	LimitSessions      = "sessions"                              // execs of this client at once
	LimitAgentSessions = "sessions in the agent"                 // execs of all clients at once
	LimitRequest       = "request bytes"                         // arguments, environment and the rest of one message
	LimitReplay        = "replay bytes in the agent"             // what all detachable execs keep together
	LimitStreams       = "streams over the life of a connection" // all that there ever were
)

func (e *LimitError) Error() string {
	switch e.What {
	case LimitSessions, LimitAgentSessions:
		return fmt.Sprintf("channel: %d commands run already, the most that run at once: wait for some to end, or use another sandbox", e.Max)
	case LimitRequest:
		return fmt.Sprintf("channel: the command's arguments, environment and options have %d bytes together, the most is %d: pass less, and the rest as standard input", e.Need, e.Max)
	case LimitReplay:
		want := ""
		if e.Need > 0 {
			want = fmt.Sprintf(", and this one asks for %d", e.Need)
		}
		return fmt.Sprintf("channel: detachable commands keep at most %d bytes of output in all, an eighth of the guest's memory%s: "+
			"ask for less (a command without a terminal keeps its replay twice, for stdout and stderr), end others, or give the guest more memory", e.Max, want)
	case LimitStreams:
		return fmt.Sprintf("channel: %d streams have been opened, all that a connection has: use a new sandbox", e.Max)
	}
	return fmt.Sprintf("channel: limit of %d %s reached", e.Max, e.What)
}

// Is makes a command line that does not fit be what execve says of one.
func (e *LimitError) Is(target error) bool { return e.What == LimitRequest && target == syscall.E2BIG }

// VersionError reports an agent of another protocol version: the guest's image and this program were built from different versions of hutch.
type VersionError struct {
	Agent, Host int    // protocol versions
	Build       string // what the agent says about itself; may be empty
}

func (e *VersionError) Error() string {
	s := fmt.Sprintf("channel: the guest's agent speaks protocol version %d, this program version %d", e.Agent, e.Host)
	if e.Build != "" {
		s += fmt.Sprintf(" (the agent is %s)", printable(e.Build))
	}
	if e.Agent > e.Host {
		return s + ": build this program with the newer hutch, or rebuild the image with this one's: hutch image build"
	}
	return s + ": rebuild the image with this program's version of hutch: hutch image build"
}

// TruncatedError reports that fewer or more bytes of an output stream arrived
// than the agent says it sent.
type TruncatedError struct {
	Stream    string // "stdout" or "stderr"
	Got, Want int64  // bytes
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("channel: %s is incomplete: %d of %d bytes arrived", e.Stream, e.Got, e.Want)
}

// Is makes errors.Is(err, ErrOutputTruncated) true.
func (e *TruncatedError) Is(target error) bool { return target == ErrOutputTruncated }

// The stages of a process start, in order. StartError.Stage is one of them.
const (
	StageRequest = "request" // the request itself is invalid (NUL in argv, bad tty size, ...)
	StageLimit   = "limit"   // too many sessions in the agent
	StageSession = "session" // the session ID is in use, or its streams did not arrive
	StageUser    = "user"    // unknown user or group, or no right to become it
	StageChdir   = "chdir"   // the working directory
	StageLookup  = "lookup"  // finding the executable
	StageStdio   = "stdio"   // pipes or PTY
	StageCgroup  = "cgroup"  // the exec's cgroup
	StageRlimit  = "rlimit"  // resource limits
	StageFork    = "fork"    // out of processes or memory
	StageExec    = "exec"    // execve itself (format, too large argv, ...)
)

// Errno is a Linux error number as the guest reported it. It is not
// syscall.Errno, whose numbers differ on other hosts.
type Errno int

// The guest errnos that this package interprets. Source: errno(3), Linux.
const (
	EPERM   Errno = 1
	ENOENT  Errno = 2
	ESRCH   Errno = 3
	E2BIG   Errno = 7
	ENOEXEC Errno = 8
	EAGAIN  Errno = 11
	ENOMEM  Errno = 12
	EACCES  Errno = 13
	ENOTDIR Errno = 20
	EISDIR  Errno = 21
	EINVAL  Errno = 22
	ENFILE  Errno = 23
	EMFILE  Errno = 24
)

var errnoText = map[Errno]string{
	EPERM: "operation not permitted", ENOENT: "no such file or directory", ESRCH: "no such process",
	E2BIG: "argument list too long", ENOEXEC: "exec format error", EAGAIN: "resource temporarily unavailable",
	ENOMEM: "cannot allocate memory", EACCES: "permission denied", ENOTDIR: "not a directory",
	EISDIR: "is a directory", EINVAL: "invalid argument", ENFILE: "too many open files in system",
	EMFILE: "too many open files",
}

func (e Errno) Error() string {
	if s, ok := errnoText[e]; ok {
		return s
	}
	return fmt.Sprintf("errno %d", int(e))
}

// Is maps to the io/fs sentinels, as syscall.Errno does.
func (e Errno) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e == ENOENT
	case fs.ErrPermission:
		return e == EACCES || e == EPERM
	}
	return false
}

// StartError reports that the process was not started, where it failed and
// on what. It is the same with and without a TTY.
//
// errors.Is: exec.ErrNotFound for a command name that is nowhere in PATH,
// fs.ErrNotExist for ENOENT, fs.ErrPermission for EACCES and EPERM.
type StartError struct {
	Stage string // one of the Stage constants
	Errno Errno  // 0 when no system call failed
	Path  string // the file, directory or user that it failed on
	Msg   string // further explanation from the agent, may be empty
	bare  bool   // the command was a bare name looked up in PATH
}

func (e *StartError) Error() string {
	s := "cannot start process: " + e.Stage
	if e.Path != "" {
		s += fmt.Sprintf(" %q", shorten(e.Path))
	}
	if e.bare {
		return s + ": executable file not found in $PATH of the guest"
	}
	if e.Msg != "" {
		s += fmt.Sprintf(": %s", printable(e.Msg))
	}
	if e.Errno != 0 && (e.Msg == "" || e.Errno != EINVAL && e.Stage != StageCgroup) { // there the message says all of it
		s += ": " + e.Errno.Error()
	}
	switch {
	case e.Stage == StageLookup && e.Errno == EACCES:
		s += " (is it executable?)"
	case e.Stage == StageExec && e.Errno == ENOEXEC:
		s += " (a program for another machine, or a script without #! in its first line)"
	}
	return s
}

// Unwrap returns the errno, if there is one.
func (e *StartError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Is makes errors.Is(err, exec.ErrNotFound) true for a name not found in PATH.
func (e *StartError) Is(target error) bool { return target == exec.ErrNotFound && e.bare }

// ShellExitCode is the code that a shell gives for this failure: 127 for a
// command that does not exist, 126 for one that cannot be executed, 125 for
// everything that is not about the command.
func (e *StartError) ShellExitCode() int {
	switch {
	case e.Stage != StageLookup && e.Stage != StageExec:
		return 125
	case e.Errno == ENOENT:
		return 127
	default:
		return 126
	}
}

// printable keeps text that a guest wrote from steering the terminal that an
// error is printed on, by direction marks as well, and from flooding it.
func printable(s string) string {
	s = shorten(s)
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return strconv.Quote(s)
		}
	}
	return s
}

// shorten bounds what an error message shows of a guest's text.
func shorten(s string) string {
	const max = 1024
	if len(s) > max {
		s = s[:max] + "..."
	}
	return s
}
