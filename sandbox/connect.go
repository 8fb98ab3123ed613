package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/channel"
)

// ErrNotRunning: there is no running sandbox of the name, or behind the socket. The error says whether there was one.
var ErrNotRunning = errors.New("no such sandbox is running")

// ErrHolderLost: the process that holds the sandbox is gone without a word. It is the Err of a *StoppedError of ReasonHolder.
var ErrHolderLost = errors.New("the process that holds the sandbox is gone")

// A HolderVersionError says that another version of hutch holds the sandbox, one that speaks another protocol.
type HolderVersionError struct {
	Path         string // of the socket
	Holder, Ours int    // protocol versions
}

func (e *HolderVersionError) Error() string {
	return fmt.Sprintf("sandbox: %s: another version of hutch holds this sandbox (it speaks protocol version %d, this program version %d): "+
		"stop the sandbox with that one, or end its holder, and create it with this one", e.Path, e.Holder, e.Ours)
}

// ReasonHolder is the Reason of a sandbox whose holder was killed or lost.
const ReasonHolder Reason = "holder lost"

// ConnectSocket returns the sandbox that another process serves at a Unix socket, with the API that its own process has: commands, sessions,
// terminals. ctx bounds the connecting only.
//
// Close ends the connection, and the commands that were started through it without detaching; the sandbox goes on. Stop ends the sandbox.
// When the sandbox ends, calls return the *StoppedError of its machine, or ErrClosed when its holder closed it. Logs reads nothing: the log is the
// holder's, at Info.Log.
//
// Errors: ErrNotRunning, *HolderVersionError, *SocketPathError, fs.ErrPermission, ctx's.
func ConnectSocket(ctx context.Context, path string) (*Sandbox, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	cfg, err := resolve(nil)
	if err != nil {
		return nil, err
	}
	r := &remote{path: path, life: newLife()}
	reply, conn, err := r.ask(ctx, opInfo)
	if err != nil {
		return nil, err
	}
	conn.Close()
	if reply.Info == nil {
		return nil, fmt.Errorf("sandbox: %s: the holder does not say what it holds", path)
	}
	waitConn, err := r.begin(ctx, opWait)
	if err != nil {
		return nil, err
	}
	_, execConn, err := r.ask(ctx, opExec)
	if err != nil {
		waitConn.Close()
		return nil, err
	}
	client, err := channel.NewClient(ctx, execConn, channel.Config{})
	if err != nil {
		waitConn.Close()
		if ve := (*VersionError)(nil); errors.As(err, &ve) { // the image is not to blame
			return nil, &HolderVersionError{Path: path, Holder: ve.Agent, Ours: ve.Host}
		}
		return nil, fmt.Errorf("sandbox: %s: %w", path, err)
	}
	r.client, r.waitConn = client, waitConn
	cfg.shell = cmp.Or(reply.Info.Shell, cfg.shell)
	if reply.Defaults != nil {
		cfg.defaults = []ExecOption{reply.Defaults.apply}
	}
	sb := &Sandbox{cfg: cfg, host: r, life: &r.life, client: client, info: *reply.Info}
	r.wg.Go(r.watch)
	r.wg.Go(r.watchClient)
	return sb, nil
}

// Stop ends the sandbox, also one that another process holds, and returns when it is gone. In the process that made the sandbox it is Close.
// Errors: ErrNotRunning when it has ended already; ctx's, when that ends first: the sandbox may end later.
func (s *Sandbox) Stop(ctx context.Context) error {
	r, ok := s.host.(*remote)
	if !ok {
		return s.Close()
	}
	_, conn, err := r.ask(ctx, opStop)
	if err != nil {
		return err
	}
	conn.Close()
	select {
	case <-s.life.done:
	case <-ctx.Done():
		return fmt.Errorf("sandbox: %s: the sandbox has not ended: %w", r.path, ctx.Err())
	}
	return nil
}

// remote is a host in another process.
type remote struct {
	life
	path     string
	client   *channel.Client
	waitConn net.Conn
	wg       sync.WaitGroup
}

// begin connects and sends a request.
func (r *remote) begin(ctx context.Context, op string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", r.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("sandbox: %s: %w", r.path, ErrNotRunning)
	case err != nil:
		return nil, fmt.Errorf("sandbox: connecting: %w", err)
	}
	if err := writeLine(conn, &serveRequest{Version: serveVersion, Op: op}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("sandbox: %s: %w: %w", r.path, ErrNotRunning, err)
	}
	return conn, nil
}

// ask connects, sends a request and reads the reply.
func (r *remote) ask(ctx context.Context, op string) (*serveReply, net.Conn, error) {
	conn, err := r.begin(ctx, op)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	var reply serveReply
	err = readLine(conn, &reply)
	switch {
	case !stop() && err != nil:
		err = fmt.Errorf("sandbox: %s: the holder does not answer: %w", r.path, ctx.Err())
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		err = fmt.Errorf("sandbox: %s: %w: it ended while it was asked", r.path, ErrNotRunning)
	case err != nil:
		err = fmt.Errorf("sandbox: %s: the holder's answer: %w", r.path, err)
	case reply.Version != 0 && reply.Version != serveVersion:
		err = &HolderVersionError{Path: r.path, Holder: reply.Version, Ours: serveVersion}
	case reply.Error != "":
		err = fmt.Errorf("sandbox: %s: %s", r.path, reply.Error)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return &reply, conn, nil
}

// watch learns of the machine's end from the holder.
func (r *remote) watch() {
	var reply serveReply
	var cause error
	if err := readLine(r.waitConn, &reply); err != nil || reply.End == nil {
		cause = &StoppedError{Reason: ReasonHolder, Err: ErrHolderLost}
	} else {
		cause = reply.End.err()
	}
	r.end(cause)
}

// watchClient ends a connection over which nothing can be run any more, unless the holder has something to say about it.
func (r *remote) watchClient() {
	select {
	case <-r.ended:
		return
	case <-r.client.Done():
	}
	t := time.NewTimer(agentGrace)
	defer t.Stop()
	select {
	case <-r.ended:
	case <-t.C:
		r.end(&StoppedError{Reason: ReasonHolder, Err: ErrHolderLost})
	}
}

// end implements host: it ends the connection.
func (r *remote) end(cause error) {
	r.once.Do(func() {
		r.cause = cause
		close(r.ended)
		r.waitConn.Close()
		go func() {
			r.client.Close()
			r.wg.Wait()
			close(r.done)
		}()
	})
}

// tail implements host.
func (r *remote) tail(n int) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), greetTime)
	defer cancel()
	_, conn, err := r.ask(ctx, opConsole)
	if err != nil {
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(greetTime))
	b, _ := io.ReadAll(io.LimitReader(conn, consoleRing))
	return b[max(0, len(b)-n):]
}
