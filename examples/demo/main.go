// Command demo is what `make demo` runs: it boots a kernel inside this process, runs a few commands in the guest, and tells how long each
// phase took. With -prepare it only fetches and builds what that needs.
//
//	go run ./examples/demo -prepare
//	go run ./examples/demo
//	go run ./examples/demo -kernel own -cpus 2
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/boot/ownkernel"
	"github.com/hutchvm/hutch/initramfs"
	"github.com/hutchvm/hutch/sandbox"
)

func main() {
	prepareOnly := flag.Bool("prepare", false, "fetch and build what is needed, then stop")
	kernel := flag.String("kernel", "linux-image-cloud-amd64", "package name, \"own\", \"host\", or a path")
	cpus := flag.Int("cpus", 1, "virtual CPUs")
	flag.Parse()
	var err error
	if *prepareOnly {
		err = prepare(context.Background(), *kernel)
	} else {
		err = demo(context.Background(), *kernel, *cpus)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func say(step string) { fmt.Println("  ..", step) }

// prepare makes sure that the kernel and the userland are in the cache.
func prepare(ctx context.Context, kernel string) error {
	began := time.Now()
	fmt.Println("== kernel:", kernel)
	switch {
	case kernel == "own":
		res, err := ownkernel.Build(ctx, ownkernel.Options{Progress: say})
		if err != nil {
			return err
		}
		fmt.Printf("  own kernel %s\n", res.Release)
	case strings.HasPrefix(kernel, "linux-image"):
		k, err := boot.Fetch(ctx, kernel, say)
		if err != nil {
			return err
		}
		fmt.Printf("  Debian kernel %s\n", k.Release)
	}
	fmt.Printf("  ready after %v\n== userland\n", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	img, err := initramfs.Base(ctx, initramfs.Options{Progress: say})
	if err != nil {
		return err
	}
	fmt.Printf("  %d bytes, SHA-256 %.16s..., ready after %v\n", img.Size, img.SHA256, time.Since(began).Round(time.Millisecond))
	return nil
}

func demo(ctx context.Context, kernel string, cpus int) error {
	started := processStart()
	began := time.Now()
	fmt.Printf("== booting %s with %d CPU(s) inside process %d\n", kernel, cpus, os.Getpid())
	sb, err := sandbox.New(ctx, sandbox.WithKernel(kernel), sandbox.WithCPUs(cpus), sandbox.WithBootTimeout(5*time.Minute), sandbox.WithProgress(say))
	if err != nil {
		return err
	}
	defer sb.Close()

	first, err := sb.Exec(ctx, "uname", []string{"-a"})
	if err != nil {
		return err
	}
	firstDone := time.Since(began)
	fmt.Printf("== uname -a\n%s", first.Stdout())

	pipeline := "ls /bin | sort -r | head -n 3 | tr '[:lower:]' '[:upper:]'"
	out, err := sb.Shell(ctx, pipeline)
	if err != nil {
		return err
	}
	fmt.Printf("== %s\n%s", pipeline, out.Stdout())

	apart, err := sb.Shell(ctx, "echo to standard output; echo to standard error >&2; exit 42")
	if err != nil {
		return err
	}
	fmt.Printf("== stdout, stderr and exit code apart\nstdout: %q\nstderr: %q\nexit code: %d\n", apart.Stdout(), apart.Stderr(), apart.ExitCode())
	if apart.Stdout() != "to standard output\n" || apart.Stderr() != "to standard error\n" || apart.ExitCode() != 42 {
		return errors.New("the streams or the exit code are not what the command produced")
	}

	begunClose := time.Now()
	sb.Close()
	report(sb.Info().Boot, began.Sub(started), firstDone, time.Since(begunClose))
	return nil
}

// report prints when each phase was over, counted from the start of this process.
func report(t sandbox.BootTimes, before, firstExec, closing time.Duration) {
	fmt.Printf("== phases                     at        took\n")
	last := time.Duration(0)
	for _, p := range []struct {
		name string
		at   time.Duration
	}{
		{"process start to New", 0},
		{"KVM opened and probed", t.KVM},
		{"kernel found", t.Kernel},
		{"initramfs at hand", t.Initramfs},
		{"VM made, kernel loaded", t.VMMade},
		{"first guest instruction", t.FirstInstruction},
		{"init (agent runs as PID 1)", t.Init},
		{"agent ready", t.Agent},
		{"first exec done", firstExec},
	} {
		at := p.at + before
		fmt.Printf("%-28s %9.1f ms %9.1f ms\n", p.name, ms(at), ms(at-last))
		last = at
	}
	fmt.Printf("%-28s %12s %9.1f ms\n", "close", "", ms(closing))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// processStart is when the kernel made this process, to a hundredth of a second (proc(5), field starttime); now when that cannot be read.
func processStart() time.Time {
	now := time.Now()
	stat, err := os.ReadFile("/proc/self/stat")
	uptime, err2 := os.ReadFile("/proc/uptime")
	if err != nil || err2 != nil {
		return now
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return now
	}
	ticks, err := strconv.ParseFloat(fields[19], 64)
	up, err2 := strconv.ParseFloat(strings.Fields(string(uptime))[0], 64)
	if err != nil || err2 != nil || up < ticks/100 {
		return now
	}
	return now.Add(-time.Duration((up - ticks/100) * float64(time.Second)))
}
