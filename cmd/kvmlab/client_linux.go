package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/boot/debpkg"
	"github.com/hutchvm/hutch/internal/cachedir"
)

// treeAt is the emulator's tree at root; an empty root is the system.
func treeAt(root string) *debpkg.Tree { return &debpkg.Tree{Root: root} }

// lab is the client's view of the lab of this user.
type lab struct {
	dir      string
	build    string
	exe      string
	progress func(string)
}

func openLab(progress func(string)) (*lab, error) {
	dir, err := cachedir.Dir("lab")
	if err != nil {
		return nil, err
	}
	// A socket's path is limited to 107 bytes; a folder named in a deep cache is reached by a short name.
	if len(socketPath(dir)) > maxSocketPath {
		return nil, fmt.Errorf("the cache folder's path is too long for a socket (%s, at most %d bytes): set %s to a shorter one", socketPath(dir), maxSocketPath, cachedir.Env)
	}
	build, exe, err := selfBuild()
	if err != nil {
		return nil, err
	}
	return &lab{dir: dir, build: build, exe: exe, progress: progress}, nil
}

const maxSocketPath = 107

// errNoLab: no broker listens.
var errNoLab = errors.New("no lab runs")

// ask connects to the broker and sends a request. The caller reads the reply.
func (l *lab) ask(req request) (*net.UnixConn, error) {
	req.Version = wireVersion
	conn, err := net.Dial("unix", socketPath(l.dir))
	if err != nil {
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, errNoLab
		}
		return nil, err
	}
	if err := writeLine(conn, req); err != nil {
		conn.Close()
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// answerLimit is how long a broker may take to answer what it answers from memory.
const answerLimit = time.Minute

// simple asks and returns the reply.
func (l *lab) simple(op string) (reply, error) {
	conn, err := l.ask(request{Op: op})
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(answerLimit))
	var r reply
	if err := readLine(conn, &r); err != nil && !(op == opStop && errors.Is(err, io.EOF)) {
		return reply{}, fmt.Errorf("the lab's broker did not answer: %w", err)
	}
	if r.Error != "" {
		return reply{}, errors.New(r.Error)
	}
	return r, nil
}

// connect returns a connection on which the lab's agent serves the exec protocol, starting the lab when none runs.
func (l *lab) connect(ctx context.Context, cfg config) (*net.UnixConn, error) {
	const attempts = 5
	var last error
	for range attempts {
		if err := l.ensure(ctx, cfg); err != nil {
			return nil, err
		}
		conn, err := l.ask(request{Op: opExec, Build: l.build, Exe: l.exe, Idle: cfg.idle})
		if errors.Is(err, errNoLab) {
			last = err
			continue // it ended between the two steps
		}
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		var r reply
		err = readLine(conn, &r)
		if !stop() {
			conn.Close()
			return nil, ctx.Err()
		}
		switch {
		case err == nil && r.Error == "":
			return conn, nil
		case err == nil && r.Error == errStopping, errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			last = errors.New(errStopping)
		case err == nil:
			conn.Close()
			return nil, errors.New(r.Error)
		default:
			conn.Close()
			return nil, err
		}
		conn.Close() // a stopping broker does not listen any more: the next turn starts another
	}
	return nil, fmt.Errorf("the lab cannot be kept running (tried %d times): %w; see %s", attempts, last, filepath.Join(l.dir, "broker.log"))
}

// ensure makes sure that a lab that fits cfg runs or boots.
func (l *lab) ensure(ctx context.Context, cfg config) error {
	if fits, err := l.running(cfg); err != nil || fits {
		return err
	}
	unlock, err := cachedir.Lock(ctx, filepath.Join(l.dir, "start.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if fits, err := l.running(cfg); err != nil || fits { // somebody else was faster
		return err
	}
	img, err := prepare(ctx, l.build, l.progress)
	if err != nil {
		return err
	}
	bc := brokerConfig{Dir: l.dir, Build: l.build, Emulator: img.emulator.Root, Kernel: img.kernel, Modules: img.modules, Initrd: img.initrd,
		MemMiB: cfg.memMiB, CPUs: cfg.cpus, Idle: cfg.idle}
	if bc.MemMiB == 0 {
		bc.MemMiB = defaultMemMiB
	}
	if bc.CPUs == 0 {
		bc.CPUs = defaultCPUs
	}
	l.progress(fmt.Sprintf("booting the lab (%d MiB, %d processors)", bc.MemMiB, bc.CPUs))
	return startBroker(bc)
}

// running reports whether a lab runs that has what cfg asks for. An unused one that has not is stopped.
func (l *lab) running(cfg config) (bool, error) {
	r, err := l.simple(opStatus)
	if errors.Is(err, errNoLab) {
		return false, nil
	}
	if err != nil || r.Status == nil {
		return false, nil // it is ending
	}
	st := r.Status
	small := st.MemMiB < cfg.memMiB || st.CPUs < cfg.cpus
	if st.Version == wireVersion && !small {
		return true, nil
	}
	if st.Commands > 0 {
		return false, fmt.Errorf("the running lab (version %d, %d MiB, %d processors) does not fit, and %d commands use it: wait, or end it with kvmlab -stop",
			st.Version, st.MemMiB, st.CPUs, st.Commands)
	}
	l.progress("the running lab does not fit; stopping it")
	if _, err := l.simple(opStop); err != nil && !errors.Is(err, errNoLab) {
		return false, fmt.Errorf("stop the lab: %w", err)
	}
	return false, nil
}
