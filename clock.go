package mitm

import (
	"sync/atomic"
	"time"
)

// clock is shared by both directions of an exchange while content goes both ways: as long as one of
// them moves, the other is not stalled. It needs no timer: progress puts off the deadlines of both,
// seldom enough to cost nothing.
type clock struct {
	limit  time.Duration
	client *stream // nil: it speaks HTTP/2, which has a clock of its own
	origin atomic.Pointer[stream]
	final  atomic.Bool  // its answer has begun: until then ResponseTimeout counts there
	last   atomic.Int64 // when deadlines were put off, in Unix nanoseconds; 0: it does not run
}

// start is called when a head, of its answer if it is final, has come from the origin while content goes
// there still.
func (c *clock) start(origin *stream, final bool) {
	c.final.Store(final)
	c.origin.Store(origin)
	if c.limit > 0 {
		c.last.CompareAndSwap(0, 1)
	}
	c.tick()
}

// tick is called when something has moved.
func (c *clock) tick() {
	if c == nil || c.last.Load() == 0 {
		return
	}
	now, last := time.Now(), c.last.Load()
	if now.UnixNano()-last < int64(c.limit/16) || !c.last.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	by := now.Add(c.limit)
	if c.client != nil {
		c.client.putOffRead(by)
		c.client.putOffWrite(by)
	}
	if origin := c.origin.Load(); origin != nil {
		origin.putOffWrite(by)
		if c.final.Load() {
			origin.putOffRead(by)
		}
	}
}
