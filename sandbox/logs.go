package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hutchvm/hutch/channel"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

// ErrNoLog is what Logs yields when no sink of WithLogs can be read back.
var ErrNoLog = errors.New("sandbox: nothing to read logs from: give WithLogs an execlog.File or an execlog.Ring")

// WithLogs keeps what every command prints, and when it starts and exits, in sinks of package execlog. It logs also the output that a command's
// owner discards, and that of sessions nobody follows. The caller closes the sinks, after the sandbox.
//
// Of the commands that other processes run through Serve it logs what those processes read.
//
// A sink's error is reported to WithLogger's logger, and touches no command; a slow sink slows the commands down, each by itself, and one that
// never returns holds Close as well.
func WithLogs(sinks ...execlog.Sink) Option {
	return func(c *config) { c.logs = append(c.logs, sinks...) }
}

// Logs reads the log back, from the first sink of WithLogs that can be read: the entries that q selects, and what comes if q.Follow. Errors:
// those of the sink's Read, and ErrNoLog.
func (s *Sandbox) Logs(ctx context.Context, q execlog.Query) iter.Seq2[execlog.Entry, error] {
	for _, sink := range s.cfg.logs {
		if r, ok := sink.(execlog.Reader); ok {
			return r.Read(ctx, q)
		}
	}
	return func(yield func(execlog.Entry, error) bool) { yield(execlog.Entry{}, ErrNoLog) }
}

// execLog logs the commands of one sandbox. It is the Tap of those that other processes run in it.
type execLog struct {
	sink   execlog.Sink
	client *channel.Client
	logger *slog.Logger

	mu       sync.Mutex
	closed   bool
	wg       sync.WaitGroup
	reported time.Time // when the last error of the sink was
}

// newExecLog returns nil without sinks.
func newExecLog(cfg *config, client *channel.Client) *execLog {
	if len(cfg.logs) == 0 {
		return nil
	}
	l := &execLog{sink: execlog.Multi(cfg.logs...), client: client, logger: cfg.logger}
	l.event("", execlog.Event{Kind: execlog.SandboxStart}, "sandbox started")
	return l
}

// close ends the log, after the last command.
func (l *execLog) close(cause error) {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.wg.Wait()
	text := "sandbox closed"
	var stopped *StoppedError
	if errors.As(cause, &stopped) {
		text = stopped.brief()
	}
	l.event("", execlog.Event{Kind: execlog.SandboxStop}, "%s", text)
}

// spawn runs f, which close waits for.
func (l *execLog) spawn(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(f)
	}
}

func (l *execLog) log(e execlog.Entry) {
	err := l.sink.Log(e)
	if err == nil {
		return
	}
	l.mu.Lock()
	now := time.Now()
	report := now.Sub(l.reported) > logReportEvery
	if report {
		l.reported = now
	}
	l.mu.Unlock()
	if report {
		l.logger.Warn("writing the exec log", "err", err)
	}
}

// logReportEvery is how often an error of the sink is reported at most: a guest that prints causes them.
const logReportEvery = 10 * time.Second

func (l *execLog) event(session string, ev execlog.Event, format string, a ...any) {
	l.log(execlog.Entry{Time: time.Now(), Source: execlog.System, Session: session, Data: fmt.Appendf(nil, format, a...), Event: &ev})
}

// Exec implements channel.Tap.
func (l *execLog) Exec(req *channel.Request) channel.ExecTap {
	return &sessionLog{
		l: l, id: req.Session, args: cutArgs(req.Args), merged: req.TTY != nil || req.Merged(), follow: req.Detachable || req.Detached, begun: make(chan struct{}),
	}
}

// sessionLog logs one command.
type sessionLog struct {
	l      *execLog
	id     string
	args   []string
	merged bool // its output is one stream
	follow bool // it is detachable: the log follows it as others do, so that it goes on when they leave
	once   sync.Once
	begun  chan struct{} // closed when the start is in the log, or never will be
}

// Started implements channel.ExecTap.
func (s *sessionLog) Started(pid int) {
	s.once.Do(func() {
		s.l.event(s.id, execlog.Event{Kind: execlog.Start, Args: s.args, PID: pid}, "started %s as process %d", quoteArgs(s.args), pid)
		close(s.begun)
		if s.follow {
			s.l.spawn(s.followOutput)
		}
	})
}

// Output implements channel.ExecTap.
func (s *sessionLog) Output(stderr bool, p []byte) {
	if !s.follow {
		s.write(stderr, p)
	}
}

func (s *sessionLog) write(stderr bool, p []byte) {
	<-s.begun
	src := execlog.Stdout
	switch {
	case s.merged:
		src = execlog.Output
	case stderr:
		src = execlog.Stderr
	}
	for len(p) > 0 {
		n := min(len(p), 64<<10)
		s.l.log(execlog.Entry{Time: time.Now(), Source: src, Session: s.id, Data: p[:n]})
		p = p[n:]
	}
}

// Ended implements channel.ExecTap. It comes after the last Output.
func (s *sessionLog) Ended(e *channel.Exit, err error) {
	refused := false
	s.once.Do(func() { close(s.begun); refused = true })
	if !s.follow || refused {
		s.ended(e, err)
	}
}

// ended logs how the command ended, or why that is not known.
func (s *sessionLog) ended(e *channel.Exit, err error) {
	if e == nil {
		s.l.event(s.id, execlog.Event{Kind: execlog.Failed, Args: s.args}, "%s: %v", quoteArgs(s.args), err)
		return
	}
	state := newProcessState(0, e)
	s.l.event(s.id, execlog.Event{Kind: execlog.Exit, Code: state.ExitCode(), Signal: int(e.Signal)}, "%v", state)
}

// logWriter shows output to the log, and passes it on to w unless that is nil.
type logWriter struct {
	w      io.Writer
	log    *sessionLog
	stderr bool
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.log.write(w.stderr, p)
	if w.w == nil {
		return len(p), nil
	}
	return w.w.Write(p)
}

// tap returns the log of a command of this process, and the streams it goes through.
func (l *execLog) tap(req *channel.Request, stdio channel.Stdio) (*sessionLog, channel.Stdio) {
	s := l.Exec(req).(*sessionLog)
	if s.follow {
		return s, stdio
	}
	same := channel.SameWriter(stdio.Stdout, stdio.Stderr)
	s.merged = s.merged || same
	out := &logWriter{w: stdio.Stdout, log: s}
	stdio.Stdout = out
	if same {
		stdio.Stderr = out
	} else {
		stdio.Stderr = &logWriter{w: stdio.Stderr, log: s, stderr: true}
	}
	return s, stdio
}

// start starts a command of this process and logs it.
func (l *execLog) start(ctx context.Context, client *channel.Client, req *channel.Request, stdio channel.Stdio) (*channel.Process, error) {
	if l == nil {
		return client.Start(ctx, req, stdio)
	}
	if req.Session == "" {
		req.Session = channel.NewSessionID()
	}
	s, stdio := l.tap(req, stdio)
	p, err := client.Start(ctx, req, stdio)
	if err != nil {
		s.once.Do(func() { close(s.begun) })
		s.ended(nil, err)
		return nil, err
	}
	s.Started(p.PID())
	if !s.follow {
		l.spawn(func() {
			e, err := p.Wait()
			s.ended(e, err)
		})
	}
	return p, nil
}

// cutArgs bounds what the log keeps of a command line.
func cutArgs(args []string) []string {
	total := 0
	for i, a := range args {
		if total += len(a) + 1; total > maxLoggedArgs {
			out := append(args[:i:i], a[:max(0, len(a)-(total-maxLoggedArgs))]+"...")
			return out
		}
	}
	return args
}

// quoteArgs shows a command line on one line.
func quoteArgs(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if a != "" && !strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == '\'' || r == '"' || r == '\\' || r > '~' }) {
			b.WriteString(a)
			continue
		}
		fmt.Fprintf(&b, "%q", a)
	}
	return b.String()
}

// maxLoggedArgs bounds, in bytes, what the log keeps of a command line.
const maxLoggedArgs = 4 << 10
