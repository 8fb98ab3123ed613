package vsock

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestRingKeepsOrderAndBounds(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, size := range []int{1, 100, chunkSize - 1, chunkSize, chunkSize + 1, 5*chunkSize + 77} {
		b := newRing(size)
		var in, out byte
		held := 0
		for range 4000 {
			p := make([]byte, r.IntN(size+10))
			for i := range p {
				p[i] = in + byte(i)
			}
			n := b.write(p)
			if want := min(len(p), size-held); n != want {
				t.Fatalf("size %d with %d held: wrote %d of %d", size, held, n, len(p))
			}
			in += byte(n)
			held += n
			q := make([]byte, r.IntN(size+10))
			n = b.read(q)
			if want := min(len(q), held); n != want {
				t.Fatalf("size %d with %d held: read %d of %d", size, held, n, len(q))
			}
			for _, v := range q[:n] {
				if v != out {
					t.Fatalf("size %d: read %d, want %d", size, v, out)
				}
				out++
			}
			held -= n
			if b.len() != held || b.free() != size-held {
				t.Fatalf("len %d, free %d, want %d held of %d", b.len(), b.free(), held, size)
			}
			chunks := 0
			for _, c := range b.slots {
				if c != nil {
					chunks++
				}
			}
			if most := held/chunkSize + 2; chunks > most {
				t.Fatalf("%d chunks for %d bytes", chunks, held)
			}
		}
	}
}

func TestRingBetweenTwoGoroutines(t *testing.T) {
	b := newRing(3 * chunkSize)
	const total = 32 << 20
	done := make(chan bool)
	go func() {
		next := byte(0)
		for n := 0; n < total; {
			p := b.peek()
			for _, v := range p {
				if v != next {
					done <- false
					return
				}
				next++
			}
			b.consume(len(p))
			n += len(p)
		}
		done <- true
	}()
	p := make([]byte, 8192)
	for i := range p {
		p[i] = byte(i)
	}
	for n := 0; n < total; {
		k := b.write(p[n%256 : n%256+min(4096, total-n)])
		n += k
	}
	if !<-done {
		t.Error("bytes out of order")
	}
}

func TestRingNeverShowsOldBytes(t *testing.T) {
	c := chunkPool.Get().(*chunk)
	copy(c[:], bytes.Repeat([]byte{0xaa}, chunkSize))
	chunkPool.Put(c)
	b := newRing(100)
	b.write([]byte("abc"))
	if got := b.peek(); string(got) != "abc" {
		t.Errorf("peek %q", got)
	}
}

func BenchmarkRing(b *testing.B) {
	r := newRing(256 << 10)
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		r.write(p)
		r.read(p)
	}
}
