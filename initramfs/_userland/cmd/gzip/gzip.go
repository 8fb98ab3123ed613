// Command gzip compresses or, with -d, unpacks files: FILE becomes FILE.gz or the other way round, and standard input goes to standard output
// when no file is named.
//
//	gzip [-d] [-c] [-k] [-f] [-1…-9] [FILE...]
//
// It is here because u-root's own links a parallel compressor whose initialisation every command of the combined binary would pay for.
package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strings"
)

type options struct {
	unpack, stdout, keep, force bool
	level                       int
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	o := options{level: gzip.DefaultCompression}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		for _, f := range arg[1:] {
			switch {
			case f == 'd':
				o.unpack = true
			case f == 'c':
				o.stdout = true
			case f == 'k':
				o.keep = true
			case f == 'f':
				o.force = true
			case f >= '1' && f <= '9':
				o.level = int(f - '0')
			default:
				fmt.Fprintf(os.Stderr, "gzip: unknown option -%c\n", f)
				return 2
			}
		}
	}
	if len(args) == 0 {
		args = []string{"-"}
	}
	status := 0
	for _, name := range args {
		if err := o.file(name); err != nil {
			fmt.Fprintf(os.Stderr, "gzip: %s: %v\n", name, err)
			status = 1
		}
	}
	return status
}

// file handles one argument; "-" is standard input to standard output.
func (o options) file(name string) error {
	if name == "-" {
		return o.stream(os.Stdout, os.Stdin)
	}
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	if o.stdout {
		return o.stream(os.Stdout, in)
	}
	target := name + ".gz"
	if o.unpack {
		var ok bool
		if target, ok = strings.CutSuffix(name, ".gz"); !ok {
			return fmt.Errorf("the name does not end with .gz")
		}
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if o.force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(target, flags, info.Mode().Perm())
	if err != nil {
		return err
	}
	err = o.stream(out, in)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(target)
		return err
	}
	if o.keep {
		return nil
	}
	return os.Remove(name)
}

func (o options) stream(out io.Writer, in io.Reader) error {
	if o.unpack {
		z, err := gzip.NewReader(bufio.NewReaderSize(in, 64<<10))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, z)
		return err
	}
	z, err := gzip.NewWriterLevel(out, o.level)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	return z.Close()
}
