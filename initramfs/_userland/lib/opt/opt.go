// Package opt reads command lines by the rules of GNU's getopt: options may be combined and stand behind operands, and what is unknown ends
// the command with a message. A command that ignored an option would do something else than it was asked for.
package opt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Set is a read command line.
type Set struct {
	Args   []string
	values map[byte][]string
}

// Parse reads args. spec lists the option letters, those with a value followed by ':'; a leading '+' ends options at the first operand. Each
// of longs is "name=letter". Wrong use exits with status.
func Parse(status int, args []string, spec string, longs ...string) *Set {
	s := &Set{values: map[byte][]string{}}
	inOrder := strings.HasPrefix(spec, "+")
	spec = strings.TrimPrefix(spec, "+")
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			s.Args = append(s.Args, args...)
			return s
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			s.Args = append(s.Args, arg)
			if inOrder {
				s.Args = append(s.Args, args...)
				return s
			}
		case strings.HasPrefix(arg, "--"):
			args = s.long(status, arg[2:], args, spec, longs)
		default:
			args = s.short(status, arg[1:], args, spec)
		}
	}
	return s
}

func (s *Set) long(status int, arg string, args []string, spec string, longs []string) []string {
	name, value, given := strings.Cut(arg, "=")
	letter := byte(0)
	for _, l := range longs {
		if n, c, _ := strings.Cut(l, "="); n == name {
			letter = c[0]
		}
	}
	i := strings.IndexByte(spec, letter)
	takes := i >= 0 && i+1 < len(spec) && spec[i+1] == ':'
	switch {
	case letter == 0:
		Exit(status, "unknown option --%s", name)
	case given && !takes:
		Exit(status, "option --%s takes no value", name)
	case takes && !given:
		if len(args) == 0 {
			Exit(status, "option --%s needs a value", name)
		}
		value, args = args[0], args[1:]
	}
	s.values[letter] = append(s.values[letter], value)
	return args
}

func (s *Set) short(status int, flags string, args []string, spec string) []string {
	for i := 0; i < len(flags); i++ {
		c := flags[i]
		at := strings.IndexByte(spec, c)
		if at < 0 || c == ':' {
			Exit(status, "unknown option -%c", c)
		}
		if at+1 >= len(spec) || spec[at+1] != ':' {
			s.values[c] = append(s.values[c], "")
			continue
		}
		value := flags[i+1:]
		if value == "" {
			if len(args) == 0 {
				Exit(status, "option -%c needs a value", c)
			}
			value, args = args[0], args[1:]
		}
		s.values[c] = append(s.values[c], value)
		break
	}
	return args
}

// Has tells whether the option was given.
func (s *Set) Has(letter byte) bool { return len(s.values[letter]) > 0 }

// Value is the option's last value, or def.
func (s *Set) Value(letter byte, def string) string {
	if v := s.values[letter]; len(v) > 0 {
		return v[len(v)-1]
	}
	return def
}

// Values are all values of the option.
func (s *Set) Values(letter byte) []string { return s.values[letter] }

// Name is the name the command was called by.
func Name() string { return os.Args[0][strings.LastIndexByte(os.Args[0], '/')+1:] }

// Warn writes a message to standard error.
func Warn(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", Name(), fmt.Sprintf(format, args...))
}

// Exit ends the command with a message.
func Exit(status int, format string, args ...any) {
	Warn(format, args...)
	os.Exit(status)
}

// Text is the error without the name of the system call.
func Text(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Path + ": " + p.Err.Error()
	}
	return err.Error()
}

// Open opens a file, or standard input for "-".
func Open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Inputs are the operands, or standard input when there are none.
func (s *Set) Inputs() []string {
	if len(s.Args) == 0 {
		return []string{"-"}
	}
	return s.Args
}
