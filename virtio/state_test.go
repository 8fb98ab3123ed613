package virtio_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/hutchvm/hutch/virtio"
	"github.com/hutchvm/hutch/virtio/virtiotest"
)

// State survives JSON and a new transport goes on in the middle of the traffic.
func TestRestoreContinuesTheTraffic(t *testing.T) {
	for _, feat := range []uint64{0, virtio.FeatureRingEventIdx} {
		d, _, dq, q := start(t, feat, 8)
		buf := d.Alloc(8, 8)
		for range 5 {
			use(t, dq, q)
		}
		held := dq.Post(virtiotest.In(buf, 8))
		dq.Post(virtiotest.Out(buf, 8))
		if _, err := pop(t, q).WriteAt([]byte{1, 2}, 0); err != nil {
			t.Fatal(err)
		}
		js, err := json.Marshal(d.MMIO.State())
		if err != nil {
			t.Fatal(err)
		}
		var st virtio.MMIOState
		if err := json.Unmarshal(js, &st); err != nil {
			t.Fatal(err)
		}
		p2 := newProbe(8)
		m2 := virtio.NewMMIO(d.Mem, p2, nil)
		if err := m2.Restore(st); err != nil {
			t.Fatal(err)
		}
		if got := m2.State(); !equalState(st, got) {
			t.Errorf("restored %+v, want %+v", got, st)
		}
		q2 := p2.queues[0]
		out := q2.Outstanding(nil)
		if len(out) != 1 || out[0].Head() != held || out[0].WritableLen() != 8 {
			t.Fatalf("outstanding chains %v, want head %d", out, held)
		}
		if err := q2.AddUsed(held, 8); err != nil {
			t.Fatal(err)
		}
		if u, ok := dq.Collect(); !ok || u.Head != held || u.Len != 2 {
			t.Errorf("collected %v, %v, want head %d with 2 bytes", u, ok, held)
		}
		if pop(t, q2).ReadableLen() != 8 {
			t.Error("the second chain is not the one that was posted")
		}
	}
}

func TestRestoreRejectsBadState(t *testing.T) {
	d, _, dq, q := start(t, 0, 8)
	dq.Post(virtiotest.Out(ok, 4))
	pop(t, q)
	good := func() virtio.MMIOState { return d.MMIO.State() }
	for name, spoil := range map[string]func(*virtio.MMIOState){
		"queue count":        func(s *virtio.MMIOState) { s.Queues = append(s.Queues, virtio.QueueState{}) },
		"status bits":        func(s *virtio.MMIOState) { s.Status = 0x1ff },
		"no FEATURES_OK":     func(s *virtio.MMIOState) { s.Status = 7 },
		"interrupt bits":     func(s *virtio.MMIOState) { s.InterruptStatus = 4 },
		"unoffered features": func(s *virtio.MMIOState) { s.DriverFeatures |= 1 << 40 },
		"no VERSION_1":       func(s *virtio.MMIOState) { s.DriverFeatures = 0 },
		"size":               func(s *virtio.MMIOState) { s.Queues[0].Size = 3 },
		"size over max":      func(s *virtio.MMIOState) { s.Queues[0].Size = 16 },
		"address":            func(s *virtio.MMIOState) { s.Queues[0].Device = 2 },
		"outside":            func(s *virtio.MMIOState) { s.Queues[0].Desc = 1 << 63 },
		"head":               func(s *virtio.MMIOState) { s.Queues[0].InFlight[0].Head = 8 },
		"head twice":         func(s *virtio.MMIOState) { f := s.Queues[0].InFlight; s.Queues[0].InFlight = append(f, f[0]) },
		"written":            func(s *virtio.MMIOState) { s.Queues[0].InFlight[0].Written = 1 },
		"staged":             func(s *virtio.MMIOState) { s.Queues[0].NextUsed = 9 },
	} {
		st := good()
		spoil(&st)
		p := newProbe(8)
		m := virtio.NewMMIO(d.Mem, p, nil)
		if err := m.Restore(st); !errors.Is(err, virtio.ErrBadState) {
			t.Errorf("%s: Restore = %v, want ErrBadState", name, err)
		}
		if m.Status() != 0 || p.activations.Load() != 0 {
			t.Errorf("%s: something was left behind: status %#x", name, m.Status())
		}
	}
	if err := d.MMIO.Restore(good()); !errors.Is(err, virtio.ErrBadState) {
		t.Errorf("Restore into a running transport = %v, want ErrBadState", err)
	}
}
