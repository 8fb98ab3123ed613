//go:build linux

package agent

import (
	"context"
	"io"

	"golang.org/x/sys/unix"
)

// ServeReaping is Serve in a process that adopts orphans and reaps them as
// process 1 does. It takes every child of this process.
func ServeReaping(ctx context.Context, conn io.ReadWriteCloser, opt Options) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	opt.kids = newAllChildren()
	return Serve(ctx, conn, opt)
}

// ParseCmdline and LookupUser are tested directly.
var ParseCmdline = parseCmdline

// LookupUser returns the parts of an identity.
func LookupUser(etc, spec string) (uid, gid uint32, groups []uint32, home string, err error) {
	id, err := lookupUser(etc, spec)
	if err != nil {
		return 0, 0, nil, "", err
	}
	return id.uid, id.gid, id.groups, id.home, nil
}

// Hangup is tested directly.
type Hangup struct{ h hangup }

// Again is hangup.again.
func (h *Hangup) Again(err error) bool { return h.h.again(err) }
