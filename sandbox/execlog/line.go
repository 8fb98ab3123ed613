package execlog

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// maxLine bounds a line of a file, in bytes: four times what the largest chunk of output needs.
const maxLine = 1 << 20

// line is the JSON form of an Entry.
type line struct {
	Time    time.Time `json:"t"`
	Source  Source    `json:"s"`
	Session string    `json:"id,omitempty"`
	Seq     uint64    `json:"n"`
	Text    *string   `json:"d,omitempty"`
	Bytes   *string   `json:"b,omitempty"` // base64
	Event   *Event    `json:"e,omitempty"`
}

// appendLine appends e as a JSON line with its newline.
func appendLine(b []byte, e *Entry) ([]byte, error) {
	l := line{Time: e.Time.UTC(), Source: e.Source, Session: e.Session, Seq: e.Seq, Event: e.Event}
	var text string
	if utf8.Valid(e.Data) {
		text = string(e.Data)
		l.Text = &text
	} else {
		text = base64.StdEncoding.EncodeToString(e.Data)
		l.Bytes = &text
	}
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false) // logs are read by people too
	if err := enc.Encode(&l); err != nil {
		return b, fmt.Errorf("execlog: encoding entry %d: %w", e.Seq, err)
	}
	if n := buf.Len() - len(b); n > maxLine {
		return b, fmt.Errorf("execlog: entry %d is a line of %d bytes, at most %d: log smaller chunks", e.Seq, n, maxLine)
	}
	return buf.Bytes(), nil
}

// decodeLine is the reverse of appendLine.
func decodeLine(b []byte) (Entry, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return Entry{}, err
	}
	e := Entry{Time: l.Time, Source: l.Source, Session: l.Session, Seq: l.Seq, Event: l.Event}
	switch {
	case l.Seq == 0 || l.Source == "" || l.Time.IsZero():
		return Entry{}, errors.New("an entry without number, source or time")
	case (l.Text == nil) == (l.Bytes == nil):
		return Entry{}, errors.New("an entry needs one of d and b")
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

// A CorruptError is a line of a log that is no entry.
type CorruptError struct {
	File string
	Line int // from 1
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("execlog: %s line %d is no log entry and is left out: %v", e.File, e.Line, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }
