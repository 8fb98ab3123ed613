//go:build linux && amd64

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hutchvm/hutch/channel"
	"github.com/hutchvm/hutch/initramfs"
	"github.com/hutchvm/hutch/internal/errdoc"
	"github.com/hutchvm/hutch/kvm"
)

func TestTheCatalogueHasWhatNewAndCommandsSay(t *testing.T) {
	messages := map[string]string{}
	bootMessages(t, messages)
	startMessages(t, messages)
	limitMessages(t, messages)
	namedMessages(t, messages)
	messages["output-limit"] = (&OutputLimitError{Limit: DefaultMaxOutput}).Error()
	errdoc.Compare(t, "sandbox", messages)
}

func bootMessages(t *testing.T, messages map[string]string) {
	t.Helper()
	const panicked = "[    0.41] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"
	timeout := fmt.Errorf("%w: waited %v; WithBootTimeout changes that", ErrBootTimeout, time.Minute)
	for _, c := range []struct {
		name    string
		stage   Stage
		console string
		err     error
	}{
		{"software-kvm", StageStart, "", softwareKVM("/dev/kvm", kvm.Probe{Instructions: 40000, Elapsed: 20 * time.Millisecond})},
		{"boot-timeout-running", StageRunning, "", timeout},
		{"boot-timeout-first-exit", StageFirstExit, "", timeout},
		{"boot-timeout-console", StageConsole, "early console in extract_kernel\n", timeout},
		{"boot-timeout-init", StageInit, "Run /init as init process\n", timeout},
		{"boot-timeout-devices", StageDevices, "", timeout},
		{"boot-panic", StageInit, panicked + "\r\n", &StoppedError{Reason: ReasonPanic, Message: "Attempted to kill init! exitcode=0x00000100"}},
		{"boot-triple-fault", StageRunning, "", &StoppedError{Reason: ReasonTripleFault}},
		{"boot-reboot", StageConsole, "reboot: Restarting system\n", &StoppedError{Reason: ReasonReboot}},
		{"agent-version", StageAgent, "", greetedBy(t, channel.Version+1)},
	} {
		err := wrapBoot(c.stage, []byte(c.console), c.err)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v is not %v", c.name, err, c.err)
		}
		messages[c.name] = err.Error()
	}
	image := writeImage(t, initramfs.File{Name: "etc/motd", Data: []byte("no init here")})
	err := checkInitramfs(image)
	if !errors.Is(err, ErrNoAgent) {
		t.Errorf("an image without an agent: %v", err)
	}
	messages["no-agent"] = strings.ReplaceAll(err.Error(), image, "/srv/guest.cpio")
}

// greetedBy returns what a boot with /srv/guest.cpio says when its agent speaks this version of the protocol.
func greetedBy(t *testing.T, version int) error {
	t.Helper()
	cfg, err := resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	host, guest := net.Pipe()
	defer guest.Close()
	hello := helloOf(t, version)
	go guest.Write(hello)
	b := &booting{cfg: cfg, info: Info{Initramfs: "/srv/guest.cpio"}}
	client, err := b.greet(context.Background(), host)
	var ve *VersionError
	if client != nil || !errors.As(err, &ve) || ve.Agent != version || ve.Host != channel.Version {
		t.Fatalf("%v, %v; want a *VersionError of %d", client, err, version)
	}
	return err
}

// startMessages are those of commands that an agent could not start.
func startMessages(t *testing.T, messages map[string]string) {
	t.Helper()
	sb := agentSandbox(t)
	for _, c := range []struct {
		name, cmd, stage string
		opts             []ExecOption
	}{
		{"start-not-found", "no-such-command", "lookup", nil},
		{"start-no-file", "/no/such/file", "lookup", nil},
		{"start-not-executable", "/etc/passwd", "lookup", nil},
		{"start-no-directory", "true", "chdir", []ExecOption{WithExecCwd("/no/such/dir")}},
		{"start-not-a-directory", "true", "chdir", []ExecOption{WithExecCwd("/etc/passwd")}},
		{"start-no-user", "true", "user", []ExecOption{WithExecUser("somebody")}},
		{"start-no-group", "true", "user", []ExecOption{WithExecUser("root:somebody")}},
	} {
		_, err := sb.Exec(testContext(t), c.cmd, nil, c.opts...)
		var se *StartError
		if !errors.As(err, &se) || se.Stage != c.stage {
			t.Errorf("%s: %v, want a *StartError of stage %s", c.name, err, c.stage)
			continue
		}
		messages[c.name] = err.Error()
	}
}

// limitMessages are those of a limit that the guest's kernel knows nothing of.
func limitMessages(t *testing.T, messages map[string]string) {
	t.Helper()
	for controller, name := range map[string]string{"memory": "limit-memory", "cpu": "limit-cpu", "pids": "limit-processes"} {
		was := &StartError{Stage: channel.StageCgroup, Path: controller, Errno: channel.ENOENT, Msg: "the guest has no such controller"}
		err := limitUnsupported(was, "6.1.0-56-cloud-amd64")
		if se := (*StartError)(nil); !errors.As(err, &se) || se != was {
			t.Errorf("%s: %v", controller, err)
		}
		messages[name] = err.Error()
	}
	for _, other := range []*StartError{{Stage: channel.StageCgroup, Path: "memory", Errno: channel.EPERM, Msg: "x"}, {Stage: channel.StageLookup, Path: "memory", Errno: channel.ENOENT, Msg: "x"}} {
		if limitUnsupported(other, "6.1"); other.Msg != "x" {
			t.Errorf("another failure is explained as one of limits: %v", other)
		}
	}
	if limitUnsupported(ErrClosed, "6.1") != ErrClosed {
		t.Error("another error is changed")
	}
}

// namedMessages are those of sandboxes that have names.
func namedMessages(t *testing.T, messages map[string]string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	ctx := testContext(t)
	_, err := Connect(ctx, "worker")
	messages["no-such-sandbox"] = err.Error()
	n, err := placeOf("worker")
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := n.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.write(&Record{Name: "worker", Ended: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), End: "stopped"}); err != nil {
		t.Fatal(err)
	}
	messages["name-running"] = Hold(ctx, "worker", nil).Error()
	messages["remove-running"] = Remove("worker").Error()
	unlock()
	messages["name-taken"] = Hold(ctx, "worker", nil).Error()
	_, err = Connect(ctx, "worker")
	messages["sandbox-ended"] = err.Error()
	messages["holder-version"] = (&HolderVersionError{Path: "/run/user/1000/hutch/worker.sock", Holder: 1, Ours: 2}).Error()
	messages["socket-path"] = checkSocketPath("/home/me/" + strings.Repeat("long/", 20) + "hutch/worker.sock").Error()
}

func TestEachStageIsToldByItsEvidence(t *testing.T) {
	for _, c := range []struct {
		e    evidence
		want Stage
	}{
		{evidence{}, StageRunning},
		{evidence{exited: true}, StageFirstExit},
		{evidence{exited: true, printed: true}, StageConsole},
		{evidence{exited: true, printed: true, init: true}, StageInit},
		{evidence{exited: true, driver: true}, StageDevices}, // quiet, everything built in
		{evidence{exited: true, printed: true, init: true, driver: true}, StageDevices},
	} {
		if got := c.e.stage(); got != c.want {
			t.Errorf("%+v: %v, want %v", c.e, got, c.want)
		}
	}
	for text, want := range map[string][2]bool{
		"": {false, false}, "early console": {true, false}, "[1.0] Run /init as init process\r\n": {true, true},
		"Kernel panic - not syncing: Attempted to kill init! exitcode=0x9": {true, true}, "hutch-agent: modules: no such file": {true, true},
		"Kernel panic - not syncing: No working init found.": {true, true}, "Warning: Failed to execute /init (error -8)": {true, true}, "initcall": {true, false},
	} {
		c := newConsole(nil)
		c.Write([]byte(text))
		if printed, init := c.evidence(); printed != want[0] || init != want[1] {
			t.Errorf("%q: printed %v, init %v; want %v", text, printed, init, want)
		}
	}
	for s := StageStart; s <= StageReady; s++ {
		if s.String() == "unknown" || s.doing() == "" {
			t.Errorf("stage %d has no words", int(s))
		}
	}
	if Stage(-1).String() != "unknown" || (StageReady+1).String() != "unknown" {
		t.Error("a stage that is none has a name")
	}
}

func TestABootErrorShowsTheLastTwentyLines(t *testing.T) {
	var console, want strings.Builder
	for i := range 25 {
		fmt.Fprintf(&console, "line %d\r\n", i)
		if i >= 5 {
			fmt.Fprintf(&want, "\n  line %d", i)
		}
	}
	err := &BootError{Stage: StageConsole, Console: []byte(console.String()), Err: ErrClosed}
	const head = `boot: stage "console": the guest kernel starts, and its init has not been seen yet: sandbox closed; last console lines:`
	if err.Error() != head+want.String() {
		t.Errorf("%s", err)
	}
}
