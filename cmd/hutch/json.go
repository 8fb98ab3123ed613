package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printJSON prints v as indented JSON.
func printJSON(v any) error { return writeJSON(os.Stdout, v, "  ") }

// writeJSON writes v as JSON that can be looked at: encoding/json leaves characters as they are that steer some terminals (those from U+0080 to
// U+009F) or turn the direction of writing, and much of what is printed is a guest's text. They are escaped, which changes no value.
func writeJSON(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", indent)
	enc.SetEscapeHTML(false) // people read it, too
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escapeJSON(b.Bytes()))
	return err
}

// escapeJSON escapes the characters of JSON that cannot be seen: beyond ASCII they are all within strings.
func escapeJSON(b []byte) []byte {
	var out []byte
	from := 0
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r >= 0x7f && !unicode.IsPrint(r) {
			out = append(out, b[from:i]...)
			for _, u := range utf16.AppendRune(nil, r) {
				out = fmt.Appendf(out, `\u%04x`, u)
			}
			from = i + n
		}
		i += n
	}
	return append(out, b[from:]...)
}
