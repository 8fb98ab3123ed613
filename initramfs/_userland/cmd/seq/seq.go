// Command seq prints a sequence of numbers.
//
//	seq [-w] [-s SEPARATOR] [-f FORMAT] [FIRST [STEP]] LAST
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"userland.hutch.invalid/lib/opt"
)

func main() {
	args := os.Args[1:]
	// Negative numbers look like options: options end before the first.
	for i, a := range args {
		if len(a) > 1 && a[0] == '-' && strings.IndexByte("0123456789.", a[1]) >= 0 {
			args = append(append(append([]string{}, args[:i]...), "--"), args[i:]...)
			break
		}
	}
	o := opt.Parse(1, args, "ws:f:", "equal-width=w", "separator=s", "format=f")
	if len(o.Args) < 1 || len(o.Args) > 3 {
		opt.Exit(1, "give one to three numbers")
	}
	first, step := "1", "1"
	last := o.Args[len(o.Args)-1]
	if len(o.Args) > 1 {
		first = o.Args[0]
	}
	if len(o.Args) > 2 {
		step = o.Args[1]
	}
	from, by, to := number(first), number(step), number(last)
	if by == 0 {
		opt.Exit(1, "the step is zero")
	}
	if a, b, c, ok := whole(first, step, last); ok && !o.Has('w') && !o.Has('f') {
		integers(a, b, c, o.Value('s', "\n"))
		return
	}
	digits := max(decimals(first), decimals(step))
	format := func(v float64) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	if f := o.Value('f', ""); f != "" {
		verb := strings.ReplaceAll(f, "%%", "")
		at := strings.IndexByte(verb, '%')
		if at < 0 || strings.Count(verb, "%") != 1 || strings.IndexByte("eEfgG", strings.TrimLeft(verb[at+1:]+"x", "-+ #0123456789.")[0]) < 0 {
			opt.Exit(1, "format %q must have one of %%e, %%f and %%g", f)
		}
		format = func(v float64) string { return fmt.Sprintf(f, v) }
	}
	width := 0
	if o.Has('w') {
		width = max(len(format(from)), len(format(to)))
	}
	out := bufio.NewWriter(os.Stdout)
	// Half a unit of the last digit: 0.1 is not exact in binary.
	slack := math.Abs(by) * 1e-9
	printed := false
	for i := 0.0; ; i++ {
		v := from + i*by
		if by > 0 && v > to+slack || by < 0 && v < to-slack {
			break
		}
		if printed {
			out.WriteString(o.Value('s', "\n"))
		}
		printed = true
		text := format(v)
		if n := width - len(text); n > 0 {
			sign := ""
			if text[0] == '-' {
				sign, text = "-", text[1:]
			}
			text = sign + strings.Repeat("0", n) + text
		}
		if _, err := out.WriteString(text); err != nil {
			os.Exit(1)
		}
	}
	if printed {
		out.WriteByte('\n')
	}
	if err := out.Flush(); err != nil {
		opt.Exit(1, "%v", err)
	}
}

// whole reads numbers a float64 could not hold exactly. Those at the ends of int64 are left out, so that adding the step cannot overflow.
func whole(texts ...string) (first, step, last int64, ok bool) {
	var v [3]int64
	for i, t := range texts {
		n, err := strconv.ParseInt(t, 10, 64)
		if err != nil || n > 1<<61 || n < -(1<<61) {
			return 0, 0, 0, false
		}
		v[i] = n
	}
	return v[0], v[1], v[2], true
}

func integers(first, step, last int64, separator string) {
	out := bufio.NewWriter(os.Stdout)
	var buf []byte
	for v := first; step > 0 && v <= last || step < 0 && v >= last; v += step {
		buf = buf[:0]
		if v != first {
			buf = append(buf, separator...)
		}
		if _, err := out.Write(strconv.AppendInt(buf, v, 10)); err != nil {
			os.Exit(1)
		}
	}
	if buf != nil {
		out.WriteByte('\n')
	}
	if err := out.Flush(); err != nil {
		opt.Exit(1, "%v", err)
	}
}

func number(s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) {
		opt.Exit(1, "%q is no number", s)
	}
	return v
}

func decimals(s string) int {
	if _, frac, ok := strings.Cut(s, "."); ok {
		return len(frac)
	}
	return 0
}
