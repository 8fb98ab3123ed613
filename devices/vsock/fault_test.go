//go:build unix

package vsock

import (
	"errors"
	"testing"
	"time"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// faultDevice is a started device with one accepted connection.
func faultDevice(t *testing.T) (d *Device, drv *virtiotest.Driver, c *Conn) {
	t.Helper()
	d, err := New(Config{GuestCID: testCID})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	l, err := d.Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	drv = virtiotest.New(t, d)
	c = startFault(t, drv, l.(*Listener))
	return d, drv, c
}

func startFault(t *testing.T, drv *virtiotest.Driver, l *Listener) *Conn {
	t.Helper()
	drv.Start(virtio.FeatureRingEventIdx)
	for range 8 {
		drv.Queue(queueRx).Post(virtiotest.In(drv.Alloc(4096, 8), 4096))
	}
	sendPacket(drv, guestPacket(OpRequest, 5, 1), nil)
	drv.Queue(queueRx).WaitUsed()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}

func sendPacket(drv *virtiotest.Driver, h *Header, payload []byte) {
	raw := make([]byte, HeaderSize)
	h.Len = uint32(len(payload))
	h.Encode(raw)
	drv.Queue(queueTx).Post(drv.AllocPut(append(raw, payload...)))
	drv.Queue(queueTx).Kick()
}

// TestPanicBreaksOnlyThisDevice injects a bug where the worker receives, where a
// writer sends, and where a timer fires (reliability row 33).
func TestPanicBreaksOnlyThisDevice(t *testing.T) {
	for _, in := range []struct {
		name string
		do   func(d *Device, drv *virtiotest.Driver, c *Conn)
	}{
		{"worker receives", func(d *Device, drv *virtiotest.Driver, c *Conn) {
			d.mu.Lock()
			c.ep.rx = nil
			d.mu.Unlock()
			sendPacket(drv, guestPacket(OpRW, 5, 1), []byte("x"))
		}},
		{"writer sends", func(d *Device, _ *virtiotest.Driver, c *Conn) {
			d.mu.Lock()
			d.mux.step(c.ep, event{kind: evWrite, n: 10}) // bytes that nobody has
			d.flushLocked()
			d.mu.Unlock()
		}},
		{"timer fires", func(d *Device, _ *virtiotest.Driver, _ *Conn) {
			d.mu.Lock()
			now := d.mux.now
			d.mux.now = func() time.Time { d.mux.now = now; panic("injected") }
			d.mu.Unlock()
			d.Notify(0)
		}},
	} {
		t.Run(in.name, func(t *testing.T) {
			d, drv, c := faultDevice(t)
			in.do(d, drv, c)
			for end := time.Now().Add(10 * time.Second); d.Err() == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the device still claims to be well")
				}
			}
			var fe *FaultError
			if !errors.As(d.Err(), &fe) || len(fe.Stack) == 0 {
				t.Errorf("Err = %v, want a FaultError with a stack", d.Err())
			}
			if got := d.Stats().Faults; got != 1 {
				t.Errorf("Faults = %d, want 1", got)
			}
			if drv.Status()&0x40 == 0 {
				t.Error("the driver does not see DEVICE_NEEDS_RESET")
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, ErrReset) {
				t.Errorf("Write: %v, want ErrReset", err)
			}
			drv.Reset()
			l := &Listener{d: d, b: d.mux.listen[1]}
			c = startFault(t, drv, l)
			if d.Err() != nil {
				t.Errorf("after a reset: %v", d.Err())
			}
			sendPacket(drv, guestPacket(OpRW, 5, 1), []byte("y"))
			p := make([]byte, 1)
			if _, err := c.Read(p); err != nil || p[0] != 'y' {
				t.Errorf("after a reset: read %q, %v", p, err)
			}
		})
	}
}

func TestActivateChecksItsQueues(t *testing.T) {
	d, err := New(Config{GuestCID: testCID})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Activate(0, nil, nil); err == nil {
		t.Error("activated without queues")
	}
	d.Reset() // never activated: harmless
	d.Reset()
	d.Close()
	if err := d.Activate(0, make([]*virtio.Queue, 3), nil); err == nil {
		t.Error("activated after Close")
	}
}
