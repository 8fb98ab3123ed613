//go:build linux

package agent_test

import (
	"context"
	"io"
	"os/exec"
	"strconv"
	"testing"

	"github.com/hutchvm/hutch/agent"
	"github.com/hutchvm/hutch/channel"
)

func benchClient(b *testing.B) *channel.Client {
	c, _ := connectProcess(b)
	b.ReportAllocs()
	return c
}

func BenchmarkExecTrue(b *testing.B) {
	c := benchClient(b)
	for b.Loop() {
		p, err := c.Start(context.Background(), &channel.Request{Path: "true"}, channel.Stdio{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOSExecTrue is what the host itself takes: compare with ExecTrue.
func BenchmarkOSExecTrue(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExecEcho(b *testing.B) {
	c := benchClient(b)
	for b.Loop() {
		run(b, c, sh("echo hi; exit 5"), nil)
	}
}

func BenchmarkStats(b *testing.B) {
	c := benchClient(b)
	for b.Loop() {
		if _, err := c.Stats(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

const benchBytes = 64 << 20

func BenchmarkStdout(b *testing.B) {
	c := benchClient(b)
	b.SetBytes(benchBytes)
	for b.Loop() {
		p, err := c.Start(context.Background(), &channel.Request{Path: "head", Args: []string{"head", "-c", strconv.Itoa(benchBytes), "/dev/zero"}}, channel.Stdio{Stdout: io.Discard})
		if err != nil {
			b.Fatal(err)
		}
		if e, err := p.Wait(); err != nil || e.Stdout != benchBytes {
			b.Fatal(e, err)
		}
	}
}

func BenchmarkStdin(b *testing.B) {
	c := benchClient(b)
	b.SetBytes(benchBytes)
	for b.Loop() {
		p, err := c.Start(context.Background(), &channel.Request{Path: "dd", Args: []string{"dd", "of=/dev/null", "bs=1M", "status=none"}}, channel.Stdio{Stdin: io.LimitReader(zeros{}, benchBytes)})
		if err != nil {
			b.Fatal(err)
		}
		if e, err := p.Wait(); err != nil || e.Stdin != benchBytes {
			b.Fatal(e, err)
		}
	}
}

func BenchmarkThousandAtOnce(b *testing.B) {
	c := connect(b, agent.Options{})
	for b.Loop() {
		ps := make([]*channel.Process, 1000)
		for i := range ps {
			p, err := c.Start(context.Background(), &channel.Request{Path: "true"}, channel.Stdio{})
			if err != nil {
				b.Fatal(err)
			}
			ps[i] = p
		}
		for _, p := range ps {
			if _, err := p.Wait(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
