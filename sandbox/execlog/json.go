package execlog

import (
	"bytes"
	"fmt"
)

// MarshalJSON returns the entry as it stands in a log's line. Errors: a time that RFC 3339 cannot express; an entry larger than 1 MiB.
func (e Entry) MarshalJSON() ([]byte, error) {
	b, err := appendLine(nil, &e)
	return bytes.TrimSuffix(b, []byte("\n")), err
}

// UnmarshalJSON is the reverse of MarshalJSON: it takes what a log's line holds, byte for byte. null changes nothing, as everywhere in encoding/json.
func (e *Entry) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	got, err := parseLine(b)
	if err != nil {
		return fmt.Errorf("execlog: decoding an entry: %w", err)
	}
	*e = got
	return nil
}
