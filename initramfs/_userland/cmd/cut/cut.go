// Command cut prints selected parts of each line.
//
//	cut -f LIST [-d DELIM] [-s] [FILE...]
//	cut -c LIST | -b LIST [FILE...]      (bytes in both cases)
//
// LIST is a comma-separated list of N, N-M, N- and -M, counted from one.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

type span struct{ from, to int }

type cutter struct {
	spans  []span
	fields bool
	only   bool // -s: no line without a delimiter
	delim  []byte
}

func main() { os.Exit(run(os.Args[1:])) }

func fail(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "cut: "+format+"\n", args...)
	return 1
}

func run(args []string) int {
	c := cutter{delim: []byte("\t")}
	list := ""
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		flag, value := arg[1], arg[2:]
		if flag == 's' && value == "" {
			c.only = true
			continue
		}
		if !strings.ContainsRune("fcbd", rune(flag)) {
			return fail("unknown option %s", arg)
		}
		if value == "" {
			if len(args) == 0 {
				return fail("option -%c needs a value", flag)
			}
			value, args = args[0], args[1:]
		}
		if flag == 'd' {
			c.delim = []byte(value)
			continue
		}
		c.fields, list = flag == 'f', value
	}
	var err error
	if c.spans, err = parseList(list); err != nil {
		return fail("%v", err)
	}
	if len(args) == 0 {
		args = []string{"-"}
	}
	out := bufio.NewWriter(os.Stdout)
	status := 0
	for _, name := range args {
		if err := c.file(out, name); err != nil {
			status = fail("%v", err)
		}
	}
	if err := out.Flush(); err != nil {
		status = fail("%v", err)
	}
	return status
}

func parseList(list string) ([]span, error) {
	var spans []span
	for _, item := range strings.Split(list, ",") {
		lo, hi, isRange := strings.Cut(item, "-")
		s := span{1, math.MaxInt}
		var err error
		if lo != "" {
			if s.from, err = strconv.Atoi(lo); err != nil || s.from < 1 {
				return nil, fmt.Errorf("list %q: positions count from 1", list)
			}
		}
		if !isRange {
			s.to = s.from
		}
		if hi != "" {
			if s.to, err = strconv.Atoi(hi); err != nil || s.to < s.from {
				return nil, fmt.Errorf("list %q: not a range", list)
			}
		}
		if lo == "" && hi == "" {
			return nil, fmt.Errorf("list %q: give -f, -b or -c with a list of positions", list)
		}
		spans = append(spans, s)
	}
	return spans, nil
}

func (c *cutter) selected(n int) bool {
	for _, s := range c.spans {
		if n >= s.from && n <= s.to {
			return true
		}
	}
	return false
}

func (c *cutter) file(out *bufio.Writer, name string) error {
	in := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			c.line(out, bytes.TrimSuffix(line, []byte("\n")))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *cutter) line(out *bufio.Writer, line []byte) {
	if !c.fields {
		for i, b := range line {
			if c.selected(i + 1) {
				out.WriteByte(b)
			}
		}
		out.WriteByte('\n')
		return
	}
	if !bytes.Contains(line, c.delim) {
		if !c.only {
			out.Write(line)
			out.WriteByte('\n')
		}
		return
	}
	first := true
	for i, f := range bytes.Split(line, c.delim) {
		if !c.selected(i + 1) {
			continue
		}
		if !first {
			out.Write(c.delim)
		}
		first = false
		out.Write(f)
	}
	out.WriteByte('\n')
}
