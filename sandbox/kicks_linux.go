package sandbox

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutchvm/hutch/virtio"
)

// kickReader passes queue notifications on to a device. KVM turns the guest's write to QueueNotify into an eventfd count without leaving the
// kernel; this goroutine waits for the counts on a thread of its own, because a wake-up through the Go runtime's poller costs more than
// twice as much.
type kickReader struct {
	trans  *virtio.MMIO
	queues []*eventFD
	stop   *eventFD
	wg     sync.WaitGroup
}

// pollRetry is the pause after a failed poll.
const pollRetry = time.Millisecond

// newKickReader makes one eventfd for each queue and has register tie it to the queue's number.
func newKickReader(trans *virtio.MMIO, queues int, register func(queue uint64, fd int) error) (*kickReader, error) {
	k := &kickReader{trans: trans}
	var err error
	if k.stop, err = newEventFD(); err != nil {
		return nil, err
	}
	for i := range queues {
		e, err := newEventFD()
		if err != nil {
			k.close()
			return nil, err
		}
		k.queues = append(k.queues, e)
		if err := register(uint64(i), e.fd); err != nil {
			k.close()
			return nil, fmt.Errorf("queue %d: %w", i, err)
		}
	}
	return k, nil
}

func (k *kickReader) start() {
	k.wg.Add(1)
	go k.run()
}

func (k *kickReader) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer k.wg.Done()
	fds := []unix.PollFd{{Fd: int32(k.stop.fd), Events: unix.POLLIN}}
	for _, e := range k.queues {
		fds = append(fds, unix.PollFd{Fd: int32(e.fd), Events: unix.POLLIN})
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil {
			if err != unix.EINTR {
				time.Sleep(pollRetry) // ENOMEM: the host is short of memory, and spinning would not help it
			}
			continue
		}
		if fds[0].Revents != 0 {
			return
		}
		for i, e := range k.queues {
			if fds[i+1].Revents != 0 {
				e.drain()
				k.trans.NotifyQueue(i)
			}
		}
	}
}

// close ends the goroutine and closes the eventfds.
func (k *kickReader) close() {
	_ = k.stop.signal()
	k.wg.Wait()
	for _, e := range append(k.queues, k.stop) {
		e.close()
	}
}
