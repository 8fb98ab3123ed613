package debpkg

import (
	"io"
	"strings"
	"sync"
)

// syncWriter serialises writers that end in one buffer: os/exec copies stdout and stderr from two goroutines.
type syncWriter struct {
	w  io.Writer
	mu *sync.Mutex
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// lineWriter calls line for every complete line written to it.
type lineWriter struct {
	line func(string)
	rest string
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest += string(p)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			return len(p), nil
		}
		l.line(strings.TrimRight(line, "\r"))
		l.rest = rest
	}
}
