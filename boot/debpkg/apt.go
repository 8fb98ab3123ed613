package debpkg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hutchvm/hutch/internal/cachedir"
)

// listsMaxAge is the age from which lists are refreshed before a download: security updates replace packages, and a source
// stops offering the replaced ones.
const listsMaxAge = 24 * time.Hour

// clearHooks removes hooks that images configure for root's own apt (they delete the system's caches) and that fail for an ordinary user.
const clearHooks = `#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`

// client runs the package client on the private state folder. Its methods are called with the lock held.
type client struct {
	dir      string // the deb folder of the cache
	get      string // apt-get
	cache    string // apt-cache
	deb      string // dpkg-deb
	progress func(string)

	updated    bool   // lists were refreshed by this client
	updateFail string // what the last refresh could not reach; empty when it reached everything
}

// open finds the programs, makes the folders and takes the lock. The caller calls unlock.
func open(ctx context.Context, progress func(string)) (c *client, unlock func(), err error) {
	if progress == nil {
		progress = func(string) {}
	}
	c = &client{progress: progress}
	for name, to := range map[string]*string{"apt-get": &c.get, "apt-cache": &c.cache, "dpkg-deb": &c.deb} {
		if *to, err = exec.LookPath(name); err != nil {
			return nil, nil, &Error{Op: "find client", Name: name, Err: ErrNoPackageClient,
				Fix: "packages are fetched with apt-get and dpkg-deb of Debian or a relative; on another distribution install the program or kernel yourself and name it with an option"}
		}
	}
	if c.dir, err = cachedir.Dir("deb"); err != nil {
		return nil, nil, &Error{Op: "open cache", Err: err}
	}
	for _, sub := range []string{"apt/state/lists/partial", "apt/cache/archives/partial", "pool", "trees"} {
		if err := os.MkdirAll(filepath.Join(c.dir, filepath.FromSlash(sub)), 0o755); err != nil {
			return nil, nil, &Error{Op: "open cache", Err: err}
		}
	}
	if unlock, err = c.lock(ctx); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(c.confPath(), []byte(clearHooks), 0o644); err != nil {
		unlock()
		return nil, nil, &Error{Op: "open cache", Err: err}
	}
	c.removeLeftovers()
	return c, unlock, nil
}

// lock waits for the cache's lock and says so when the wait is long enough to be noticed.
func (c *client) lock(ctx context.Context) (func(), error) {
	path := filepath.Join(c.dir, "lock")
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	unlock, err := cachedir.Lock(short, path)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		c.progress("waiting for another process that fetches packages")
		unlock, err = cachedir.Lock(ctx, path)
	}
	if err != nil {
		return nil, &Error{Op: "lock cache", Err: err}
	}
	return unlock, nil
}

// removeLeftovers deletes what a killed process left half done; the lock says that nobody is at it.
func (c *client) removeLeftovers() {
	for _, pattern := range []string{"tmp-*", "trees/tmp-*"} {
		stale, _ := filepath.Glob(filepath.Join(globEscape(c.dir), filepath.FromSlash(pattern))) // the pattern is valid
		for _, path := range stale {
			os.RemoveAll(path) // best effort: it only wastes space
		}
	}
}

func (c *client) confPath() string  { return filepath.Join(c.dir, "apt", "hutch.conf") }
func (c *client) stampPath() string { return filepath.Join(c.dir, "apt", "updated") }

// options point apt at the private folders. status names another file than the system's when it is not empty.
func (c *client) options(status string) []string {
	opts := []string{
		"-c", c.confPath(),
		"-o", "Dir::State=" + filepath.Join(c.dir, "apt", "state"),
		"-o", "Dir::Cache=" + filepath.Join(c.dir, "apt", "cache"),
		"-o", "Dir::Cache::pkgcache=pkgcache.bin",
		"-o", "Dir::Cache::srcpkgcache=srcpkgcache.bin",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	}
	if status != "" {
		opts = append(opts, "-o", "Dir::State::status="+status)
	}
	return opts
}

// run runs one program with a fixed locale (its output is parsed) and returns both outputs, also when it fails.
// The program gets its own process group, and all of it is killed when ctx ends: apt's download methods are processes of their own.
func (c *client) run(ctx context.Context, dir string, lines io.Writer, name string, args ...string) (stdout, all string, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, both bytes.Buffer
	var mu sync.Mutex
	stdoutTo := []io.Writer{&out, &both}
	if lines != nil {
		stdoutTo = append(stdoutTo, lines)
	}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANGUAGE=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout = &syncWriter{w: io.MultiWriter(stdoutTo...), mu: &mu}
	cmd.Stderr = &syncWriter{w: &both, mu: &mu}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithUs(cmd.SysProcAttr)
	runtime.LockOSThread() // the program would die with the thread that started it
	defer runtime.UnlockOSThread()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), both.String(), err
}

// update refreshes the private lists. Sources that cannot be reached are remembered, not fatal: another may offer the package.
func (c *client) update(ctx context.Context) error {
	if err := c.needRoom("update lists", "", roomForLists); err != nil {
		return err
	}
	c.progress("refreshing the package lists")
	args := append(c.options(""), "update")
	_, out, err := c.run(ctx, c.dir, nil, c.get, args...)
	if ctx.Err() != nil {
		return &Error{Op: "update lists", Err: ctx.Err()}
	}
	c.updated = true
	c.updateFail = complaints(out)
	if err != nil && c.updateFail == "" {
		return &Error{Op: "update lists", Err: err, Output: tail(out)}
	}
	if c.updateFail != "" {
		return nil
	}
	if err := os.WriteFile(c.stampPath(), nil, 0o644); err != nil {
		return &Error{Op: "update lists", Err: err}
	}
	now := time.Now()
	if err := os.Chtimes(c.stampPath(), now, now); err != nil {
		return &Error{Op: "update lists", Err: err}
	}
	return nil
}

// listsFresh reports whether the lists are young enough to download by.
func (c *client) listsFresh() bool {
	info, err := os.Stat(c.stampPath())
	return err == nil && time.Since(info.ModTime()) < listsMaxAge && time.Since(info.ModTime()) > -time.Minute
}

// haveLists reports whether there ever was a refresh.
func (c *client) haveLists() bool {
	_, err := os.Stat(c.stampPath())
	return err == nil
}

// withLists calls try, and once more after refreshing the lists when it failed, unless they were refreshed just now.
func (c *client) withLists(ctx context.Context, try func() error) error {
	if !c.haveLists() && !c.updated {
		if err := c.update(ctx); err != nil {
			return err
		}
	}
	err := try()
	if err == nil || ctx.Err() != nil || c.updated {
		return c.blameNetwork(err)
	}
	if err := c.update(ctx); err != nil {
		return err
	}
	return c.blameNetwork(try())
}

// blameNetwork turns "not found" into "not reachable" when the lists could not be refreshed.
func (c *client) blameNetwork(err error) error {
	var e *Error
	if c.updateFail == "" || !errors.As(err, &e) || !errors.Is(err, ErrUnknownPackage) {
		return err
	}
	return &Error{Op: e.Op, Name: e.Name, Err: ErrNoNetwork, Fix: networkFix, Output: c.updateFail}
}

const networkFix = "check the network, the proxy variables and the sources apt is configured for"

// download fetches the given NAME=VERSION specs into dir.
func (c *client) download(ctx context.Context, dir string, specs []string) error {
	args := append(c.options(""), "download")
	done := 0
	lines := &lineWriter{line: func(line string) {
		// "Get:3 SOURCE SUITE ARCH NAME ARCH VERSION [SIZE]": the name is the fourth field from the end when the size has two words.
		if f := strings.Fields(line); strings.HasPrefix(line, "Get:") && len(f) >= 8 {
			done = min(done+1, len(specs)) // a retry is told again
			c.progress(fmt.Sprintf("fetching %s %s (%d of %d)", f[4], strings.Join(f[len(f)-2:], " "), done, len(specs)))
		}
	}}
	_, out, err := c.run(ctx, dir, lines, c.get, append(args, specs...)...)
	name := specs[0]
	if len(specs) > 1 {
		name = fmt.Sprintf("%s and %d more", specs[0], len(specs)-1)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &Error{Op: "download", Name: name, Err: ctx.Err()}
	case noRoom("download", name, out) != nil:
		return noRoom("download", name, out)
	case strings.Contains(out, "Unable to locate package"), strings.Contains(out, "was not found"):
		return &Error{Op: "download", Name: name, Err: ErrUnknownPackage, Output: tail(out)}
	case strings.Contains(out, "Failed to fetch"):
		return &Error{Op: "download", Name: name, Err: ErrNoNetwork, Fix: networkFix, Output: complaints(out)}
	}
	return &Error{Op: "download", Name: name, Err: err, Output: tail(out)}
}

// show returns the control stanza of the version that would be installed.
func (c *client) show(ctx context.Context, pkg string) (control, error) {
	args := append(c.options(""), "show", "--no-all-versions", pkg)
	out, all, err := c.run(ctx, c.dir, nil, c.cache, args...)
	if ctx.Err() != nil {
		return control{}, &Error{Op: "look up", Name: pkg, Err: ctx.Err()}
	}
	if ctl, ok := parseControl(out); err == nil && ok {
		return ctl, nil
	}
	return control{}, &Error{Op: "look up", Name: pkg, Err: ErrUnknownPackage, Output: tail(all),
		Fix: "check the name and the sources apt is configured for"}
}

// complaints returns the lines in which apt says what it could not fetch, at most three.
func complaints(out string) string {
	var bad []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "Failed to fetch") || strings.Contains(line, "Some index files failed") {
			bad = append(bad, line)
		}
	}
	return strings.Join(bad[:min(3, len(bad))], "\n")
}

// tail returns the last few lines of out.
func tail(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], "\n")
}
