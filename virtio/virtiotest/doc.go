// Package virtiotest plays the driver: it negotiates with a virtio device
// through its register window, lays out virtqueues in fake guest RAM, makes
// buffers available and collects used ones. All device tests use it.
//
// A test of a device in ten lines:
//
//	d := virtiotest.New(t, dev)           // 16 MiB of RAM, an MMIO transport
//	d.Start(virtio.FeatureRingEventIdx)   // negotiate, set up all queues, DRIVER_OK
//	buf := d.Alloc(64, 8)
//	head := d.Queue(0).Post(d.AllocPut(header), virtiotest.In(buf, 64))
//	d.Queue(0).Kick()
//	u := d.Queue(0).WaitUsed()            // {Head: head, Len: ...}
//	got := d.Bytes(buf, int(u.Len))
//
// The RAM lies between two inaccessible pages, so that a device which reaches
// outside crashes the test. It is mapped, not allocated: the race detector does
// not watch it, as it would not watch a real guest.
//
// A test that wants a hostile driver writes descriptors and indices itself:
// Queue.SetDesc, Queue.SetAvail, Queue.SetAvailIdx, Driver.Write32.
package virtiotest
