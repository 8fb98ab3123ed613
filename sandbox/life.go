package sandbox

import "sync"

// life is the end of a machine, as all who use the machine see it.
type life struct {
	once  sync.Once
	cause error         // why the machine ended; set before ended is closed
	ended chan struct{} // closed as soon as the machine is to end
	done  chan struct{} // closed when all of it is gone
}

func newLife() life { return life{ended: make(chan struct{}), done: make(chan struct{})} }

// host is who runs a sandbox's machine: this process, or another one.
type host interface {
	// end begins the machine's end, or only that of this process's part in it; the first cause counts.
	end(cause error)
	// tail returns the last n bytes of the guest's console.
	tail(n int) []byte
}
