//go:build linux && amd64

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/initramfs"
)

// Kernels of a few instructions, which run in 64-bit mode with no interrupt table: any exception is a triple fault.
var (
	kernelFault = []byte{0x0f, 0x0b}                   // ud2
	kernelPort  = []byte{0xe6, 0x80}                   // out 0x80, al
	kernelReset = []byte{0xb0, 0xfe, 0xe6, 0x64}       // out 0x64, 0xfe: the keyboard controller's reset
	kernelHang  = []byte{0xf3, 0x90, 0xeb, 0xfc}       // pause; jmp to pause
	kernelSay   = []byte{0x66, 0xba, 0xf8, 0x03, 0xb0} // mov dx, 0x3f8; mov al, …
)

func kernelPrints(text string) []byte {
	var b []byte
	for _, c := range []byte(text) {
		b = append(append(b, kernelSay...), c, 0xee) // out dx, al
	}
	return b
}

// A guest that has ended fails the boot at once, with what is known of it; one that goes on does until the time is over. The boot timeout of these
// tests is minutes, so a boot that waits for it is seen.
func TestABootThatCannotGoOnFailsAtOnceWithItsStage(t *testing.T) {
	needKVM(t)
	image := agentOnly(t)
	for _, tc := range []struct {
		name   string
		kernel []byte
		stage  Stage
		reason Reason
		text   string
	}{
		{"triple fault", kernelFault, StageRunning, ReasonTripleFault,
			`boot: stage "running": guest code runs, and has used no device yet: sandbox stopped: guest crashed with a triple fault (the guest's console is empty)`},
		{"triple fault after a device", code(kernelPort, kernelFault), StageFirstExit, ReasonTripleFault,
			`boot: stage "first exit": the guest kernel starts, and has printed nothing yet: sandbox stopped: guest crashed with a triple fault (the guest's console is empty)`},
		{"reset", code(kernelPrints("bye\n"), kernelReset, kernelHang), StageConsole, ReasonReboot,
			"boot: stage \"console\": the guest kernel starts, and its init has not been seen yet: sandbox stopped: guest rebooted; last console lines:\n  bye"},
		{"panic", code(kernelPrints("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\n"), kernelReset, kernelHang), StageInit, ReasonPanic,
			"boot: stage \"init\": the guest's init runs, and its socket driver is not up yet: sandbox stopped: guest kernel panic: " +
				"Attempted to kill init! exitcode=0x00000009; last console lines:\n  Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "vmlinux")
			if err := os.WriteFile(path, elf(tc.kernel), 0o644); err != nil {
				t.Fatal(err)
			}
			base := measure(t)
			sb, err := New(context.Background(), WithKernel(path), WithInitramfs(image), WithMemory(MinMemory), WithBootTimeout(bootTimeout))
			if err == nil {
				sb.Close()
				t.Fatal("New succeeded")
			}
			var be *BootError
			var se *StoppedError
			if !errors.As(err, &be) || be.Stage != tc.stage || !errors.As(err, &se) || se.Reason != tc.reason || err.Error() != tc.text {
				t.Errorf("got  %v\nwant %s", err, tc.text)
			}
			assertNothingLeft(t, base, 4)
		})
	}
}

// A boot that hangs shows the last twenty of its lines, whoever ends it.
func TestABootThatHangsShowsItsLastLines(t *testing.T) {
	needKVM(t)
	var printed, want strings.Builder
	for i := range 25 {
		fmt.Fprintf(&printed, "line %d\n", i)
		if i >= 5 {
			fmt.Fprintf(&want, "\n  line %d", i)
		}
	}
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, elf(code(kernelPrints(printed.String()), kernelHang)), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var seen bytes.Buffer
	console := writerFunc(func(p []byte) (int, error) {
		seen.Write(p)
		if bytes.Contains(seen.Bytes(), []byte("line 24\n")) {
			cancel(fmt.Errorf("%w: the test has seen enough", ErrBootTimeout))
		}
		return len(p), nil
	})
	_, err := New(ctx, WithKernel(path), WithInitramfs(agentOnly(t)), WithMemory(MinMemory), WithBootTimeout(bootTimeout), WithConsole(console))
	const head = `boot: stage "console": the guest kernel starts, and its init has not been seen yet: the guest agent did not answer in time: the test has seen enough, ` +
		`and WithCmdline("loglevel=7") makes the kernel say what it does; last console lines:`
	if err == nil || err.Error() != head+want.String() {
		t.Errorf("got  %v\nwant %s", err, head+want.String())
	}
}

// With a real kernel: its first program exits, which it answers with a panic, and panic=-1 with a reset.
func TestTheDeathOfTheFirstProgramFailsTheBootAtOnce(t *testing.T) {
	needKVM(t)
	image := writeImage(t, initramfs.File{Name: "init", Mode: 0o755, Data: elf(exitWith(1))})
	_, err := New(context.Background(), WithInitramfs(image), WithBootTimeout(bootTimeout))
	var be *BootError
	var se *StoppedError
	if !errors.As(err, &be) || be.Stage < StageInit || !errors.As(err, &se) || se.Reason != ReasonPanic || se.Message != "Attempted to kill init! exitcode=0x00000100" {
		t.Errorf("got %v, want a panic of stage init or later", err)
	}
	t.Log(err)
}
