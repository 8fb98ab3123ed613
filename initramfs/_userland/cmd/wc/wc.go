// Command wc counts lines, words, characters and bytes.
//
//	wc [-lwmcL] [FILE...]
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"userland.hutch.invalid/lib/opt"
)

type counts [5]int64 // lines, words, characters, bytes, longest line

func main() {
	o := opt.Parse(1, os.Args[1:], "lwmcL", "lines=l", "words=w", "chars=m", "bytes=c", "max-line-length=L")
	var show [5]bool
	columns := 0
	for i, c := range []byte("lwmcL") {
		if show[i] = o.Has(c); show[i] {
			columns++
		}
	}
	if columns == 0 {
		show, columns = [5]bool{true, true, false, true, false}, 3
	}
	var all []counts
	var names []string
	var total counts
	status := 0
	for _, name := range o.Inputs() {
		c, err := count(name)
		if err != nil {
			opt.Warn("%s", opt.Text(err))
			status = 1
			continue
		}
		all, names = append(all, c), append(names, name)
		for i := range 4 {
			total[i] += c[i]
		}
		total[4] = max(total[4], c[4])
	}
	if len(o.Args) > 1 {
		all, names = append(all, total), append(names, "total")
	}
	width := columnWidth(o.Inputs())
	if len(o.Args) == 0 {
		clear(names)
	}
	if columns == 1 && len(o.Args) < 2 {
		width = 1
	}
	for i, c := range all {
		sep := ""
		for j, v := range c {
			if show[j] {
				fmt.Printf("%s%*d", sep, width, v)
				sep = " "
			}
		}
		if names[i] != "" {
			fmt.Print(" ", names[i])
		}
		fmt.Println()
	}
	os.Exit(status)
}

// columnWidth is GNU's: that of the files' bytes together, and at least seven when one of them is no regular file.
func columnWidth(names []string) int {
	least, size := 1, int64(0)
	for _, name := range names {
		info, err := os.Stat(name)
		if name == "-" {
			info, err = os.Stdin.Stat()
		}
		switch {
		case err != nil:
		case info.Mode().IsRegular():
			size += info.Size()
		default:
			least = 7
		}
	}
	return max(least, len(fmt.Sprint(size)))
}

func count(name string) (c counts, err error) {
	f, err := opt.Open(name)
	if err != nil {
		return c, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	word := false
	var line int64
	for {
		b, err := r.ReadByte()
		if err == io.EOF {
			c[4] = max(c[4], line)
			return c, nil
		}
		if err != nil {
			return c, err
		}
		ch, size := rune(b), 1
		if b >= utf8.RuneSelf {
			r.UnreadByte()
			ch, size, _ = r.ReadRune()
		}
		c[3] += int64(size)
		if !(ch == utf8.RuneError && size == 1) {
			c[2]++
		}
		switch {
		case ch == '\n':
			c[0]++
			c[4] = max(c[4], line)
			line = 0
		case ch == '\t':
			line += 8 - line%8
		case ch >= ' ':
			line++
		}
		space := unicode.IsSpace(ch)
		if !space && !word {
			c[1]++
		}
		word = !space
	}
}
