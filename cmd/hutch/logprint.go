package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

// logPrinter prints entries of a log.
type logPrinter struct {
	stdout, stderr     io.Writer
	asJSON, timestamps bool

	open map[io.Writer]logLine // unfinished lines by where they are printed; no entry: none
	line []byte                // reused
}

// logLine is whose line it is.
type logLine struct {
	session string
	source  execlog.Source
}

// log prints the entries of the log at path that q selects, and with q.Follow what comes until the sandbox is gone. A tail is one of lines, unless
// entries are printed as such.
func (p *logPrinter) log(ctx context.Context, path string, q execlog.Query) error {
	if n := q.Tail; n > 0 && !p.asJSON {
		once := q
		once.Follow = false
		list, err := lastLines(ctx, path, once, n)
		if err != nil {
			return err
		}
		for i := range list {
			if err := p.print(&list[i]); err != nil {
				return err
			}
			q.After = list[i].Seq
		}
		if !q.Follow {
			return nil
		}
		q.Tail = 0
	}
	wanted := q.Sources
	if len(wanted) > 0 {
		q.Sources = append(slices.Clone(wanted), execlog.System) // to see gaps, and the end
	}
	session := q.Session
	if q.Follow {
		q.Session = "" // the end is no session's
	}
	for e, err := range execlog.Read(ctx, path, q) {
		var corrupt *execlog.CorruptError
		switch {
		case errors.As(err, &corrupt):
			fmt.Fprintln(os.Stderr, "hutch:", err)
		case err != nil:
			return err
		case (len(wanted) == 0 || slices.Contains(wanted, e.Source)) && (session == "" || session == e.Session):
			if err := p.print(&e); err != nil {
				return err
			}
		case e.Event != nil && e.Event.Kind == execlog.Gap && (e.Event.Source == "" || slices.Contains(wanted, e.Event.Source)) &&
			(session == "" || e.Session == "" || session == e.Session):
			fmt.Fprintln(p.stderr, "hutch:", clean(string(e.Data))) // what is printed is not all there was
		}
		if q.Follow && e.Event != nil && e.Event.Kind == execlog.SandboxStop {
			return nil
		}
	}
	return nil
}

// lastLines reads the entries with the last n lines that q selects; of the first of them only what belongs to those lines.
func lastLines(ctx context.Context, path string, q execlog.Query, n int) ([]execlog.Entry, error) {
	for q.Tail = n; ; q.Tail *= 2 {
		var list []execlog.Entry
		var corrupted []error
		for e, err := range execlog.Read(ctx, path, q) {
			var corrupt *execlog.CorruptError
			switch {
			case errors.As(err, &corrupt):
				corrupted = append(corrupted, err)
			case err != nil:
				return nil, err
			default:
				list = append(list, e)
			}
		}
		cut, enough := cutLines(list, n)
		if !enough && len(list) >= q.Tail {
			continue
		}
		for _, err := range corrupted {
			fmt.Fprintln(os.Stderr, "hutch:", err)
		}
		return cut, nil
	}
}

// cutLines cuts list to its last n lines, and reports whether list had more than that.
func cutLines(list []execlog.Entry, n int) (cut []execlog.Entry, enough bool) {
	ends := 0 // of lines, from the last one on, which counts also when it is unfinished
	for i := len(list) - 1; i >= 0; i-- {
		data := list[i].Data
		if i == len(list)-1 || list[i].Source == execlog.System {
			if ends++; ends > n {
				return list[i+1:], true
			}
			data = bytes.TrimSuffix(data, []byte("\n"))
			if list[i].Source == execlog.System {
				continue
			}
		}
		for at := bytes.LastIndexByte(data, '\n'); at >= 0; at = bytes.LastIndexByte(data[:at], '\n') {
			if ends++; ends > n {
				list[i].Data = list[i].Data[at+1:]
				return list[i:], true
			}
		}
	}
	return list, false
}

func (p *logPrinter) print(e *execlog.Entry) error {
	if p.asJSON {
		return writeJSON(p.stdout, e, "")
	}
	to := p.stdout
	if e.Source == execlog.Stderr {
		to = p.stderr
	}
	p.line = p.format(p.line[:0], to, e)
	_, err := to.Write(p.line)
	return err
}

// format appends what is printed of e: its bytes, or lines that begin with their time and session.
func (p *logPrinter) format(b []byte, to io.Writer, e *execlog.Entry) []byte {
	whose := logLine{e.Session, e.Source}
	unfinished, midLine := p.open[to]
	prefixed := p.timestamps || e.Source == execlog.System
	data := e.Data
	if e.Source == execlog.System && !bytes.HasSuffix(data, []byte("\n")) {
		data = append(slices.Clip(data), '\n')
	}
	if len(data) == 0 {
		return b
	}
	if prefixed && midLine && unfinished != whose {
		b = append(b, '\n')
		midLine = false
	}
	for line := range bytes.Lines(data) {
		if prefixed && !midLine {
			b = e.Time.AppendFormat(b, time.RFC3339Nano)
			b = append(append(append(b, ' '), clean(e.Session)...), ' ')
		}
		b = append(b, line...)
		midLine = line[len(line)-1] != '\n'
	}
	if p.open == nil {
		p.open = make(map[io.Writer]logLine)
	}
	if delete(p.open, to); midLine {
		p.open[to] = whose
	}
	return b
}
