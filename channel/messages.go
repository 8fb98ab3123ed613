package channel

import "time"

// Version is the protocol version. Both ends must have the same one: agent and
// host are built from one source tree.
const Version = 1

// Specification constants: changing one changes the protocol.
const (
	// maxFrame bounds one CBOR message towards the guest, in bytes.
	maxFrame = 1 << 20
	// maxReplyFrame bounds one CBOR message from the guest, in bytes. No
	// message of the agent is larger than a few KiB.
	maxReplyFrame = 64 << 10
	// maxData bounds one yamux data frame from the guest, in bytes.
	maxData = 256 << 10
	// dataChunk is the largest write that either end makes on a data stream.
	dataChunk = 64 << 10
	// maxSessionID bounds a session ID, in bytes.
	maxSessionID = 128
	// magic starts both handshake messages.
	magic = "hutch-channel"
)

// Implementation constants: defaults that Config changes.
const (
	defaultMaxSessions = 1024
	defaultWindow      = 1 << 20
	defaultGuestWindow = 256 << 10
	defaultHandshake   = 30 * time.Second
	defaultWaitDelay   = 2 * time.Second
	defaultCancelWait  = 250 * time.Millisecond
)

// DefaultPath is PATH in the default environment of every exec.
const DefaultPath = "/bin:/sbin:/usr/bin:/usr/sbin:/usr/local/bin"

// Hello is what the agent says about itself in the handshake.
type Hello struct {
	Magic   string `cbor:"1,keyasint"`
	Version int    `cbor:"2,keyasint"` // protocol version
	Build   string `cbor:"3,keyasint"` // version and build of the agent
	Kernel  string `cbor:"4,keyasint"` // kernel release (uname -r)
	PID     int    `cbor:"5,keyasint"` // 1 in a microVM
	// UptimeStart and UptimeHello are the guest's CLOCK_BOOTTIME, in
	// nanoseconds, when the agent started and when it sent this message. The
	// host gets the boot phases by subtracting them from its own clock.
	UptimeStart int64 `cbor:"6,keyasint"`
	UptimeHello int64 `cbor:"7,keyasint"`
	// Phases are further points of the agent's start, for boot reports.
	Phases []Phase `cbor:"8,keyasint,omitempty"`
	// Warnings are failures at start that did not stop the agent, such as a
	// mount that the kernel does not know. At most 16.
	Warnings []string `cbor:"9,keyasint,omitempty"`
}

// Phase is a named point in the guest's CLOCK_BOOTTIME, in nanoseconds.
type Phase struct {
	Name   string `cbor:"1,keyasint"`
	Uptime int64  `cbor:"2,keyasint"`
}

// hostHello answers Hello.
type hostHello struct {
	Magic   string `cbor:"1,keyasint"`
	Version int    `cbor:"2,keyasint"`
	Nonce   []byte `cbor:"3,keyasint"` // 16 random bytes
	// WallTime is the host's clock in Unix nanoseconds: a guest without an
	// RTC starts in 1970.
	WallTime int64 `cbor:"4,keyasint,omitempty"`
}

// helloAck proves that the agent read this host's hello: bytes left over in a
// port from an earlier connection cannot.
type helloAck struct {
	Nonce []byte `cbor:"1,keyasint"`
}

// streamKind is the role of one yamux stream.
type streamKind uint8

const (
	kindExec   streamKind = 1 // control stream of a new exec
	kindStdin  streamKind = 2 // host to guest
	kindStdout streamKind = 3 // guest to host; the terminal in TTY mode
	kindStderr streamKind = 4 // guest to host
	kindCall   streamKind = 5 // one request, one reply
	kindAttach streamKind = 6 // control stream of an attachment to a session
)

// open is the first message on every stream.
type open struct {
	Kind    streamKind `cbor:"1,keyasint"`
	Session string     `cbor:"2,keyasint,omitempty"`
	// Attach tells the execs and attachments of one connection apart, whose
	// session IDs may be the same: it is used once. Data streams carry the value
	// of their control stream, so that those of a start that failed, which may
	// be read late, cannot be taken for those of the next one.
	Attach uint32 `cbor:"3,keyasint,omitempty"`
}

// Request says what to run. The zero value of a field is its default.
//
// Strings are byte strings on the wire: argv, environment and paths need not
// be UTF-8, but must not contain NUL.
type Request struct {
	// Session is the session ID, at most 128 bytes; empty = Start makes a
	// random one of 32 hex digits.
	Session string `cbor:"1,keyasint"`
	// Path is the command: with a slash it is a path relative to Dir, without
	// one it is looked up in the PATH of the exec's environment.
	Path string `cbor:"2,keyasint"`
	// Args is the whole argv including Args[0]; empty = []string{Path}.
	Args []string `cbor:"3,keyasint,omitempty"`
	// Env is "K=V" strings laid over the agent's default environment; the
	// last one of a key wins.
	Env []string `cbor:"4,keyasint,omitempty"`
	// ClearEnv starts from an empty environment instead.
	ClearEnv bool `cbor:"5,keyasint,omitempty"`
	// Dir is the working directory; empty = the agent's default ("/" in a microVM).
	Dir string `cbor:"6,keyasint,omitempty"`
	// User is "name", "uid", "name:group" or "uid:gid"; empty = the agent's user.
	User string `cbor:"7,keyasint,omitempty"`
	// TTY runs the process on a new terminal; nil = pipes.
	TTY *TTY `cbor:"8,keyasint,omitempty"`
	// Rlimits are set before the program's first instruction.
	Rlimits []Rlimit `cbor:"9,keyasint,omitempty"`
	// Timeout ends the process in the guest after this time; 0 = never.
	Timeout time.Duration `cbor:"10,keyasint,omitempty"`
	// Grace is the time between SIGTERM and SIGKILL at a timeout or a
	// cancelled context; 0 = SIGKILL at once.
	Grace time.Duration `cbor:"11,keyasint,omitempty"`
	// WaitDelay is how long output is still read after the process ended
	// while a descendant holds the pipe open; 0 = 2 s, negative = for ever.
	WaitDelay time.Duration `cbor:"12,keyasint,omitempty"`

	// Set by Start from Stdio.
	Wired wired `cbor:"13,keyasint,omitempty"`

	// Detachable lets the process outlive Start's Process and the connection:
	// only its own end, a kill or the agent's end ends it. Its output goes
	// through buffers in the guest, one per stream, from which Client.Attach
	// replays; output without a writer in Stdio is kept there too. While the
	// starter is attached a full buffer blocks the process, as a pipe does; when
	// it has detached or gone away the oldest bytes are dropped. An output
	// writer that fails ends that stream for the starter only.
	Detachable bool `cbor:"14,keyasint,omitempty"`
	// Detached is Detachable from which the process never waits for the
	// starter: one who falls behind gets a *GapError.
	Detached bool `cbor:"15,keyasint,omitempty"`
	// Replay is how many bytes of each output stream are kept; 0 = DefaultReplay,
	// at most MaxReplay.
	Replay int64 `cbor:"16,keyasint,omitempty"`
	// OpenStdin gives a detachable process a stdin for later attachments though
	// Stdio.Stdin is nil. One with a TTY always has it.
	OpenStdin bool `cbor:"17,keyasint,omitempty"`
	// Limits bound what the process and its descendants use together; nil =
	// none. A guest that cannot is a *StartError of StageCgroup.
	Limits *Limits `cbor:"18,keyasint,omitempty"`
}

// Merged reports that stderr goes to the same pipe as stdout. Start sets it
// from Stdio.
func (r *Request) Merged() bool { return r.Wired&wiredMerged != 0 }

// replayBytes is what the agent sets aside for the output of a detachable exec: the replay of each stream.
func (r *Request) replayBytes() int {
	n := int(r.Replay)
	if n == 0 {
		n = DefaultReplay
	}
	if r.TTY == nil && !r.Merged() {
		n *= 2
	}
	return n
}

// Limits are cgroup limits of one exec's tree. 0 = none.
type Limits struct {
	Memory int64 `cbor:"1,keyasint,omitempty"` // bytes; beyond it the OOM killer ends a process: Exit.OOM
	CPU    int64 `cbor:"2,keyasint,omitempty"` // thousandths of one processor
	Pids   int64 `cbor:"3,keyasint,omitempty"` // processes and threads; beyond it fork fails with EAGAIN
}

// wired is the set of data streams of an exec.
type wired uint8

const (
	wiredStdin wired = 1 << iota
	wiredStdout
	wiredStderr
	// wiredMerged: stderr is the same pipe as stdout.
	wiredMerged
)

// TTY is the terminal of an exec. Rows and Cols are in characters; 0 = 24 and 80.
type TTY struct {
	Rows uint16 `cbor:"1,keyasint,omitempty"`
	Cols uint16 `cbor:"2,keyasint,omitempty"`
	// Term is the value of TERM unless Env sets it; empty = "xterm-256color".
	Term string `cbor:"3,keyasint,omitempty"`
}

// RlimitInfinity is "no limit" in Rlimit.
const RlimitInfinity = ^uint64(0)

// Rlimit is one resource limit. Name is the lower-case POSIX or Linux name
// without prefix: as, core, cpu, data, fsize, locks, memlock, msgqueue, nice,
// nofile, nproc, rss, rtprio, rttime, sigpending, stack. Units as in
// getrlimit(2).
type Rlimit struct {
	Name string `cbor:"1,keyasint"`
	Soft uint64 `cbor:"2,keyasint"`
	Hard uint64 `cbor:"3,keyasint"`
}

// hostMsg is a message from host to agent on a control stream after the
// Request. Exactly one field is set.
type hostMsg struct {
	Signal *signalMsg `cbor:"1,keyasint,omitempty"`
	Kill   *killMsg   `cbor:"2,keyasint,omitempty"`
	Resize *resizeMsg `cbor:"3,keyasint,omitempty"`
	Detach *detachMsg `cbor:"4,keyasint,omitempty"`
}

type signalMsg struct {
	Seq   uint32 `cbor:"1,keyasint"`
	Sig   int    `cbor:"2,keyasint"`
	Group bool   `cbor:"3,keyasint,omitempty"`
}

// killMsg ends the whole tree: SIGTERM to the group, then after Grace SIGKILL
// to everything.
type killMsg struct {
	Grace time.Duration `cbor:"1,keyasint,omitempty"`
}

type resizeMsg struct {
	Rows uint16 `cbor:"1,keyasint"`
	Cols uint16 `cbor:"2,keyasint"`
}

// agentMsg is a message from agent to host on a control stream. Exactly one
// field is set.
type agentMsg struct {
	Started     *startedMsg     `cbor:"1,keyasint,omitempty"`
	Failed      *failedMsg      `cbor:"2,keyasint,omitempty"`
	SignalAck   *signalAckMsg   `cbor:"3,keyasint,omitempty"`
	StdinClosed *stdinClosedMsg `cbor:"4,keyasint,omitempty"`
	Exited      *exitedMsg      `cbor:"5,keyasint,omitempty"`
	Drained     *drainedMsg     `cbor:"6,keyasint,omitempty"`
	Attached    *attachedMsg    `cbor:"7,keyasint,omitempty"`
	Gap         *gapMsg         `cbor:"8,keyasint,omitempty"`
	Detached    *detachedMsg    `cbor:"9,keyasint,omitempty"`
}

type startedMsg struct {
	PID int `cbor:"1,keyasint"`
}

type failedMsg struct {
	Stage string  `cbor:"1,keyasint"`
	Errno int     `cbor:"2,keyasint,omitempty"`
	Path  string  `cbor:"3,keyasint,omitempty"`
	Msg   string  `cbor:"4,keyasint,omitempty"`
	Bare  bool    `cbor:"5,keyasint,omitempty"`
	Max   int     `cbor:"6,keyasint,omitempty"` // with StageLimit: the limit
	Why   Reason  `cbor:"7,keyasint,omitempty"`
	Gap   *gapMsg `cbor:"8,keyasint,omitempty"` // with ReasonGap
}

type signalAckMsg struct {
	Seq   uint32 `cbor:"1,keyasint"`
	Errno int    `cbor:"2,keyasint,omitempty"` // ESRCH: already exited
}

// stdinClosedMsg: the process closed its stdin or ended; more is not taken.
type stdinClosedMsg struct {
	Taken int64 `cbor:"1,keyasint"` // bytes written to the process's stdin
}

// exitedMsg is sent when the process is reaped, whatever its output does.
type exitedMsg struct {
	Code     int    `cbor:"1,keyasint"` // -1 if ended by a signal
	Signal   int    `cbor:"2,keyasint,omitempty"`
	Core     bool   `cbor:"3,keyasint,omitempty"`
	OOM      bool   `cbor:"4,keyasint,omitempty"`
	TimedOut bool   `cbor:"5,keyasint,omitempty"`
	Wall     int64  `cbor:"6,keyasint"` // ns from start to reaping
	Usage    Rusage `cbor:"7,keyasint"`
}

// drainedMsg ends the control stream: the agent has written the last byte of
// each output stream, and these are the totals.
type drainedMsg struct {
	Stdin    int64 `cbor:"1,keyasint"` // bytes the process's stdin took
	Stdout   int64 `cbor:"2,keyasint"`
	Stderr   int64 `cbor:"3,keyasint"`
	Orphaned bool  `cbor:"4,keyasint,omitempty"`
}

// Rusage is what the process and its reaped children used. Source: getrusage(2).
type Rusage struct {
	User   time.Duration `cbor:"1,keyasint"` // CPU time in user mode
	System time.Duration `cbor:"2,keyasint"` // CPU time in the kernel
	MaxRSS int64         `cbor:"3,keyasint"` // bytes
	MinFlt int64         `cbor:"4,keyasint"` // page faults without I/O
	MajFlt int64         `cbor:"5,keyasint"` // page faults with I/O
	InBlk  int64         `cbor:"6,keyasint"` // 512-byte blocks read
	OutBlk int64         `cbor:"7,keyasint"` // 512-byte blocks written
	NVCSw  int64         `cbor:"8,keyasint"` // voluntary context switches
	NIvCSw int64         `cbor:"9,keyasint"` // involuntary context switches
}

// callReq is the one request of a kindCall stream. Exactly one field is set.
type callReq struct {
	Stat     bool         `cbor:"1,keyasint,omitempty"`
	Shutdown *shutdownMsg `cbor:"2,keyasint,omitempty"`
	Sessions *sessionsReq `cbor:"3,keyasint,omitempty"`
	Forget   *forgetReq   `cbor:"4,keyasint,omitempty"`
}

type shutdownMsg struct {
	Reboot bool `cbor:"1,keyasint,omitempty"`
}

type callReply struct {
	Error    string         `cbor:"1,keyasint,omitempty"`
	Stats    *Stats         `cbor:"2,keyasint,omitempty"`
	Sessions *sessionsReply `cbor:"3,keyasint,omitempty"`
	Reason   Reason         `cbor:"4,keyasint,omitempty"`
}

// Stats are debug counters of the agent at one moment.
type Stats struct {
	Goroutines int   `cbor:"1,keyasint"`
	FDs        int   `cbor:"2,keyasint"`
	Sessions   int   `cbor:"3,keyasint"`
	Streams    int   `cbor:"4,keyasint"`            // yamux streams, this call's included
	Execs      int64 `cbor:"5,keyasint"`            // started since the agent began
	Reaped     int64 `cbor:"6,keyasint"`            // orphans reaped since the agent began
	Zombies    int   `cbor:"7,keyasint"`            // zombie children now
	Cgroups    int   `cbor:"8,keyasint"`            // exec cgroups that exist now
	HeapBytes  int64 `cbor:"9,keyasint"`            // live Go heap
	SysBytes   int64 `cbor:"10,keyasint"`           // memory the Go runtime has from the kernel
	Uptime     int64 `cbor:"11,keyasint"`           // CLOCK_BOOTTIME, ns
	Detachable int   `cbor:"12,keyasint,omitempty"` // detachable sessions, running and ended
	Replay     int64 `cbor:"13,keyasint,omitempty"` // bytes reserved for replay
}
