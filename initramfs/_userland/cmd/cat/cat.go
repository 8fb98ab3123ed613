// Command cat concatenates files.
//
//	cat [-AbeEnstTuv] [FILE...]
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"userland.hutch.invalid/lib/opt"
)

type printer struct {
	out                                   *bufio.Writer
	number, nonblank, ends, tabs, np, one bool
	line, blank                           int
	inLine                                bool
}

func main() {
	o := opt.Parse(1, os.Args[1:], "AbeEnstTuv", "show-all=A", "number-nonblank=b", "show-ends=E", "number=n", "squeeze-blank=s", "show-tabs=T", "show-nonprinting=v")
	has := o.Has
	p := printer{out: bufio.NewWriter(os.Stdout), number: has('n') && !has('b'), nonblank: has('b'), one: has('s')}
	p.ends = has('A') || has('e') || has('E')
	p.tabs = has('A') || has('t') || has('T')
	p.np = has('A') || has('e') || has('t') || has('v')
	plain := !(p.number || p.nonblank || p.ends || p.tabs || p.np || p.one)
	status := 0
	for _, name := range o.Inputs() {
		f, err := opt.Open(name)
		if err == nil {
			if plain {
				_, err = io.Copy(os.Stdout, f)
			} else {
				err = p.file(f)
			}
			f.Close()
		}
		if err != nil {
			opt.Warn("%s", opt.Text(err))
			status = 1
		}
	}
	if err := p.out.Flush(); err != nil {
		status = 1
	}
	os.Exit(status)
}

func (p *printer) file(f io.Reader) error {
	r := bufio.NewReader(f)
	for {
		if r.Buffered() == 0 {
			p.out.Flush() // what comes from a pipe or a terminal goes on at once
		}
		b, err := r.ReadByte()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.byte(b); err != nil {
			return err
		}
	}
}

func (p *printer) byte(b byte) error {
	if !p.inLine {
		if b == '\n' {
			if p.blank++; p.one && p.blank > 1 {
				return nil
			}
		} else {
			p.blank = 0
		}
		if p.number || p.nonblank && b != '\n' {
			p.line++
			fmt.Fprintf(p.out, "%6d\t", p.line)
		}
	}
	p.inLine = b != '\n'
	switch {
	case b == '\n':
		if p.ends {
			p.out.WriteByte('$')
		}
	case b == '\t':
		if p.tabs {
			_, err := p.out.WriteString("^I")
			return err
		}
	case p.np:
		if b >= 128 {
			p.out.WriteString("M-")
			b -= 128
		}
		if b < 32 || b == 127 {
			p.out.WriteByte('^')
			b ^= 64
		}
	}
	return p.out.WriteByte(b)
}
