package execlog

import "bytes"

// MarshalJSON returns the entry as it stands in a log's line.
func (e Entry) MarshalJSON() ([]byte, error) {
	b, err := appendLine(nil, &e)
	return bytes.TrimSuffix(b, []byte("\n")), err
}
