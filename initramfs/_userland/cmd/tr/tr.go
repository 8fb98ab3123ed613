// Command tr translates, deletes or squeezes bytes.
//
//	tr [-cdst] SET1 [SET2]
//
// Sets hold bytes, ranges, the escapes of C with octal numbers, classes such as [:alpha:], and [x*n] in SET2. u-root's own knows no ranges.
package main

import (
	"io"
	"os"
	"strconv"
	"strings"

	"userland.hutch.invalid/lib/opt"
)

func main() {
	o := opt.Parse(1, os.Args[1:], "+cCdst", "complement=c", "delete=d", "squeeze-repeats=s", "truncate-set1=t")
	del, squeeze := o.Has('d'), o.Has('s')
	want := 2
	if del != squeeze {
		want = 1
	}
	if len(o.Args) < want || len(o.Args) > 2 || (del && !squeeze && len(o.Args) != 1) {
		opt.Exit(1, "give %d sets, not %d", want, len(o.Args))
	}
	set1 := expand(o.Args[0], 0)
	if o.Has('c') || o.Has('C') {
		set1 = complement(set1)
	}
	var set2 []byte
	if len(o.Args) == 2 {
		set2 = expand(o.Args[1], len(set1))
	}
	var table [256]byte
	var drop, once [256]bool
	for i := range table {
		table[i] = byte(i)
	}
	last := set1
	switch {
	case del:
		for _, b := range set1 {
			drop[b] = true
		}
		last = set2
	case len(o.Args) == 2:
		if len(set2) == 0 {
			opt.Exit(1, "SET2 is empty")
		}
		for i, b := range set1 {
			if i >= len(set2) && o.Has('t') {
				break
			}
			table[b] = set2[min(i, len(set2)-1)]
		}
		last = set2
	}
	if squeeze {
		for _, b := range last {
			once[b] = true
		}
	}
	copyThrough(&table, &drop, &once)
}

func copyThrough(table *[256]byte, drop, once *[256]bool) {
	buf := make([]byte, 64<<10)
	out := make([]byte, 0, len(buf))
	before := -1
	for {
		n, err := os.Stdin.Read(buf)
		out = out[:0]
		for _, b := range buf[:n] {
			if drop[b] {
				continue
			}
			b = table[b]
			if once[b] && int(b) == before {
				continue
			}
			before = int(b)
			out = append(out, b)
		}
		if _, werr := os.Stdout.Write(out); werr != nil {
			opt.Exit(1, "%v", werr)
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			opt.Exit(1, "%v", err)
		}
	}
}

func complement(set []byte) []byte {
	var in [256]bool
	for _, b := range set {
		in[b] = true
	}
	var out []byte
	for i := range 256 {
		if !in[i] {
			out = append(out, byte(i))
		}
	}
	return out
}

var classes = map[string]func(byte) bool{
	"alpha":  alpha,
	"digit":  digit,
	"alnum":  func(b byte) bool { return alpha(b) || digit(b) },
	"lower":  lower,
	"upper":  upper,
	"space":  func(b byte) bool { return b == ' ' || b >= 9 && b <= 13 },
	"blank":  func(b byte) bool { return b == ' ' || b == '\t' },
	"cntrl":  func(b byte) bool { return b < 32 || b == 127 },
	"print":  func(b byte) bool { return b >= 32 && b < 127 },
	"graph":  func(b byte) bool { return b > 32 && b < 127 },
	"punct":  func(b byte) bool { return b > 32 && b < 127 && !alpha(b) && !digit(b) },
	"xdigit": func(b byte) bool { return digit(b) || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F' },
}

func lower(b byte) bool { return b >= 'a' && b <= 'z' }
func upper(b byte) bool { return b >= 'A' && b <= 'Z' }
func alpha(b byte) bool { return lower(b) || upper(b) }
func digit(b byte) bool { return b >= '0' && b <= '9' }

// expand returns the bytes of a set. fill is the length that [x*] fills up to.
func expand(s string, fill int) []byte {
	var out []byte
	for s != "" {
		if strings.HasPrefix(s, "[:") {
			if end := strings.Index(s, ":]"); end > 1 {
				is, ok := classes[s[2:end]]
				if !ok {
					opt.Exit(1, "no class of characters %q", s[2:end])
				}
				for i := range 256 {
					if is(byte(i)) {
						out = append(out, byte(i))
					}
				}
				s = s[end+2:]
				continue
			}
		}
		if s[0] == '[' && len(s) > 3 && strings.Contains(s[2:], "*") {
			b, rest := char(s[1:])
			count, tail, ok := strings.Cut(strings.TrimPrefix(rest, "*"), "]")
			if n, err := strconv.ParseUint(count, 0, 16); ok && rest[0] == '*' && (err == nil || count == "") {
				if n == 0 {
					n = uint64(max(fill-len(out)-len(expand(tail, 0)), 0))
				}
				for range n {
					out = append(out, b)
				}
				s = tail
				continue
			}
		}
		var b byte
		b, s = char(s)
		if len(s) < 2 || s[0] != '-' {
			out = append(out, b)
			continue
		}
		var to byte
		to, s = char(s[1:])
		if to < b {
			opt.Exit(1, "range %c-%c runs backwards", b, to)
		}
		for i := int(b); i <= int(to); i++ {
			out = append(out, byte(i))
		}
	}
	return out
}

// char takes the first byte, which may be an escape, off s.
func char(s string) (byte, string) {
	if s[0] != '\\' || len(s) == 1 {
		return s[0], s[1:]
	}
	if i := strings.IndexByte("abfnrtv", s[1]); i >= 0 {
		return "\a\b\f\n\r\t\v"[i], s[2:]
	}
	n, i := 0, 1
	for i < len(s) && i < 4 && s[i] >= '0' && s[i] <= '7' && n*8+int(s[i]-'0') < 256 {
		n = n*8 + int(s[i]-'0')
		i++
	}
	if i > 1 {
		return byte(n), s[i:]
	}
	return s[1], s[2:]
}
