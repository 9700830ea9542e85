package mitm

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// All that was written before close goes out, in order, with the last of it too.
func TestBatchWriter(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		near, far := net.Pipe()
		b := newBatchWriter(newStream(near), time.Minute, time.Minute)
		var sent bytes.Buffer
		received := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(slowReader{far})
			received <- all
		}()
		for range 40 {
			p := bytes.Repeat([]byte{byte(rnd.Uint32())}, 1+rnd.IntN(1<<rnd.IntN(18)))
			sent.Write(p)
			if n, err := b.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		b.close()
		if got := <-received; !bytes.Equal(got, sent.Bytes()) {
			t.Errorf("seed %d: %d bytes, want %d, or other ones", seed, len(got), sent.Len())
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
}

// slowReader reads little at a time.
type slowReader struct{ io.Reader }

func (r slowReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1000)]) }

// A peer that takes nothing makes writers wait, then fail, and resets the connection. After close
// it has less time.
func TestBatchWriterStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		b := newBatchWriter(newStream(near), time.Minute, time.Second)
		start := time.Now()
		n, err := b.Write(make([]byte, 1<<20))
		if d := time.Since(start); d < time.Minute*15/16 || d > 2*time.Minute || !isTimeout(err) || n > 2*bufferSize {
			t.Errorf("%d bytes, %v after %v", n, err, d)
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the other end: %v", err)
		}
		near, _ = net.Pipe()
		b = newBatchWriter(newStream(near), time.Minute, time.Second)
		b.Write([]byte("x"))
		start = time.Now()
		b.close()
		if b.wait(); time.Since(start) != time.Second {
			t.Errorf("closed after %v", time.Since(start))
		}
	})
}
