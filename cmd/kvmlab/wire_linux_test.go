package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if builtDir != "" {
			os.RemoveAll(builtDir)
		}
		os.Exit(code)
	}))
}

func TestReadLineLeavesWhatFollows(t *testing.T) {
	var buf bytes.Buffer
	if err := writeLine(&buf, request{Version: 7, Op: opExec, Exe: "/a\nb"}); err != nil {
		t.Fatal(err)
	}
	buf.WriteString("rest")
	var got request
	if err := readLine(iotest.OneByteReader(&buf), &got); err != nil || got.Version != 7 || got.Exe != "/a\nb" {
		t.Fatalf("readLine = %+v, %v", got, err)
	}
	if buf.String() != "rest" {
		t.Errorf("after the line: %q, want rest", buf.String())
	}
}

func TestReadLineRefusesWhatIsNoLine(t *testing.T) {
	var r reply
	if err := readLine(strings.NewReader(""), &r); !errors.Is(err, io.EOF) {
		t.Errorf("empty input: %v, want EOF", err)
	}
	if err := readLine(strings.NewReader(`{"Err`), &r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a line: %v, want ErrUnexpectedEOF", err)
	}
	if err := readLine(strings.NewReader("nonsense\n"), &r); err == nil {
		t.Error("nonsense was accepted")
	}
	if err := readLine(strings.NewReader(strings.Repeat("x", maxLine+2)), &r); err == nil {
		t.Error("an endless line was accepted")
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("{\"Op\":\"exec\"}\nrest"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var req request
		if err := readLine(r, &req); err == nil && r.Len() != len(in)-bytes.IndexByte(in, '\n')-1 {
			t.Fatalf("readLine left %d bytes of %q", r.Len(), in)
		}
	})
}

// unixPair returns two connected sockets.
func unixPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	a, file, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	b = conn.(*net.UnixConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestSpliceKeepsHalfClosesAndBytes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	client, proxyA := unixPair(t)
	proxyB, server := unixPair(t)
	done := make(chan struct{})
	go func() { splice(proxyA, proxyB); close(done) }()

	sent := make([]byte, 3<<20)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range sent {
		sent[i] = byte(rng.Uint32())
	}
	go func() {
		client.Write(sent) // a failure shows as missing bytes below
		client.CloseWrite()
	}()
	got, err := io.ReadAll(server) // ends only by the half-close
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("server read %d bytes, %v; want the %d sent", len(got), err, len(sent))
	}
	if _, err := server.Write([]byte("answer after the end")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	back, err := io.ReadAll(client)
	if err != nil || string(back) != "answer after the end" {
		t.Fatalf("client read %q, %v", back, err)
	}
	<-done
}

// pretendLab is a broker whose lab is answer, called for every stream.
func pretendLab(t *testing.T, answer func(s muxStream, req request)) *broker {
	t.Helper()
	host, guest := unixPair(t)
	mux, err := yamux.Client(host, muxConfig())
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(guest, muxConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mux.Close(); server.Close() })
	go func() {
		for {
			s, err := server.AcceptStream()
			if err != nil {
				return
			}
			go func() {
				defer s.Close()
				var req request
				if err := readLine(s, &req); err == nil {
					answer(muxStream{s}, req)
				}
			}()
		}
	}()
	listener, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{mux: mux, listener: listener, ready: make(chan struct{}), ended: make(chan struct{}), kill: func() {}}
	b.timer = time.AfterFunc(time.Hour, b.stop)
	t.Cleanup(func() { b.timer.Stop(); listener.Close() })
	return b
}

func (b *broker) counts() (now, all int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status.Commands, b.status.Served
}

func TestBrokerPassesAConnectionOn(t *testing.T) {
	b := pretendLab(t, func(s muxStream, req request) {
		writeLine(s, reply{}) // failures show at the client
		text, _ := io.ReadAll(s)
		s.Write([]byte(strings.ToUpper(string(text)) + req.Build))
	})
	close(b.ready)
	client, conn := unixPair(t)
	done := make(chan struct{})
	go func() { b.serve(conn); close(done) }()
	if err := writeLine(client, request{Version: wireVersion, Op: opExec, Build: "B1"}); err != nil {
		t.Fatal(err)
	}
	var r reply
	if err := readLine(client, &r); err != nil || r.Error != "" {
		t.Fatalf("reply = %+v, %v", r, err)
	}
	if now, all := b.counts(); now != 1 || all != 1 {
		t.Errorf("during the command: %d commands, %d served, want 1 and 1", now, all)
	}
	client.Write([]byte("hello "))
	client.CloseWrite()
	text, err := io.ReadAll(client)
	if err != nil || string(text) != "HELLO B1" {
		t.Errorf("read %q, %v, want HELLO B1", text, err)
	}
	client.Close()
	<-done
	if now, _ := b.counts(); now != 0 {
		t.Errorf("after the command: %d commands, want 0", now)
	}
}

func TestStoppingBrokerRefusesAfterItsSocketIsGone(t *testing.T) {
	b := pretendLab(t, func(muxStream, request) {})
	b.stop()
	client, conn := unixPair(t)
	go b.serve(conn)
	if err := writeLine(client, request{Version: wireVersion, Op: opExec}); err != nil {
		t.Fatal(err)
	}
	var r reply
	if err := readLine(client, &r); err != nil || r.Error != errStopping {
		t.Fatalf("reply = %+v, %v; want %q", r, err, errStopping)
	}
	if _, err := net.Dial("unix", b.listener.Addr().String()); err == nil {
		t.Error("the socket of a stopping broker still takes connections")
	}
}

func TestBrokerRefusesAnotherVersion(t *testing.T) {
	b := pretendLab(t, func(muxStream, request) {})
	client, conn := unixPair(t)
	go b.serve(conn)
	if err := writeLine(client, request{Version: wireVersion + 1, Op: opExec}); err != nil {
		t.Fatal(err)
	}
	var r reply
	if err := readLine(client, &r); err != nil || !strings.Contains(r.Error, "kvmlab -stop") {
		t.Fatalf("reply = %+v, %v; want an error that names the fix", r, err)
	}
}

func TestHasVirtualisation(t *testing.T) {
	for text, want := range map[string]bool{
		"flags\t\t: fpu svm lm\n": true, "flags : vmx\n": true, "flags : fpu hypervisor\nbugs : vmx\n": false, "vmx flags : svm\n": false, "": false,
	} {
		if got := hasVirtualisation(text); got != want {
			t.Errorf("hasVirtualisation(%q) = %v, want %v", text, got, want)
		}
	}
}

func TestUnpackKernelRefusesGarbage(t *testing.T) {
	bz := make([]byte, 4096)
	copy(bz[0x202:], "HdrS")
	bz[0x1f1] = 1
	for name, image := range map[string][]byte{"empty": nil, "no header": make([]byte, 4096), "no payload": bz} {
		if _, err := unpackKernel(image); err == nil {
			t.Errorf("%s: unpackKernel accepted it", name)
		}
	}
	bz[0x24c] = 100
	if _, err := unpackKernel(bz); !errors.Is(err, errNotXZ) {
		t.Errorf("payload that is no xz: %v, want errNotXZ", err)
	}
}

func TestCommandEnvDropsWhatIsNoVariable(t *testing.T) {
	got := commandEnv([]string{"A=1", "=C:=x", "novalue", "KVMLAB=0", "B="})
	if want := "A=1 B= KVMLAB=1"; strings.Join(got, " ") != want {
		t.Errorf("commandEnv = %q, want %q", got, want)
	}
}
