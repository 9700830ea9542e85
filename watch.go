package mitm

import (
	"io"
	"sync"
	"time"
)

// slowAfter is when an exchange is slow enough to look whether its client still waits.
const slowAfter = 100 * time.Millisecond

// watch notices a client that leaves while its request is worked on. It reads ahead, so
// it runs only while nobody else reads from the client. An end counts as leaving: a
// client that wants its response keeps its sending side open (as net/http has it too).
type watch struct {
	s     *stream // the client
	gone  func()  // ends all that is done for the client
	timer *time.Timer
	ended chan struct{} // a token for every run that the timer began

	halfClose bool // an end does not count: a tunnel passes it on

	mu    sync.Mutex // a hook may send requests from several goroutines
	armed bool
}

// arm starts watching once the exchange turns out to be slow.
func (w *watch) arm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.armed:
	case w.timer == nil:
		w.ended = make(chan struct{}, 1)
		w.timer = time.AfterFunc(slowAfter, w.run)
	default:
		w.timer.Reset(slowAfter)
	}
	w.armed = true
}

// isArmed reports whether nobody else may read from the client.
func (w *watch) isArmed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.armed
}

// disarm stops it, if it was armed. Bytes that were read ahead are in the client's buffer.
func (w *watch) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	armed := w.armed
	w.armed = false
	if !armed || w.timer.Stop() {
		return
	}
	w.s.interrupt()
	<-w.ended
	w.s.resume()
}

func (w *watch) run() {
	defer func() { w.ended <- struct{}{} }()
	w.look()
}

// look returns when it is interrupted, when the buffer is full, or when the client is
// gone, which ends all that is done for it.
func (w *watch) look() {
	w.s.readWithin(0)
	for {
		err := w.s.fill(bufferSize)
		switch {
		case err == nil:
			continue
		case err != errFull && !isTimeout(err) && !(err == io.EOF && w.halfClose):
			w.gone()
		}
		return
	}
}
