//go:build linux && amd64

package sandbox

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/hutchvm/hutch/channel"
)

// helloOf is the first message of an agent of this version, on the wire.
func helloOf(t *testing.T, version int) []byte {
	t.Helper()
	b, err := cbor.Marshal(map[int]any{1: "hutch-channel", 2: version, 3: "hutch v0.9.0 go1.26.0"})
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// strangeHolder answers at a socket as a holder of other versions of the two protocols would.
func strangeHolder(t *testing.T, serve, protocol int) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hutch")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done; os.RemoveAll(dir) })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			var req serveRequest
			if readLine(conn, &req) != nil {
				continue
			}
			if req.Version != serve {
				writeLine(conn, &serveReply{Version: serve, Error: "another version"})
				continue
			}
			if req.Op != opWait {
				writeLine(conn, &serveReply{Info: &Info{}})
			}
			if req.Op == opExec {
				conn.Write(helloOf(t, protocol))
			}
		}
	}()
	return path
}

func TestAHolderOfAnotherVersionIsNamedWithBothVersions(t *testing.T) {
	for _, c := range []struct {
		serve, protocol int
		want            HolderVersionError
	}{
		{serveVersion + 1, channel.Version, HolderVersionError{Holder: serveVersion + 1, Ours: serveVersion}},
		{serveVersion, channel.Version + 2, HolderVersionError{Holder: channel.Version + 2, Ours: channel.Version}},
	} {
		path := strangeHolder(t, c.serve, c.protocol)
		c.want.Path = path
		sb, err := ConnectSocket(testContext(t), path)
		var he *HolderVersionError
		if sb != nil || !errors.As(err, &he) || *he != c.want {
			t.Errorf("%v, %v; want %v", sb, err, &c.want)
		}
	}
}

// The other way round: a holder tells a process of another version so.
func TestAProcessOfAnotherVersionIsToldSo(t *testing.T) {
	path := served(t, agentSandbox(t))
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var reply serveReply
	if err := errors.Join(writeLine(conn, &serveRequest{Version: serveVersion + 1, Op: opInfo}), readLine(conn, &reply)); err != nil {
		t.Fatal(err)
	}
	const want = "the holder speaks version 1, the other side 2: stop the sandbox and create it with this version of hutch"
	if reply.Error != want || reply.Version != serveVersion || reply.Info != nil {
		t.Errorf("%+v, want %q", reply, want)
	}
}

// What the documentation of WithExecDetachable says of its limits is what the guest does.
func TestTheLargestReplayNeedsALargerGuest(t *testing.T) {
	sb := shared.get(t)
	ctx := testContext(t)
	_, err := sb.Exec(ctx, "true", nil, WithExecDetachable(channel.MaxReplay))
	var le *LimitError
	if !errors.As(err, &le) || le.What != channel.LimitReplay || le.Need != 2*channel.MaxReplay || le.Max >= le.Need || le.Max < le.Need/2 {
		t.Fatalf("%v (%+v), want a *LimitError that has half of what is needed, and less than all", err, le)
	}
	for name, opts := range map[string][]ExecOption{
		"what the error says":      {WithExecDetachable(le.Max / 2), WithExecID("replay-half")},
		"the largest, on terminal": {WithExecDetachable(channel.MaxReplay), WithExecID("replay-tty"), WithExecTTY(24, 80)},
	} {
		if res, err := sb.Exec(ctx, "true", nil, opts...); err != nil || !res.Success() {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	for _, id := range []string{"replay-half", "replay-tty"} {
		if err := sb.Session(id).Forget(ctx); err != nil && !errors.Is(err, ErrSessionNotFound) {
			t.Error(err)
		}
	}
}
