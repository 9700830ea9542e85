package mitm

import (
	"net"
	"runtime"
	"sync"
	"time"
)

// closeGrace is how long what was written before a connection is closed may take to go out.
const closeGrace = time.Second

// batchWriter writes to a stream from a goroutine of its own, which runs while there is something
// to write. What comes while a write is on its way goes with the next one: streams of HTTP/2 that
// share a connection write small frames one by one. It holds no more than one buffer besides the
// one that is being written, and none when it rests.
type batchWriter struct {
	s    *stream
	idle time.Duration // how long the write of a buffer may take

	mu      sync.Mutex
	changed sync.Cond // of what follows
	buf     []byte    // what is not being written yet; nil: nothing
	busy    bool      // the goroutine runs
	err     error     // of an earlier write, or net.ErrClosed
}

func newBatchWriter(s *stream, idle time.Duration) *batchWriter {
	b := &batchWriter{s: s, idle: idle}
	b.changed.L = &b.mu
	return b
}

// Write implements io.Writer. It waits while the buffer is full; an error is that of an earlier
// write.
func (b *batchWriter) Write(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < len(p) {
		for b.err == nil && b.buf != nil && len(b.buf) == cap(b.buf) {
			b.changed.Wait()
		}
		if b.err != nil {
			return n, b.err
		}
		if b.buf == nil {
			b.buf = takeBuffer()[:0]
		}
		piece := p[n:min(len(p), n+cap(b.buf)-len(b.buf))]
		b.buf = append(b.buf, piece...)
		n += len(piece)
		if !b.busy {
			b.busy = true
			go b.run()
		}
	}
	return n, nil
}

// run writes until there is nothing left. After an error the stream is reset, so that whoever
// reads from it learns that.
func (b *batchWriter) run() {
	runtime.Gosched() // for the frames that follow the first one
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buf != nil {
		if err := b.writeOut(); err != nil {
			b.s.reset()
			b.drop(err)
		}
	}
	b.busy = false
	b.changed.Broadcast()
}

// writeOut writes what is there, while others may add more.
func (b *batchWriter) writeOut() error {
	p := b.buf
	b.buf = nil
	b.changed.Broadcast()
	b.mu.Unlock()
	defer b.mu.Lock()
	defer giveBuffer(p)
	b.s.writeWithin(b.idle)
	_, err := b.s.out.Write(p)
	return err
}

// drop makes all writes fail.
func (b *batchWriter) drop(err error) {
	if b.err == nil {
		b.err = err
	}
	if b.buf != nil {
		giveBuffer(b.buf)
		b.buf = nil
	}
}

// close returns when everything is written, or soon, and takes no more.
func (b *batchWriter) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.busy {
		b.s.hurry(closeGrace)
	}
	for b.busy {
		b.changed.Wait()
	}
	b.drop(net.ErrClosed)
}
