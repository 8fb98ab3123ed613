//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

// terminal is a TTY exec that a test types into.
type terminal struct {
	t   *testing.T
	p   *channel.Process
	in  *io.PipeWriter
	out *io.PipeReader
	got bytes.Buffer
}

func newTerminal(t *testing.T, c *channel.Client, req *channel.Request) *terminal {
	t.Helper()
	ir, iw := io.Pipe()
	or, ow := io.Pipe()
	p, err := c.Start(context.Background(), req, channel.Stdio{Stdin: ir, Stdout: ow})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Wait()
		ow.Close()
		ir.Close()
	}()
	return &terminal{t: t, p: p, in: iw, out: or}
}

func (x *terminal) typeKeys(s string) {
	x.t.Helper()
	if _, err := io.WriteString(x.in, s); err != nil {
		x.t.Fatal(err)
	}
}

// expect reads until the screen contains s and returns what came up to it.
func (x *terminal) expect(s string) string {
	x.t.Helper()
	b := make([]byte, 4096)
	for !strings.Contains(x.got.String(), s) {
		n, err := x.out.Read(b)
		x.got.Write(b[:n])
		if err != nil {
			x.t.Fatalf("terminal ended with %q before %q", x.got.String(), s)
		}
	}
	all := x.got.String()
	i := strings.Index(all, s) + len(s)
	x.got.Reset()
	x.got.WriteString(all[i:])
	return all[:i]
}

func ttyRequest(script string) *channel.Request {
	req := sh(script)
	req.TTY = &channel.TTY{Rows: 37, Cols: 91}
	return req
}

func TestTTYHasItsSizeBeforeTheFirstInstruction(t *testing.T) {
	c := connect(t, agent.Options{})
	want(t, run(t, c, ttyRequest("stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && exit 5"), nil), "37 91\r\nxterm-256color\r\n", "", 5)
	req := ttyRequest("stty size")
	req.TTY = &channel.TTY{}
	want(t, run(t, c, req, nil), "24 80\r\n", "", 0)
}

func TestTTYIsTheControllingTerminal(t *testing.T) {
	c := connect(t, agent.Options{})
	want(t, run(t, c, ttyRequest("echo yes >/dev/tty"), nil), "yes\r\n", "", 0)
}

func TestTTYEchoAndEndOfInput(t *testing.T) {
	c := connect(t, agent.Options{})
	x := newTerminal(t, c, ttyRequest("cat"))
	x.typeKeys("hello\n")
	x.expect("hello\r\nhello\r\n") // the line discipline's echo, then cat's copy
	x.typeKeys("no newline")
	x.in.Close()
	x.expect("no newlineno newline")
	if e, err := x.p.Wait(); err != nil || e.Code != 0 {
		t.Fatalf("%+v, %v", e, err)
	}
}

func TestTTYResizeAndControlC(t *testing.T) {
	c := connect(t, agent.Options{})
	x := newTerminal(t, c, ttyRequest(`trap 'stty size' WINCH; trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.01; done`))
	x.expect("ready")
	for i := uint16(1); i < 20; i++ {
		if err := x.p.Resize(10+i, 100+i); err != nil {
			t.Fatal(err)
		}
	}
	x.expect("29 119\r\n") // the last one wins
	x.typeKeys("\x03")
	x.expect("int\r\n") // all of it: what nobody reads holds Wait
	if e, err := x.p.Wait(); err != nil || e.Code != 4 {
		t.Fatalf("%+v, %v", e, err)
	}
	if err := x.p.Resize(1, 1); err != nil {
		t.Fatalf("resize after the exit: %v", err)
	}
}

func TestTTYLastLineIsNeverLost(t *testing.T) {
	c := connect(t, agent.Options{})
	for range 100 {
		want(t, run(t, c, ttyRequest("printf 'one\ntwo\nlast'; exit 2"), nil), "one\r\ntwo\r\nlast", "", 2)
	}
}

func TestTTYLargeOutput(t *testing.T) {
	c := connect(t, agent.Options{})
	r := run(t, c, ttyRequest("stty -opost; head -c 3000000 /dev/zero; printf end"), nil)
	if len(r.stdout) != 3000003 || !strings.HasSuffix(r.stdout, "end") {
		t.Fatalf("%d bytes", len(r.stdout))
	}
}
