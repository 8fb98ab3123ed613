// Command head prints the first part of files.
//
//	head [-n [-]LINES | -c [-]BYTES | -LINES] [-qvz] [FILE...]
//
// A number with '-' means all but the last so many.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"userland.hutch.invalid/lib/opt"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "0123456789") == "" {
		args = append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	o := opt.Parse(1, args, "n:c:qvz", "lines=n", "bytes=c", "quiet=q", "silent=q", "verbose=v", "zero-terminated=z")
	end, value := byte('\n'), o.Value('n', "10")
	if o.Has('z') {
		end = 0
	}
	bytes := o.Has('c')
	if bytes {
		value = o.Value('c', "")
	}
	n := size(value)
	status := 0
	out := bufio.NewWriter(os.Stdout)
	header := (len(o.Args) > 1 || o.Has('v')) && !o.Has('q')
	for i, name := range o.Inputs() {
		f, err := opt.Open(name)
		if err == nil {
			if header {
				title := name
				if name == "-" {
					title = "standard input"
				}
				if i > 0 {
					out.WriteByte('\n')
				}
				fmt.Fprintf(out, "==> %s <==\n", title)
			}
			switch {
			case bytes && n >= 0 && value[0] != '-':
				_, err = io.CopyN(out, f, n)
			case bytes:
				err = allBut(out, f, -n, nil)
			case value[0] != '-':
				err = lines(out, f, n, end)
			default:
				err = allBut(out, f, -n, &end)
			}
			f.Close()
		}
		if err != nil && err != io.EOF {
			opt.Warn("%s", opt.Text(err))
			status = 1
		}
	}
	if err := out.Flush(); err != nil {
		status = 1
	}
	os.Exit(status)
}

// size reads a number with the units of the GNU tools.
func size(s string) int64 {
	digits := strings.TrimRight(s, "bkKMGiB")
	unit, ok := map[string]int64{"": 1, "b": 512, "k": 1 << 10, "K": 1 << 10, "KiB": 1 << 10, "M": 1 << 20, "MiB": 1 << 20, "G": 1 << 30,
		"GiB": 1 << 30, "kB": 1000, "KB": 1000, "MB": 1e6, "GB": 1e9}[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n > 1<<62/unit || n < -(1<<62)/unit {
		opt.Exit(1, "%q is no number", s)
	}
	return n * unit
}

func lines(out *bufio.Writer, f io.Reader, n int64, end byte) error {
	r := bufio.NewReader(f)
	for ; n > 0; n-- {
		for {
			part, err := r.ReadSlice(end)
			out.Write(part)
			if err == nil {
				break
			}
			if err != bufio.ErrBufferFull {
				return err
			}
		}
	}
	return nil
}

// allBut prints all but the last n bytes, or lines when end is given.
func allBut(out *bufio.Writer, f io.Reader, n int64, end *byte) error {
	r := bufio.NewReader(f)
	var held [][]byte
	for {
		var part []byte
		var err error
		if end != nil {
			part, err = r.ReadBytes(*end)
		} else {
			var b byte
			if b, err = r.ReadByte(); err == nil {
				part = []byte{b}
			}
		}
		if len(part) > 0 {
			held = append(held, part)
			if int64(len(held)) > n {
				out.Write(held[0])
				held = held[1:]
			}
		}
		if err != nil {
			return err
		}
	}
}
