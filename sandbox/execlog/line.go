package execlog

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	// maxLine bounds a line of a file, in bytes: more than twice what the largest chunk of output needs, which is six times its size if all of it
	// is control characters.
	maxLine = 1 << 20
	// maxData bounds the data of an entry of output, in bytes. What is larger becomes several entries.
	maxData = 64 << 10
)

// line is the JSON form of an Entry.
type line struct {
	Time    time.Time `json:"t"`
	Source  Source    `json:"s"`
	Session string    `json:"id"`
	Seq     uint64    `json:"n"`
	Text    *string   `json:"d"`
	Bytes   *string   `json:"b"` // base64
	Event   *Event    `json:"e"`
}

// appendLine appends e as a JSON line with its newline. It is written by hand because it runs for every chunk that a command prints: the encoder of
// encoding/json makes several copies of the data.
func appendLine(b []byte, e *Entry) ([]byte, error) {
	start := len(b)
	t := e.Time.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		return b, fmt.Errorf("the time has the year %d, which RFC 3339 cannot express", y)
	}
	b = append(b, `{"t":"`...)
	b = t.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","s":`...)
	b = appendString(b, string(e.Source))
	if e.Session != "" {
		b = append(b, `,"id":`...)
		b = appendString(b, e.Session)
	}
	b = append(b, `,"n":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	if utf8.Valid(e.Data) {
		b = append(b, `,"d":`...)
		b = appendString(b, e.Data)
	} else {
		b = append(b, `,"b":"`...)
		b = base64.StdEncoding.AppendEncode(b, e.Data)
		b = append(b, '"')
	}
	if e.Event != nil {
		j, err := json.Marshal(e.Event)
		if err != nil {
			return b[:start], fmt.Errorf("encoding the event: %w", err)
		}
		b = append(append(b, `,"e":`...), j...)
	}
	b = append(b, '}', '\n')
	if n := len(b) - start; n > maxLine {
		return b[:start], fmt.Errorf("%d bytes in a line, at most %d: shorten the event or the session's ID", n, maxLine)
	}
	return b, nil
}

// appendString appends s as a JSON string (RFC 8259 §7), with nothing escaped that need not be: logs are read by people too. What is not UTF-8
// becomes U+FFFD.
func appendString[T string | []byte](b []byte, s T) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			// Only strings can be wrong here: data was checked as a whole.
			if r, n := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)])); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			b = append(append(b, s[from:i]...), "\ufffd"...)
			i++
			from = i
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}

var (
	errIncomplete = errors.New("an entry needs a number, a source and a time")
	errNoSource   = errors.New("the entry has no source: set Source")
	errData       = errors.New("an entry needs one of d and b")
	errNotUTF8    = errors.New("the line is not valid UTF-8") // json would put U+FFFD in its place and nobody would know
)

// decodeLine is the reverse of appendLine for the lines of a log; b has no newline.
func decodeLine(b []byte) (Entry, error) {
	e, err := parseLine(b)
	if err == nil && (e.Seq == 0 || e.Source == "" || e.Time.IsZero()) {
		err = errIncomplete
	}
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// parseLine decodes also an entry that no sink has numbered.
func parseLine(b []byte) (Entry, error) {
	var l line
	if !utf8.Valid(b) {
		return Entry{}, errNotUTF8
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return Entry{}, err
	}
	e := Entry{Time: l.Time, Source: l.Source, Session: l.Session, Seq: l.Seq, Event: l.Event}
	switch {
	case (l.Text == nil) == (l.Bytes == nil):
		return Entry{}, errData
	case l.Text != nil:
		e.Data = []byte(*l.Text)
	default:
		var err error
		if e.Data, err = base64.StdEncoding.DecodeString(*l.Bytes); err != nil {
			return Entry{}, err
		}
	}
	return e, nil
}

// cut returns how much of p to take if no more than n bytes are wanted: not a part of a UTF-8 character, if it can be helped.
func cut(p []byte, n int) int {
	if len(p) <= n {
		return len(p)
	}
	for i := n; i > n-utf8.UTFMax && i > 0; i-- {
		if utf8.RuneStart(p[i]) {
			return i
		}
	}
	return n
}

// split calls f with e, or with parts of it if its data is too large for one entry.
func split(e Entry, f func(*Entry) error) error {
	if e.Source == System || len(e.Data) <= maxData {
		return f(&e)
	}
	var errs []error
	for rest := e.Data; len(rest) > 0; {
		n := cut(rest, maxData)
		part := e
		part.Data, rest = rest[:n], rest[n:]
		errs = append(errs, f(&part))
	}
	return errors.Join(errs...)
}

// A CorruptError is a line of a log that is no entry. Reading goes on behind it.
type CorruptError struct {
	File string
	Line int // in File, from 1
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("execlog: %s line %d is no log entry and is left out: %v", e.File, e.Line, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }
