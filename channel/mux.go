package channel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// muxBacklog is how many streams may be opened before the guest acknowledged
// one. The guard refuses every stream that the guest opens, so the memory that
// a large backlog would give to a hostile peer is not reachable.
const muxBacklog = 256

// muxConfig is the yamux configuration of both ends.
//
// No timeout of yamux is used. A keepalive and a write timeout guess that a
// silent peer is dead and kill the session of a paused virtual machine. A close
// timeout throws away bytes that a slow reader has not fetched; guard.reset
// does what it is for.
func muxConfig(window uint32, logger *slog.Logger) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          muxBacklog,
		KeepAliveInterval:      time.Hour, // unused, but must be positive
		ConnectionWriteTimeout: math.MaxInt64,
		MaxStreamWindowSize:    max(window, initialWindow),
		Logger:                 &muxLogger{log: logger},
	}
}

// muxLogger passes yamux's messages on, at most logBurst and then logRate per
// second, because the peer can cause them.
type muxLogger struct {
	log *slog.Logger

	mu      sync.Mutex
	bucket  tokens
	dropped int
}

const (
	logBurst = 10
	logRate  = 2
)

// Print implements yamux.Logger.
func (l *muxLogger) Print(v ...any) { l.write(fmt.Sprint(v...)) }

// Println implements yamux.Logger.
func (l *muxLogger) Println(v ...any) { l.write(fmt.Sprintln(v...)) }

// Printf implements yamux.Logger. Nothing is formatted for a dropped line.
func (l *muxLogger) Printf(format string, v ...any) {
	if l.log == nil {
		return
	}
	l.mu.Lock()
	ok := l.bucket.take(time.Now(), logRate, logBurst)
	dropped := l.dropped
	if ok {
		l.dropped = 0
	} else {
		l.dropped++
	}
	l.mu.Unlock()
	if ok {
		l.log.LogAttrs(context.Background(), slog.LevelDebug, strings.TrimSpace(fmt.Sprintf(format, v...)),
			slog.Int("dropped", dropped))
	}
}

func (l *muxLogger) write(s string) { l.Printf("%s", s) }

// copyBufs holds buffers of dataChunk bytes for the copies between streams and
// the callers' readers and writers.
var copyBufs = sync.Pool{New: func() any { b := make([]byte, dataChunk); return &b }}

// chunkWriter splits large writes, so that streams share the connection fairly
// and no data frame is over maxData.
type chunkWriter struct{ w io.Writer }

func (c chunkWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m, err := c.w.Write(p[:min(len(p), dataChunk)])
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}
