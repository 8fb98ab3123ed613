package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox"
	"github.com/hutchvm/hutch/sandbox/execlog"
)

// A microVM that was left ends with its command, also when its guest is silent or says for ever that somebody reads.
func TestAMicroVMThatWasLeftWaitsForNoGuest(t *testing.T) {
	for name, info := range map[string]func(context.Context) (sandbox.SessionInfo, error){
		"silent": func(ctx context.Context) (sandbox.SessionInfo, error) {
			<-ctx.Done()
			return sandbox.SessionInfo{}, ctx.Err()
		},
		"always read": func(context.Context) (sandbox.SessionInfo, error) { return sandbox.SessionInfo{Watchers: 1}, nil },
	} {
		t.Run(name, func(t *testing.T) { awaitReaders(t.Context(), time.Millisecond, info) })
	}
	awaitReaders(t.Context(), time.Hour, func(context.Context) (sandbox.SessionInfo, error) { return sandbox.SessionInfo{}, nil })
}

// A microVM that was left goes when the end of its session is in the log, and does not wait for ever for a log that does not get it.
func TestAMicroVMThatWasLeftWaitsForItsLog(t *testing.T) {
	f, err := execlog.OpenFile(filepath.Join(t.TempDir(), "log"), execlog.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log := func(session string, kind execlog.EventKind) {
		if err := f.Log(execlog.Entry{Source: execlog.System, Session: session, Event: &execlog.Event{Kind: kind}}); err != nil {
			t.Error(err)
		}
	}
	log("s", execlog.Start)
	log("other", execlog.Exit)
	awaitLog(t.Context(), time.Millisecond, "s", f.Read)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		awaitLog(t.Context(), time.Hour, "s", f.Read)
	}()
	log("s", execlog.Gap)
	select {
	case <-gone:
		t.Error("it did not wait for the end")
	case <-time.After(50 * time.Millisecond):
	}
	log("s", execlog.Exit)
	<-gone
}
