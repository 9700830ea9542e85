package mitm

import "time"

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
}

// arm starts watching once the exchange turns out to be slow.
func (w *watch) arm() {
	if w.timer == nil {
		w.ended = make(chan struct{}, 1)
		w.timer = time.AfterFunc(slowAfter, w.run)
		return
	}
	w.timer.Reset(slowAfter)
}

// disarm stops it. Bytes that were read ahead are in the client's buffer.
func (w *watch) disarm() {
	if w.timer.Stop() {
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
		case err != errFull && !isTimeout(err):
			w.gone()
		}
		return
	}
}
