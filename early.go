package mitm

import (
	"context"
	"io"
	"sync"
	"time"
)

// prefixWait is how long a client that has begun something that could still become HTTP or
// TLS may stop in the middle of it, or not begin where its server has.
const prefixWait = 2 * time.Second

// earlyDial is an origin connection that is opened while the client is being read, and
// listened to until it is known who speaks first. What it has to wait for is done by
// goroutines, one after the other.
type earlyDial struct {
	ctx     context.Context
	cancel  context.CancelFunc
	origins *origins
	key     originKey
	conn    *Conn         // on whose behalf
	done    chan struct{} // closed when the latest goroutine has ended; nil: there was none
	taken   bool
	strict  bool // a server of HTTP does not speak first, however long its client is silent

	mu        sync.Mutex
	o         *origin
	err       error
	cut       error // what ended the connection before somebody took it
	turn      int   // counts who listens; whoever did before is through
	quiet     bool  // nobody listens for the origin any more
	listening bool
	spoken    bool // the client has begun to speak
	answered  bool // the origin has spoken, or ended
}

// newEarlyDial returns one that has not begun.
func newEarlyDial(ctx context.Context, origins *origins, key originKey, c *Conn) *earlyDial {
	e := &earlyDial{origins: origins, key: key, conn: c}
	e.ctx, e.cancel = context.WithCancel(ctx)
	return e
}

// begin dials, unless o is the connection, and listens for the origin if there is a client to
// stop. It does not say so by e.quiet: listenAgain may come before the dial is through.
func (e *earlyDial) begin(client *stream, o *origin) {
	e.set(o, nil)
	key, c, turn := e.key, e.conn, e.turn
	e.then(func() {
		if o == nil {
			e.set(e.origins.dial(e.ctx, key, c))
		}
		if client != nil {
			e.listen(client, turn)
		}
	})
}

// begun reports whether there is or will be a connection.
func (e *earlyDial) begun() bool { return e.done != nil }

// then runs f in a goroutine of its own when what began before is through.
func (e *earlyDial) then(f func()) {
	before, done := e.done, make(chan struct{})
	e.done = done
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		f()
	}()
}

func (e *earlyDial) set(o *origin, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.o, e.err = o, err
}

func (e *earlyDial) get() (*origin, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.o, e.err
}

// startTLS goes on with a handshake on the connection that exists or is dialled.
func (e *earlyDial) startTLS(key originKey, c *Conn) {
	e.stopListening()
	e.key, e.conn = key, c
	e.then(func() {
		if o, err := e.get(); err == nil {
			o.s.resume()
			e.set(e.origins.secure(e.ctx, o, key, c))
		}
	})
}

// listenAgain listens to the origin once more, inside TLS.
func (e *earlyDial) listenAgain(client *stream) {
	e.mu.Lock()
	e.turn++
	e.quiet, e.spoken, e.answered = false, false, false
	turn := e.turn
	e.mu.Unlock()
	e.then(func() { e.listen(client, turn) })
}

// listen waits for the origin to speak and then stops the reading of the client.
func (e *earlyDial) listen(client *stream, turn int) {
	o := e.startListening(turn)
	isHTTP, cut := false, error(nil)
	if o != nil {
		isHTTP, cut = hear(o.s)
	}
	if isHTTP && !e.strict {
		o.s.readWithin(prefixWait) // it does not wait for the client, who is to speak all the same
		cut = o.s.fill(bufferSize)
	}
	if cut != nil && o.s.isLoop() {
		cut = ErrLoop
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listening = false
	stopped := e.quiet || e.turn != turn
	if isTimeout(cut) && stopped || isHTTP && e.strict {
		return
	}
	if isTimeout(cut) {
		cut = nil
	}
	if e.turn == turn {
		e.answered = o != nil
	}
	if cut != io.EOF { // an end is met again by who reads next, an error is not
		e.cut = cut
	}
	if !stopped && (o != nil || !e.spoken) {
		client.interrupt()
	}
}

// hear reads until it is known whether what a server says first is HTTP. For that its beginning, if it
// is no more than that, may take a while.
func hear(s *stream) (isHTTP bool, err error) {
	if len(s.buffered()) == 0 { // of what another proxy has connected something may be there
		err = s.fill(bufferSize)
	}
	for patient := false; err == nil && maySpeakHTTP(s.buffered()); err = s.fill(bufferSize) {
		if !patient {
			s.readWithin(prefixWait)
			patient = true
		}
	}
	return err == nil && speaksHTTP(s.buffered()), err
}

// maySpeakHTTP reports whether more bytes could make b what speaksHTTP is about.
func maySpeakHTTP(b []byte) bool {
	const version, settings = "http/1.", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if len(b) < len(version) && equalFold(b, version[:len(b)]) {
		return true
	}
	frame := append(b[:len(b):len(b)], settings[min(len(b), len(settings)):]...)
	return len(b) < len(settings) && b[0] == 0 && (len(b) < 3 || isSettings(frame))
}

// speaksHTTP reports whether b is what an HTTP server may send unasked: its SETTINGS, or a response
// such as 408 (Request Timeout).
func speaksHTTP(b []byte) bool { return isSettings(b) || hasFoldPrefix(b, "http/1.") }

// isSettings reports whether b begins with a SETTINGS frame, as what a server says in HTTP/2 does
// (RFC 9113, sections 3.4 and 4.1).
func isSettings(b []byte) bool {
	const header, settings, setting = 9, 4, 6
	if len(b) < header || b[3] != settings || b[4] != 0 {
		return false
	}
	size := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	return size%setting == 0 && b[5]|b[6]|b[7]|b[8] == 0
}

// clientSpeaks is told that the client has begun with a ClientHello. If that is of use
// without the origin, a dial that fails no longer stops its reading. It returns false if there
// is no use in reading on.
func (e *earlyDial) clientSpeaks(useful bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spoken = useful
	return !e.answered && (useful || e.err == nil)
}

// hasSpoken reports whether the origin has sent something that it was not asked for.
func (e *earlyDial) hasSpoken() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.answered && len(e.o.s.buffered()) > 0
}

// broken returns the error by which the origin has ended the connection, or nil.
func (e *earlyDial) broken() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cut
}

// hasEnded reports whether the origin has ended the connection without a word.
func (e *earlyDial) hasEnded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.answered && len(e.o.s.buffered()) == 0
}

// startListening returns the connection to listen to, nil if there is nothing to hear.
func (e *earlyDial) startListening(turn int) *origin {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.quiet || e.turn != turn || e.err != nil {
		return nil
	}
	e.listening = true
	e.o.s.resume() // stopListening may have stopped another turn
	return e.o
}

// dialFailed reports whether there is nobody to speak: no connection, or one whose TLS was ended
// by an alert, as that of an origin which misses a certificate of ours.
func (e *earlyDial) dialFailed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err != nil || e.cut != nil && e.o.state != nil
}

// stopListening leaves the origin alone; a dial, or a handshake, goes on.
func (e *earlyDial) stopListening() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.quiet = true
	if e.listening {
		e.o.s.interrupt()
	}
}

// wait waits for the origin to be connected, and from then on for the rest, but not for
// longer than that is worth. It returns nil if the origin is not there, or not yet.
func (e *earlyDial) wait(connected, rest time.Duration) *origin {
	timer := time.NewTimer(connected)
	defer timer.Stop()
	for again := false; ; again = true {
		select {
		case <-e.done:
			o, _ := e.get()
			return o
		case <-timer.C:
			if o, _ := e.get(); o == nil || again {
				return nil
			}
			timer.Reset(rest)
		}
	}
}

// take waits for the connection, which is dialled now if nobody did before, and hands it
// over, once.
func (e *earlyDial) take() (*origin, error) {
	if e.taken {
		return nil, e.err
	}
	e.taken = true
	e.stopListening()
	if !e.begun() {
		e.begin(nil, nil)
	}
	<-e.done
	e.cancel()
	if e.err != nil {
		return nil, e.err
	}
	e.o.s.resume()
	return e.o, nil
}

// takeHTTP is take for a request, which may be one of many: what is taken ends with the client no
// more. It returns nothing if the origin was offered HTTP/2 alone and refused that: who asks may
// have more to offer.
func (e *earlyDial) takeHTTP() (*origin, error) {
	o, err := e.take()
	if isNoProtocol(err) && e.key.alpn == protoHTTP2 {
		return nil, nil
	}
	if o != nil {
		e.origins.detach(o)
	}
	return o, err
}

// close ends a connection that nobody took.
func (e *earlyDial) close() {
	if o := e.leftover(); o != nil {
		e.origins.close(o)
	}
}

// reset is close with a reset.
func (e *earlyDial) reset() {
	if o := e.leftover(); o != nil {
		e.origins.detach(o)
		o.s.reset()
	}
}

// leftover returns the connection if there is one that nobody took.
func (e *earlyDial) leftover() (o *origin) {
	e.cancel()
	if e.begun() {
		o, _ = e.take()
	}
	return o
}
