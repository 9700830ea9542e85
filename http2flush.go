package mitm

import (
	"net/http"
	"time"
)

// flushAfter is how long the beginning of a response may wait for what goes out with it. It is
// less than what anybody notices, and enough for what is on its way here already.
const flushAfter = time.Millisecond

// lateFlusher writes the content of a response of HTTP/2, for which each flush costs a frame, a TLS
// record and a system call. Whether the source, or what hooks do at the end, has to be waited for
// can't be asked, so a timer tells: what was written before it ran out is flushed then, and from
// then on every piece is.
type lateFlusher struct {
	w     http.ResponseWriter
	turn  chan struct{} // holds a token while w is used; a mutex would stop the clock of synctest
	timer *alarm
	slow  bool // the timer has run out
	ended bool
	err   error // of a flush
}

func newLateFlusher(w http.ResponseWriter) *lateFlusher {
	f := &lateFlusher{w: w, turn: make(chan struct{}, 1)}
	f.timer = after(flushAfter, f.late)
	return f
}

func (f *lateFlusher) lock()   { f.turn <- struct{}{} }
func (f *lateFlusher) unlock() { <-f.turn }

// pause is called before the source is asked for more, which may take its time.
func (f *lateFlusher) pause() error {
	f.lock()
	defer f.unlock()
	if f.slow {
		f.flush()
	}
	return f.err
}

// late is called by the timer.
func (f *lateFlusher) late() {
	f.lock()
	defer f.unlock()
	if !f.ended {
		f.slow = true
		f.flush()
	}
}

func (f *lateFlusher) flush() {
	if err := http.NewResponseController(f.w).Flush(); err != nil && f.err == nil {
		f.err = &sendError{err}
	}
}

// Write implements io.Writer.
func (f *lateFlusher) Write(p []byte) (int, error) {
	f.lock()
	defer f.unlock()
	n, err := f.w.Write(p)
	if err != nil {
		err = &sendError{err}
	}
	return n, err
}

// flushNow sends what was written, because it is all that there will be.
func (f *lateFlusher) flushNow() {
	f.lock()
	defer f.unlock()
	f.flush()
}

// end leaves w to net/http, which sends what is left.
func (f *lateFlusher) end() {
	f.lock()
	f.ended = true
	f.unlock()
	f.timer.stop()
}

// endFlush is called when nothing is written any more. Until then hooks may take their time.
func (x *http2Exchange) endFlush() {
	if x.out != nil {
		x.out.end()
	}
}
