// Package echo makes what the command echo prints, and the shell's built-in of that name.
package echo

import (
	"bytes"
	"strings"
)

// Text is the output for the arguments.
func Text(args []string) []byte {
	newline, escapes := true, false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "neE") == "" {
		for _, c := range args[0][1:] {
			switch c {
			case 'n':
				newline = false
			default:
				escapes = c == 'e'
			}
		}
		args = args[1:]
	}
	text := strings.Join(args, " ")
	var out bytes.Buffer
	if !escapes {
		out.WriteString(text)
	} else if !expand(&out, text) {
		newline = false
	}
	if newline {
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// expand reports false after \c, which ends the output.
func expand(out *bytes.Buffer, s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		i++
		at := strings.IndexByte(`abefnrtv\`, s[i])
		switch {
		case at >= 0:
			out.WriteByte("\a\b\x1b\f\n\r\t\v\\"[at])
		case s[i] == 'c':
			return false
		case s[i] == '0':
			i += number(out, s[i+1:], 8, 3, `\0`)
		case s[i] == 'x':
			i += number(out, s[i+1:], 16, 2, `\x`)
		default:
			out.WriteString(s[i-1 : i+1])
		}
	}
	return true
}

// number writes the byte that up to limit digits of s mean and returns how many there are. Without digits, \0 is zero and \x itself.
func number(out *bytes.Buffer, s string, base, limit int, intro string) int {
	n, i := 0, 0
	for i < limit && i < len(s) {
		d := strings.IndexByte("0123456789abcdef", s[i]|0x20)
		if s[i] <= '9' {
			d = int(s[i]) - '0'
		}
		if d < 0 || d >= base {
			break
		}
		n = n*base + d
		i++
	}
	if i == 0 && base == 16 {
		out.WriteString(intro)
		return 0
	}
	out.WriteByte(byte(n))
	return i
}
