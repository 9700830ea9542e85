package mitm

import (
	"cmp"
	"net"
	"runtime"
	"sync"
	"time"
)

// batchWriter writes to a stream from a goroutine of its own, which runs while there is something
// to write. What comes while a write is on its way goes with the next one: streams of HTTP/2 that
// share a connection write small frames one by one. It holds no more than one buffer besides the
// one that is being written, and none when it rests.
type batchWriter struct {
	s      *stream
	idle   time.Duration // how long the write of a buffer may take
	linger time.Duration // how long what is not written when the stream is closed may take

	mu      sync.Mutex
	changed sync.Cond // of what follows
	buf     []byte    // what is not being written yet; nil: nothing
	busy    bool      // the goroutine runs
	closed  bool
	late    *alarm // after linger
	err     error  // of an earlier write
}

func newBatchWriter(s *stream, idle, linger time.Duration) *batchWriter {
	b := &batchWriter{s: s, idle: idle, linger: linger}
	b.changed.L = &b.mu
	return b
}

// Write implements io.Writer. It waits while the buffer is full; an error is that of an earlier
// write.
func (b *batchWriter) Write(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < len(p) {
		for b.err == nil && !b.closed && b.buf != nil && len(b.buf) == cap(b.buf) {
			b.changed.Wait()
		}
		switch {
		case b.err != nil:
			return n, b.err
		case b.closed:
			return n, net.ErrClosed
		case b.buf == nil:
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
// reads from it learns that. What may take its time is done without the lock.
func (b *batchWriter) run() {
	runtime.Gosched() // for the frames that follow the first one
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buf != nil {
		b.writeOut()
	}
	if b.closed {
		late := b.late
		b.unlocked(func() {
			b.s.close()
			late.stop()
		})
	} else {
		b.s.writeWithin(0) // TLS has something of its own to write at times
	}
	b.busy = false
	b.changed.Broadcast()
}

// writeOut writes what is there, while others may add more.
func (b *batchWriter) writeOut() {
	p := b.buf
	b.buf = nil
	b.changed.Broadcast()
	var err error
	b.unlocked(func() {
		b.s.writeWithin(b.idle)
		_, err = b.s.out.Write(p)
	})
	giveBuffer(p)
	if err == nil {
		return
	}
	if b.err = err; b.buf != nil {
		giveBuffer(b.buf)
		b.buf = nil
	}
	b.unlocked(b.s.reset)
}

func (b *batchWriter) unlocked(f func()) {
	b.mu.Unlock()
	defer b.mu.Lock()
	f()
}

// close closes the stream, at once or when all is written. It does not wait for that, see wait.
func (b *batchWriter) close() error {
	if b.seal() {
		return nil
	}
	return b.s.close()
}

// seal takes no more, and reports whether there is something that is being written yet.
func (b *batchWriter) seal() (busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.busy && !b.closed {
		b.late = after(b.linger, b.s.reset)
	}
	b.closed = true
	b.changed.Broadcast()
	return b.busy
}

// wait returns when the goroutine has ended.
func (b *batchWriter) wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.busy {
		b.changed.Wait()
	}
}

// cause returns the error of a write, after which the stream was reset, or else err.
func (b *batchWriter) cause(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.err, err)
}
