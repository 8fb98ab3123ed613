//go:build unix

package execlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func init() {
	children = map[string]func(path string) error{"write": childWrite, "follow": childFollow, "refused": childRefused, "full": childFull}
}

func child(ctx context.Context, job, path string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], path)
	cmd.Env = append(os.Environ(), "EXECLOG_CHILD="+job)
	cmd.Stderr = os.Stderr
	return cmd
}

const childEntries = 2000

// childWrite logs its number of entries, then goes on until it is killed.
func childWrite(path string) error {
	f, err := OpenFile(path, FileOptions{MaxSize: 5000, MaxFiles: 100000})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if err := f.Log(out(fmt.Sprint(i))); err != nil {
			return err
		}
		if i == childEntries {
			fmt.Println("enough")
		}
	}
}

// Another process writes, rotates, is killed within a write, and starts again: the log goes on where it was, and a follower sees all of it.
func TestFollowingAnotherProcessThatIsKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	path := openTest(t, FileOptions{}).Path() + "x"
	next, stop := pull(Read(ctx, path, Query{Follow: true, Poll: time.Millisecond}))
	defer stop()
	seq := uint64(0)
	for range 3 {
		cmd := child(ctx, "write", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "enough\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		last, err := lastSeq(path)
		if err != nil || last < seq+childEntries {
			t.Fatalf("last number %d after %d, %v", last, seq, err)
		}
		for i := 0; seq < last; {
			e, err, ok := next()
			if err != nil || !ok || e.Seq != seq+1 {
				t.Fatalf("after %d: %+v, %v, %v", seq, e, err, ok)
			}
			seq++
			if e.Event != nil {
				if e.Event.Kind != Gap || i > 0 {
					t.Fatalf("%+v", e)
				}
				continue
			}
			if string(e.Data) != strconv.Itoa(i) {
				t.Fatalf("%d: %q, want %d", seq, e.Data, i)
			}
			i++
		}
	}
}

// childFollow prints what it reads until "end".
func childFollow(path string) error {
	for e, err := range Read(context.Background(), path, Query{Follow: true, Session: "s", Poll: time.Millisecond}) {
		if err != nil {
			return err
		}
		if string(e.Data) == "end" {
			return nil
		}
		if _, err := os.Stdout.Write(e.Data); err != nil {
			return err
		}
	}
	return errors.New("reading ended")
}

func TestAnotherProcessFollows(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	f := openTest(t, FileOptions{MaxSize: 3000, MaxFiles: 1000})
	cmd := child(ctx, "follow", f.Path())
	var got, want bytes.Buffer
	cmd.Stdout = &got
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		b := []byte{byte(i), byte(i >> 8), '\n', 0xff}
		want.Write(b)
		logAll(t, f, Entry{Source: Stderr, Session: "s", Data: b}, Entry{Source: Stdout, Session: "other", Data: b})
	}
	logAll(t, f, out("end"))
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, want %d, or others", got.Len(), want.Len())
	}
}

// childRefused expects that it cannot write.
func childRefused(path string) error {
	if _, err := OpenFile(path, FileOptions{}); !errors.Is(err, ErrInUse) {
		return fmt.Errorf("OpenFile = %v", err)
	}
	return nil
}

func TestAnotherProcessCannotWrite(t *testing.T) {
	f := openTest(t, FileOptions{MaxSize: 1})
	logAll(t, f, out("one"), out("two")) // the lock is none of the files that move
	if err := child(t.Context(), "refused", f.Path()).Run(); err != nil {
		t.Error(err)
	}
}

// A child process that is being started holds all descriptors for a moment: the lock is not to live as long.
func TestCloseEndsTheLockAtOnce(t *testing.T) {
	f := openTest(t, FileOptions{})
	held, err := syscall.Dup(int(f.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(held)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	reopen(t, f.Path(), FileOptions{})
}

// A lock on a file that somebody removes meanwhile, with the log, keeps nobody away.
func TestTheLockIsOneThatOthersFind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var holders atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				f, err := lockFile(path, 0o600)
				if errors.Is(err, ErrInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n > 1 {
					t.Errorf("%d holders", n)
				}
				runtime.Gosched()
				holders.Add(-1)
				_ = os.Remove(path) // while it is held: whoever has opened it already must not take it
				unlockFile(f)
			}
		})
	}
	wg.Wait()
}

// childFull logs to a file that may not grow beyond a limit, which is then lifted. It prints how many bytes were logged and lost.
func childFull(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	f, err := OpenFile(path, FileOptions{})
	if err != nil {
		return err
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	limit := was
	limit.Cur = 3333
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	logged, lost := 0, 0
	for i := range 100 {
		data := strings.Repeat("x", i)
		switch err := f.Log(out(data)); {
		case err == nil:
			logged += i
		case errors.As(err, new(*WriteError)) && errors.Is(err, syscall.EFBIG):
			lost += i
		default:
			return err
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	if err := f.Log(out("last")); err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, logged, lost)
	return errors.Join(err, f.Close())
}

func TestAFileThatCannotGrow(t *testing.T) {
	path := openTest(t, FileOptions{}).Path() + "x"
	cmd := child(t.Context(), "full", path)
	b, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var logged, lost int
	if _, err := fmt.Fscan(bytes.NewReader(b), &logged, &lost); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	var gotLogged, gotLost, gaps int
	var last Entry
	for e, err := range Read(t.Context(), path, Query{}) { // an error would be a line that was left half
		if err != nil || e.Seq != last.Seq+1 {
			t.Fatalf("after %d: %+v, %v", last.Seq, e, err)
		}
		last = e
		if e.Event == nil {
			gotLogged += len(e.Data)
			continue
		}
		gaps++
		gotLost += int(e.Event.Bytes)
		if e.Session != "s" || e.Event.Source != Stdout {
			t.Errorf("%+v of %+v", e.Event, e)
		}
	}
	if string(last.Data) != "last" || logged == 0 || lost == 0 || gaps == 0 || gotLogged != logged+4 || gotLost != lost {
		t.Errorf("%d bytes logged, %d lost in %d gaps, last %q; want %d and %d", gotLogged, gotLost, gaps, last.Data, logged+4, lost)
	}
}
