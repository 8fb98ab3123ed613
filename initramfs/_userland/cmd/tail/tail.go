// Command tail prints the last part of files.
//
//	tail [-n [+]LINES | -c [+]BYTES | -LINES] [-fFqv] [-s SECONDS] [FILE...]
//
// A number with '+' is the first line or byte to print. -f and -F go on until the command is ended; -F follows the name.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"userland.hutch.invalid/lib/opt"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') && strings.Trim(args[0][1:], "0123456789") == "" {
		args = append([]string{"-n", strings.TrimPrefix(args[0], "-")}, args[1:]...)
	}
	o := opt.Parse(1, args, "n:c:fFqvs:", "lines=n", "bytes=c", "follow=f", "quiet=q", "silent=q", "verbose=v", "sleep-interval=s")
	value := o.Value('n', "10")
	if o.Has('c') {
		value = o.Value('c', "")
	}
	fromStart := strings.HasPrefix(value, "+")
	n, err := strconv.ParseInt(strings.TrimLeft(value, "+-"), 10, 64)
	pause, perr := strconv.ParseFloat(o.Value('s', "0.2"), 64)
	if err != nil || perr != nil || pause < 0 {
		opt.Exit(1, "%q or %q is no number", value, o.Value('s', "0.2"))
	}
	out := bufio.NewWriter(os.Stdout)
	header := (len(o.Args) > 1 || o.Has('v')) && !o.Has('q')
	status := 0
	follow := o.Has('f') || o.Has('F')
	if follow && len(o.Args) > 1 {
		opt.Exit(1, "one file at a time can be followed")
	}
	for i, name := range o.Inputs() {
		f, err := opt.Open(name)
		if err == nil {
			if header {
				if i > 0 {
					out.WriteByte('\n')
				}
				fmt.Fprintf(out, "==> %s <==\n", strings.Replace(name, "-", "standard input", map[bool]int{true: 1}[name == "-"]))
			}
			if fromStart {
				err = skip(out, f, n, !o.Has('c'))
			} else {
				err = last(out, f, n, !o.Has('c'))
			}
			if err == nil && follow {
				out.Flush()
				err = wait(f, name, o.Has('F'), time.Duration(pause*float64(time.Second)))
			}
			f.Close()
		}
		if err != nil {
			opt.Warn("%s", opt.Text(err))
			status = 1
		}
	}
	if err := out.Flush(); err != nil {
		status = 1
	}
	os.Exit(status)
}

// skip prints from the nth line or byte on.
func skip(out io.Writer, f io.Reader, n int64, lines bool) error {
	r := bufio.NewReader(f)
	for ; n > 1; n-- {
		var err error
		if lines {
			for err = bufio.ErrBufferFull; err == bufio.ErrBufferFull; {
				_, err = r.ReadSlice('\n')
			}
		} else {
			_, err = r.ReadByte()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	_, err := io.Copy(out, r)
	return err
}

// last prints the end of f: of a file it looks at the end only, of anything else it keeps the last part in memory.
func last(out io.Writer, f io.Reader, n int64, lines bool) error {
	var keep []byte
	if file, ok := f.(*os.File); ok {
		if size, err := file.Seek(0, io.SeekEnd); err == nil {
			for window := int64(64 << 10); ; window *= 4 {
				from := max(size-window, 0)
				if _, err := file.Seek(from, io.SeekStart); err != nil {
					return err
				}
				if keep, err = io.ReadAll(io.LimitReader(file, size-from)); err != nil {
					return err
				}
				start, whole := cutEnd(keep, n, lines)
				if whole || from == 0 {
					_, err := out.Write(keep[start:])
					return err
				}
			}
		}
	}
	buf := make([]byte, 64<<10)
	limit := 1 << 20
	for {
		m, err := f.Read(buf)
		keep = append(keep, buf[:m]...)
		if len(keep) > limit {
			start, _ := cutEnd(keep, n, lines)
			keep = append([]byte{}, keep[start:]...)
			limit = max(1<<20, 2*len(keep))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	start, _ := cutEnd(keep, n, lines)
	_, err := out.Write(keep[start:])
	return err
}

// cutEnd returns where the last n lines or bytes of b start, and whether b has as many.
func cutEnd(b []byte, n int64, lines bool) (int, bool) {
	if !lines {
		return max(len(b)-int(min(n, int64(len(b)))), 0), int64(len(b)) >= n
	}
	if n == 0 {
		return len(b), true
	}
	for i := len(b) - 2; i >= 0; i-- {
		if b[i] == '\n' {
			if n--; n == 0 {
				return i + 1, true
			}
		}
	}
	return 0, false
}

// wait copies what is added to f. A file that has become shorter starts again; one that was replaced is opened again when byName is set.
func wait(f io.ReadCloser, name string, byName bool, pause time.Duration) error {
	for {
		if _, err := io.Copy(os.Stdout, f); err != nil {
			return err
		}
		file, ok := f.(*os.File)
		if !ok {
			return nil
		}
		time.Sleep(pause)
		old, err := file.Stat()
		if err != nil {
			return err
		}
		if pos, err := file.Seek(0, io.SeekCurrent); err == nil && old.Size() < pos {
			file.Seek(0, io.SeekStart)
		}
		if now, err := os.Stat(name); byName && err == nil && !os.SameFile(old, now) {
			if next, err := os.Open(name); err == nil {
				io.Copy(os.Stdout, f)
				f.Close()
				f = next
			}
		}
	}
}
