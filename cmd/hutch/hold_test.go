package main

import (
	"context"
	"testing"
	"time"

	"github.com/hutchvm/hutch/sandbox"
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
