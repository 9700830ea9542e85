package mitm

import (
	"context"
	"io"
	"sync"
)

// earlyDial is an origin connection that is opened while the client is being read, and
// listened to until it is known who speaks first.
type earlyDial struct {
	done    chan struct{} // closed when the goroutine has ended
	cancel  context.CancelFunc
	origins *origins
	taken   bool

	mu    sync.Mutex
	o     *origin
	err   error
	cut   error // what ended the connection before somebody took it
	quiet bool  // nobody listens for the origin any more
}

// newEarlyDial begins; o is the connection if it exists already.
func newEarlyDial(ctx context.Context, client *stream, origins *origins, key originKey, o *origin) *earlyDial {
	ctx, cancel := context.WithCancel(ctx)
	e := &earlyDial{done: make(chan struct{}), cancel: cancel, origins: origins, o: o}
	go func() {
		defer close(e.done)
		if o == nil {
			e.set(origins.dial(ctx, key))
		}
		e.listen(client)
	}()
	return e
}

func (e *earlyDial) set(o *origin, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.o, e.err = o, err
}

// listen waits for the origin to speak and then stops the reading of the client.
func (e *earlyDial) listen(client *stream) {
	e.mu.Lock()
	quiet, err := e.quiet, e.err
	e.mu.Unlock()
	if quiet {
		return
	}
	var cut error
	if err == nil {
		if cut = e.o.s.fill(bufferSize); isTimeout(cut) {
			return // stopListening
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if cut != io.EOF { // an end is met again by who reads next, an error is not
		e.cut = cut
	}
	if !e.quiet {
		client.interrupt()
	}
}

func (e *earlyDial) dialFailed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err != nil
}

// stopListening leaves the origin alone; a dial goes on.
func (e *earlyDial) stopListening() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.quiet = true
	if e.o != nil {
		e.o.s.interrupt()
	}
}

// take waits for the dial and hands the connection over, once.
func (e *earlyDial) take() (*origin, error) {
	if e.taken {
		return nil, e.err
	}
	e.taken = true
	e.stopListening()
	<-e.done
	e.cancel()
	if e.err != nil {
		return nil, e.err
	}
	e.o.s.resume()
	return e.o, nil
}

// close ends a connection that nobody took.
func (e *earlyDial) close() {
	e.cancel()
	if o, _ := e.take(); o != nil {
		e.origins.close(o)
	}
}

// reset is close with a reset.
func (e *earlyDial) reset() {
	e.cancel()
	if o, _ := e.take(); o != nil {
		e.origins.detach(o)
		o.s.reset()
	}
}
