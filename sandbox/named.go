package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/sandbox/execlog"
)

// A named sandbox is one that other processes of its user find by name. It has
//
//   - a folder in the user's state directory ($XDG_STATE_HOME/hutch/NAME, else ~/.local/state/hutch/NAME) with its record, its log and a lock,
//     which its holder has as long as it runs,
//   - a socket in the user's runtime directory ($XDG_RUNTIME_DIR/hutch/NAME.sock, else hutch-UID in the temporary directory, or .run in
//     the state directory when that one is another user's), which is there while it runs.
//
// Only the lock tells whether a sandbox runs: it goes with the holder, however that ends.

var (
	// ErrNameTaken: there is a sandbox of that name already, running or stopped.
	ErrNameTaken = errors.New("the name is taken")
	// ErrNoSuchSandbox: there is no sandbox of that name, running or stopped.
	ErrNoSuchSandbox = errors.New("no such sandbox")
	// ErrRunning: the sandbox still runs.
	ErrRunning = errors.New("the sandbox is running")
)

// A Record is what is kept of a named sandbox, also after its end.
type Record struct {
	Name    string    `json:"name"`
	PID     int       `json:"pid"` // of the holder
	Created time.Time `json:"created"`
	Running bool      `json:"running"`
	Ended   time.Time `json:"ended,omitzero"` // zero while it runs, or when the holder was killed
	End     string    `json:"end,omitempty"`  // how it ended, "" when the holder was killed or it still runs
	Kernel  string    `json:"kernel"`         // its release
	CPUs    int       `json:"cpus"`
	Memory  int64     `json:"memory"` // in bytes
	Log     string    `json:"log"`    // the log's file, for execlog.Read
	Socket  string    `json:"socket"`
}

// maxName bounds a name, so that its socket's path fits.
const maxName = 40

var goodName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// CheckName says whether a sandbox can have the name: 1 to 40 letters, digits, points, dashes and underscores, the first a letter or digit.
func CheckName(name string) error {
	if len(name) > maxName || !goodName.MatchString(name) {
		return &ConfigError{"name", fmt.Sprintf("%q", name), "give 1 to 40 letters, digits, '.', '-' and '_', beginning with a letter or a digit"}
	}
	return nil
}

// xdg is a folder that a variable of the XDG Base Directory Specification names, or "" where it is not set, or relative: such a path is to be ignored.
func xdg(variable string) string {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return dir
	}
	return ""
}

// stateDir is the folder of all named sandboxes.
func stateDir() (string, error) {
	dir := xdg("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("sandbox: the state directory: %w (set HOME or XDG_STATE_HOME)", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "hutch"), nil
}

// socketDir is the folder of the sockets, made if need be and nobody else's.
func socketDir() (string, error) {
	dir := xdg("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("hutch-%d", os.Getuid()))
	} else {
		dir = filepath.Join(dir, "hutch")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", fmt.Errorf("sandbox: the runtime directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("sandbox: the runtime directory: %w", err)
	}
	err := ownedByUs(dir)
	if err != nil && xdg("XDG_RUNTIME_DIR") == "" {
		// Another user may have made a folder of that name first, and then we cannot remove it.
		if own, oerr := stateDir(); oerr == nil {
			dir = filepath.Join(own, ".run") // no sandbox has such a name
			if os.MkdirAll(dir, 0o700) == nil {
				err = ownedByUs(dir)
			}
		}
	}
	return dir, err
}

// A SocketPathError is a path that no Unix socket can have, because it is too long.
type SocketPathError struct {
	Path string
	Max  int // bytes
}

func (e *SocketPathError) Error() string {
	return fmt.Sprintf("sandbox: %s: a socket's path has at most %d bytes, and this one has %d: set XDG_RUNTIME_DIR to a folder with a shorter path, or give a shorter name",
		e.Path, e.Max, len(e.Path))
}

// maxSocketPath is the longest path of a socket in bytes: unix(7), sun_path, without its NUL. It is 4 bytes less on BSD and macOS.
const maxSocketPath = 107

func checkSocketPath(path string) error {
	most := maxSocketPath
	if runtime.GOOS != "linux" {
		most -= 4
	}
	if len(path) > most {
		return &SocketPathError{path, most}
	}
	return nil
}

// named is the place of one named sandbox.
type named struct {
	name, dir, socket string
}

func placeOf(name string) (named, error) {
	if err := CheckName(name); err != nil {
		return named{}, err
	}
	state, err := stateDir()
	if err != nil {
		return named{}, err
	}
	run, err := socketDir()
	if err != nil {
		return named{}, err
	}
	return named{name, filepath.Join(state, name), filepath.Join(run, name+".sock")}, nil
}

func (n named) log() string { return filepath.Join(n.dir, "exec.log") }

func (n named) recordPath() string { return filepath.Join(n.dir, "sandbox.json") }

// read returns the record, with Running as the lock says.
func (n named) read() (*Record, error) {
	b, err := os.ReadFile(n.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("sandbox: %s: %w", n.name, ErrNoSuchSandbox)
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox: %s: %w", n.name, err)
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("sandbox: %s: its record %s: %w", n.name, n.recordPath(), err)
	}
	if r.Running, err = n.running(); err != nil {
		return nil, err
	}
	return &r, nil
}

// write replaces the record, whole or not at all, also when the machine loses its power in the middle of it.
func (n named) write(r *Record) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	tmp := n.recordPath() + ".new"
	if err := writeSynced(tmp, append(b, '\n')); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, n.recordPath()); err != nil {
		return err
	}
	return syncDir(n.dir)
}

// writeSynced writes a file that only this user may read, and returns when it is on the disk.
func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes a rename in the folder last. File systems that cannot sync a folder say EINVAL, and need not.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// Hold makes a sandbox that other processes can connect to by name, and holds it until it ends: by Stop, by the end of ctx, or by itself. It is
// what a holder process runs; `hutch create` starts one. ready is called when the sandbox can be used.
//
// What the commands print is logged in the sandbox's folder, beside the sinks of WithLogs. Record and log stay after the end, until Remove.
// Errors: ErrNameTaken, *SocketPathError, those of New, and why the sandbox ended by itself.
func Hold(ctx context.Context, name string, ready func(*Sandbox), opts ...Option) error {
	n, err := placeOf(name)
	if err == nil {
		err = checkSocketPath(n.socket) // a boot takes a while: it is not to be for nothing
	}
	if err != nil {
		return err
	}
	unlock, err := n.lock()
	if errors.Is(err, ErrRunning) {
		return fmt.Errorf("sandbox: %s: %w: it is running; use it, or stop it with `hutch stop %s`", name, ErrNameTaken, name)
	}
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(n.recordPath()); err == nil {
		return fmt.Errorf("sandbox: %s: %w by a stopped one, whose log is kept; remove it with `hutch rm %s`", name, ErrNameTaken, name)
	}
	sb, l, log, err := n.make(ctx, opts)
	if err != nil {
		_ = n.remove() // what failed counts
		return err
	}
	defer log.Close()
	defer os.Remove(n.socket)
	defer sb.Close()
	stop := context.AfterFunc(ctx, func() { sb.Close() })
	defer stop()
	info := sb.Info()
	rec := &Record{
		Name: name, PID: os.Getpid(), Created: time.Now(), Kernel: info.Kernel, CPUs: info.CPUs, Memory: info.Memory, Log: n.log(), Socket: n.socket,
	}
	if err := n.write(rec); err != nil {
		l.Close()
		sb.Close()
		_ = n.remove() // as above
		return fmt.Errorf("sandbox: %s: writing its record: %w", name, err)
	}
	if ready != nil {
		ready(sb)
	}
	err = sb.Serve(l)
	sb.Close()
	rec.Ended, rec.End = time.Now(), "stopped"
	var se *StoppedError
	if errors.As(sb.life.cause, &se) {
		rec.End = se.brief()
		err = cmp.Or(err, error(se))
	}
	if werr := n.write(rec); werr != nil && err == nil {
		err = fmt.Errorf("sandbox: %s: writing its record: %w", name, werr)
	}
	return err
}

// make boots the sandbox and opens its socket and its log.
func (n named) make(ctx context.Context, opts []Option) (sb *Sandbox, l net.Listener, log *execlog.File, err error) {
	if log, err = execlog.OpenFile(n.log(), execlog.FileOptions{}); err != nil {
		return nil, nil, nil, err
	}
	opts = append(opts[:len(opts):len(opts)], WithLogs(log), func(c *config) { c.name, c.logPath = n.name, n.log() })
	if sb, err = New(ctx, opts...); err != nil {
		log.Close()
		return nil, nil, nil, err
	}
	if err = os.Remove(n.socket); errors.Is(err, fs.ErrNotExist) { // of a holder that was killed: we have the lock
		err = nil
	}
	if err == nil {
		l, err = net.Listen("unix", n.socket)
	}
	if err == nil {
		err = os.Chmod(n.socket, 0o600)
	}
	if err != nil {
		if l != nil {
			l.Close()
		}
		sb.Close()
		log.Close()
		return nil, nil, nil, fmt.Errorf("sandbox: %s: its socket: %w", n.name, err)
	}
	return sb, l, log, nil
}

// Connect returns the named sandbox that another process holds; see ConnectSocket for what it can do. Errors: ErrNotRunning, and
// ErrNoSuchSandbox as well when there never was one.
func Connect(ctx context.Context, name string) (*Sandbox, error) {
	n, err := placeOf(name)
	if err != nil {
		return nil, err
	}
	rec, err := n.read()
	switch {
	case errors.Is(err, ErrNoSuchSandbox):
		return nil, &noSuchError{name}
	case err != nil:
		return nil, err
	case !rec.Running:
		return nil, fmt.Errorf("sandbox: %s: %w: it %s; remove it with `hutch rm %s` to make it anew", name, ErrNotRunning, rec.ending(), name)
	}
	n.socket = cmp.Or(rec.Socket, n.socket) // its holder may have been given another XDG_RUNTIME_DIR, or none, as under cron and su
	err = ownedByUs(filepath.Dir(n.socket))
	if err == nil {
		sb, err := ConnectSocket(ctx, n.socket)
		if err == nil || !errors.Is(err, ErrNotRunning) {
			return sb, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if running, rerr := n.running(); rerr == nil && running { // else it has just ended
		if _, serr := os.Lstat(n.socket); errors.Is(serr, fs.ErrNotExist) {
			return nil, fmt.Errorf("sandbox: %s: %w that can be reached: it is about to end, or its socket %s was removed; its holder is process %d, which SIGTERM ends", name, ErrNotRunning, n.socket, rec.PID)
		}
	}
	return nil, fmt.Errorf("sandbox: %s: %w: it has just ended", name, ErrNotRunning)
}

// noSuchError is ErrNotRunning and ErrNoSuchSandbox, said once.
type noSuchError struct{ name string }

func (e *noSuchError) Error() string {
	return fmt.Sprintf("sandbox: %s: %v; make it with `hutch create %s`", e.name, ErrNoSuchSandbox, e.name)
}

func (e *noSuchError) Unwrap() []error { return []error{ErrNotRunning, ErrNoSuchSandbox} }

// ending says in words how the sandbox ended.
func (r *Record) ending() string {
	if r.Ended.IsZero() {
		return "ended when its holder was killed"
	}
	return fmt.Sprintf("ended at %s (%s)", r.Ended.Format(time.RFC3339), r.End)
}

// Named returns the records of the user's named sandboxes, running and stopped, in the order of their names. Errors: records that cannot be
// read, joined, beside those that can.
func Named() ([]Record, error) {
	state, err := stateDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	var list []Record
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || CheckName(e.Name()) != nil {
			continue
		}
		n := named{name: e.Name(), dir: filepath.Join(state, e.Name())}
		r, err := n.read()
		switch {
		case errors.Is(err, ErrNoSuchSandbox): // being made, or not made to its end
		case err != nil:
			errs = append(errs, err)
		default:
			list = append(list, *r)
		}
	}
	slices.SortFunc(list, func(a, b Record) int { return cmp.Compare(a.Name, b.Name) })
	return list, errors.Join(errs...)
}

// Inspect returns the record of one named sandbox. Errors: ErrNoSuchSandbox.
func Inspect(name string) (*Record, error) {
	n, err := placeOf(name)
	if err != nil {
		return nil, err
	}
	return n.read()
}

// Remove forgets a stopped sandbox: its record and its log. Errors: ErrRunning, ErrNoSuchSandbox.
func Remove(name string) error {
	n, err := placeOf(name)
	if err != nil {
		return err
	}
	if _, err := os.Stat(n.dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sandbox: %s: %w", name, ErrNoSuchSandbox)
	}
	unlock, err := n.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(n.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sandbox: %s: %w", name, err)
	}
	if err := n.remove(); err != nil {
		return fmt.Errorf("sandbox: %s: %w", name, err)
	}
	return nil
}

// remove removes the folder of a sandbox whose lock the caller has. The lock's file goes last: from then on the next one of the name may have a lock of its
// own and begin, and nothing of it must be removed.
func (n named) remove() error {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return err
	}
	lock := filepath.Join(n.dir, "lock")
	for _, e := range entries {
		if path := filepath.Join(n.dir, e.Name()); path != lock {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(lock); err != nil {
		return err
	}
	if err := os.Remove(n.dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) { // it is the next one's
		return err
	}
	return nil
}
