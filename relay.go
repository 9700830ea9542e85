package mitm

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// errIdle ends a tunnel in which neither side sent anything for too long.
var errIdle = errors.New("idle for too long")

const (
	// bulkReads is how many full buffers in a row make a direction worth a pipe.
	bulkReads = 2
	// spliceTick is how often a direction that is spliced is looked at, and slowTick
	// what it must move in that time to keep its pipe.
	spliceTick = 250 * time.Millisecond
	slowTick   = 256 << 10
)

// relay moves bytes between two connections, both ways, until both directions have
// ended. It looks at nothing. While nothing flows it holds no buffer and no pipe.
type relay struct {
	near, far *stream       // the client and the origin
	idle      time.Duration // neither direction moves for so long; 0 or less: no limit
	up, down  *atomic.Int64 // bytes to the origin and to the client, live

	last    atomic.Int64 // when something moved, in Unix nanoseconds
	timer   *time.Timer
	failure atomic.Pointer[error] // the first one
}

// run returns when both directions are through and both connections are closed: nil
// after an orderly end of both, else what went wrong first.
func (r *relay) run() error {
	for _, s := range [...]*stream{r.near, r.far} {
		s.resume()
		s.writeWithin(0)
	}
	r.watchIdle()
	down := make(chan struct{})
	go func() {
		defer close(down)
		r.direction(r.near, r.far, r.down)
	}()
	r.direction(r.far, r.near, r.up)
	<-down
	if r.timer != nil {
		r.timer.Stop()
	}
	r.near.close()
	r.far.close()
	if err := r.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// watchIdle arms one timer for both directions. It looks at the clock only when the
// limit could have been reached.
func (r *relay) watchIdle() {
	r.last.Store(time.Now().UnixNano())
	if r.idle <= 0 {
		return
	}
	armed := make(chan struct{})
	r.timer = time.AfterFunc(r.idle, func() {
		<-armed
		rest := r.idle - time.Since(time.Unix(0, r.last.Load()))
		if rest > 0 {
			r.timer.Reset(rest)
			return
		}
		r.fail(errIdle)
	})
	close(armed)
}

// fail resets both connections, so that neither side takes the end for a clean one.
func (r *relay) fail(err error) {
	if r.failure.CompareAndSwap(nil, &err) {
		r.near.reset()
		r.far.reset()
	}
}

// direction moves bytes from src to dst and passes the end on.
func (r *relay) direction(dst, src *stream, count *atomic.Int64) {
	defer src.drop()
	err := r.copy(dst, src, count)
	if err == io.EOF {
		dst.closeWrite() // if dst is gone, the other direction notices
		return
	}
	r.fail(err)
}

func (r *relay) copy(dst, src *stream, count *atomic.Int64) error {
	for full := 0; ; {
		if full == bulkReads && canSplice(dst, src) {
			full = 0
			if err := r.splice(dst, src, count); err != nil {
				return err
			}
		}
		if len(src.buffered()) == 0 {
			err := src.fill(bufferSize)
			if err == io.EOF && src.endedOpen() {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return err
			}
		}
		n, err := dst.nc.Write(src.buffered())
		if err != nil {
			return err
		}
		src.discard(n)
		src.release()
		r.moved(count, int64(n))
		if full++; n < bufferSize {
			full = 0
		}
	}
}

// splice lets the kernel move bytes for as long as many come.
func (r *relay) splice(dst, src *stream, count *atomic.Int64) error {
	defer src.nc.SetReadDeadline(time.Time{})
	for sum, tick := int64(0), time.Now(); ; {
		if time.Since(tick) >= spliceTick {
			if sum < slowTick {
				return nil
			}
			sum, tick = 0, time.Now()
		}
		src.nc.SetReadDeadline(tick.Add(spliceTick))
		n, err := spliceSome(dst, src, spliceChunk)
		r.moved(count, n)
		sum += n
		if n == 0 && err == nil {
			return io.EOF
		}
		if err != nil && !isTimeout(err) {
			return err
		}
	}
}

func (r *relay) moved(count *atomic.Int64, n int64) {
	count.Add(n)
	r.last.Store(time.Now().UnixNano())
}
