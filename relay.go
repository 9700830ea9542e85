package mitm

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// errIdle ends a tunnel in which neither side sent anything for too long.
var errIdle = errors.New("idle for too long")

// errUntold ends a tunnel whose client has ended its sending side, if the origin can't be sent that
// end without closing the whole connection: the origin may have had more to send.
var errUntold = errors.New("the client has sent its last byte, but the connection to the origin can't be half closed")

// How long the other direction may be silent if an end can't be passed on alone. A server that has
// ended its side has most often finished, and its client waits for the end; a client that has ended
// its side may wait for an answer.
const (
	originEnded = time.Second
	clientEnded = 30 * time.Second
)

// A direction that moves bulk bytes within a paceTick gets a pipe, and keeps it for as long as
// that goes on. How much single reads bring says nothing: a relay that keeps up with its peer
// sees pieces as small as those that the peer writes.
const (
	paceTick = 250 * time.Millisecond
	bulk     = 256 << 10
	// relayChunk bounds one call, so that counts stay alive: what a pipe of package net holds,
	// since with less the kernel is asked more often, for a third more of processor time.
	relayChunk = 1 << 20
)

// relay moves bytes between two connections, both ways, until both directions have
// ended. It looks at nothing. While nothing flows it holds no buffer and no pipe.
type relay struct {
	near, far *stream       // the client and the origin
	idle      time.Duration // neither direction moves for so long; 0 or less: no limit
	up, down  *atomic.Int64 // bytes to the origin and to the client, live

	last    atomic.Int64          // when something moved, in Unix nanoseconds
	writing atomic.Int32          // directions that are writing, and may wait for a receiver
	timer   *alarm                // nil: no limit
	acked   uint64                // bytes that the peers have acknowledged, when the timer looked
	owed    atomic.Pointer[owed]  // an end that could not be passed on alone
	failure atomic.Pointer[error] // the first one; of nil if nothing is wrong but the end
}

// owed is an end that dst was not told: what else comes from there is read, until it is silent.
type owed struct {
	dst, src *stream
	silence  time.Duration
	err      error // that the tunnel ends with then
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
	r.timer.stop()
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
	if r.idle > 0 {
		r.startTimer(r.idle)
	}
}

func (r *relay) startTimer(d time.Duration) {
	r.timer = newAlarm(d, func() time.Duration {
		rest := r.rest()
		if rest <= 0 {
			r.expire()
		}
		return rest
	})
}

// rest is how long the tunnel may stay as it is. What is being written counts only when all of it
// is taken, which a slow receiver does not do in time; it lives if it acknowledges some of it.
func (r *relay) rest() time.Duration {
	idle := r.idle
	if o := r.owed.Load(); o != nil && (idle <= 0 || o.silence < idle) {
		idle = o.silence
	}
	rest := idle - time.Since(time.Unix(0, r.last.Load()))
	if rest > 0 || r.writing.Load() == 0 {
		return rest
	}
	acked := r.near.acked() + r.far.acked()
	if acked == r.acked {
		return 0
	}
	r.acked = acked
	return idle
}

// expire ends what was silent for too long.
func (r *relay) expire() {
	o := r.owed.Load()
	if o == nil {
		r.fail(errIdle)
		return
	}
	if r.failure.CompareAndSwap(nil, &o.err) {
		o.src.reset() // what it may still have taken is cut off
		o.dst.close()
	}
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
	switch {
	case err == io.EOF && dst.closeWrite() == errNoHalfClose: // if dst is gone, the other direction notices
		r.owe(dst, src)
	case err == io.EOF:
	case isSendError(err) == (dst == r.near):
		r.fail(clientGone(err))
	default:
		r.fail(err)
	}
}

// owe goes on for as long as the other direction moves, where the end of src can't be passed on.
func (r *relay) owe(dst, src *stream) {
	o := &owed{dst: dst, src: src, silence: originEnded}
	if src == r.near {
		o.silence, o.err = clientEnded, errUntold
	}
	if !r.owed.CompareAndSwap(nil, o) {
		return // both have ended
	}
	if r.idle > 0 {
		r.timer.reset(min(r.idle, o.silence))
	} else {
		r.startTimer(o.silence)
	}
}

func (r *relay) copy(dst, src *stream, count *atomic.Int64) error {
	for p := startPace(time.Now()); ; {
		if p.sum >= bulk && canSplice(dst, src) {
			if err := r.splice(dst, src, count); err != nil {
				return err
			}
			p = startPace(time.Now())
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
		r.writing.Add(1)
		n, err := dst.out.Write(src.buffered())
		r.writing.Add(-1)
		if err != nil {
			return &sendError{err}
		}
		src.discard(n)
		src.release()
		now := r.moved(count, int64(n))
		if p.over(now) {
			p = startPace(now)
		}
		p.sum += int64(n)
	}
}

// splice lets the kernel move bytes for as long as many come.
func (r *relay) splice(dst, src *stream, count *atomic.Int64) error {
	defer src.nc.SetReadDeadline(time.Time{})
	for now := time.Now(); ; {
		p := startPace(now)
		src.nc.SetReadDeadline(p.end) // so that what takes longer is writing
		for !p.over(now) {
			r.writing.Add(1)
			n, err := spliceSome(dst, src, relayChunk)
			r.writing.Add(-1)
			now = r.moved(count, n)
			p.sum += n
			if n == 0 && err == nil {
				return io.EOF
			}
			if err != nil && !isTimeout(err) && !src.broken() {
				return &sendError{err}
			}
			if err != nil && !isTimeout(err) {
				return err
			}
		}
		if p.sum < bulk {
			return nil
		}
	}
}

// moved counts n bytes and returns the time.
func (r *relay) moved(count *atomic.Int64, n int64) time.Time {
	now := time.Now()
	count.Add(n)
	r.last.Store(now.UnixNano())
	return now
}

// pace is what a direction moved within a tick.
type pace struct {
	end time.Time
	sum int64
}

func startPace(now time.Time) pace { return pace{end: now.Add(paceTick)} }

func (p *pace) over(now time.Time) bool { return !now.Before(p.end) }
