package mitm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// joinUpload waits for an upload that is through with content that a hook put in place,
// so that the client's own can be read. Nothing is left of it where it was sent itself.
func (t *hookedTrip) joinUpload() bool {
	if src, ok := t.source.(*readerSource); !ok || src.direct != nil {
		return !ok
	}
	if !t.mu.TryLock() {
		return false
	}
	defer t.mu.Unlock()
	if t.goesOn() {
		return false
	}
	joined := t.join()
	t.control.close = t.control.close || !joined
	return joined
}

// uploads reports whether the client's content itself was left to an upload.
func (t *hookedTrip) uploads() bool {
	if t == nil || t.uploaded == nil {
		return false
	}
	src, ok := t.source.(*readerSource)
	return ok && src.direct != nil
}

// closeTrips gives up the responses that hooks replaced or forgot, even if one is being
// read.
func (h *hookedExchange) closeTrips() {
	for t := h.lastReturned(); t != nil; t = t.previous {
		if h.isRunning(t) {
			continue
		}
		if !t.mu.TryLock() {
			t.giveUp()
			t.mu.Lock()
		}
		if t.close(); t.o != nil {
			t.settle(false)
		}
		t.mu.Unlock()
	}
}

// lastReturned is the last call of the engine that has returned, or nil.
func (h *hookedExchange) lastReturned() *hookedTrip {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.last
	for t != nil && t.running {
		t = t.previous
	}
	return t
}

func (h *hookedExchange) isRunning(t *hookedTrip) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return t.running
}

// endTrips stops calls of the engine that hooks have left running, and waits for them: they
// may be reading from the client. Its connection serves no other request then, see busy.
func (h *hookedExchange) endTrips() {
	h.refuse()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cancel := range h.streams {
		cancel(errOver)
	}
	if h.running > 0 {
		h.origins.cut(errOver)
	}
	for h.running > 0 {
		h.returned.Wait()
	}
}

// refuse makes calls of the engine that begin later fail.
func (h *hookedExchange) refuse() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asker = nil
}

// streamContext returns the context of an HTTP/2 stream to an origin: that of req, which may be a
// hook's, and it ends with the exchange.
func (h *hookedExchange) streamContext(req *http.Request) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(req.Context())
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams = append(h.streams, cancel); h.asker == nil {
		cancel(errOver)
	}
	return ctx, cancel
}

// hookedTrip is one call of the engine's RoundTrip, and the body of its response.
type hookedTrip struct {
	trip
	h         *hookedExchange
	far       *side         // of the exchange, until its end, or own
	res       http.Response // what came in HTTP/1
	room      fieldRoom
	mu        sync.Mutex // held by whoever reads the body
	closed    bool
	running   bool                    // it has not returned; guarded by h.mu
	cut       bool                    // conn was reset; guarded by connMu
	endStream context.CancelCauseFunc // in HTTP/2
	failure   atomic.Pointer[error]   // in HTTP/2: what the content of the response ended in

	up *http2Upload // in HTTP/2, if the request has content

	previous *hookedTrip // the call before this one

	connMu sync.Mutex
	conn   *stream // where the response comes from, until the trip is closed
}

// Read implements io.Reader. At its end the origin connection is free for others.
func (t *hookedTrip) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed && !t.body.ended() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := t.body.Read(p)
	if err == io.EOF && !t.closed {
		setTrailer(&t.res.Trailer, t.body.trailers)
		t.close()
	}
	return n, err
}

// Close implements io.Closer. A response that was not read to its end costs the
// connection. One that is being read is cut, and closed at the end of the exchange.
func (t *hookedTrip) Close() error {
	if !t.mu.TryLock() {
		t.giveUp()
		return nil
	}
	defer t.mu.Unlock()
	t.close()
	return nil
}

// giveUp ends the read that goes on.
func (t *hookedTrip) giveUp() {
	t.connMu.Lock()
	defer t.connMu.Unlock()
	if t.conn != nil {
		t.conn.reset()
		t.cut = true
	}
}

// wasCut reports whether it was a hook that ended the response.
func (t *hookedTrip) wasCut() bool {
	t.connMu.Lock()
	defer t.connMu.Unlock()
	return t.cut
}

// parted ends the time in which giveUp may reset the connection, and reports whether it has.
func (t *hookedTrip) parted() (cut bool) {
	t.connMu.Lock()
	defer t.connMu.Unlock()
	t.conn = nil
	return t.cut
}

func (t *hookedTrip) close() {
	if t.closed {
		return
	}
	t.closed = true
	if t.parted() || t.status.code == http.StatusSwitchingProtocols || isTunnel(t.status.code, t.method) {
		t.abandon() // no HTTP connection any more
	}
	if !t.body.ended() || !t.goesOn() {
		t.settle(false)
	} // else content goes on, see hookedExchange.settle
}

// settle ends a trip that was closed, see finish.
func (t *hookedTrip) settle(wait bool) {
	t.finish(wait)
	t.request.done()
	t.h.body.revive()
}

// lend makes the engine the reader of the body; false if somebody else is, or was.
func (t *hookedTrip) lend() bool {
	if !t.mu.TryLock() {
		return false
	}
	if t.closed && !t.body.ended() || t.body.count > 0 {
		t.mu.Unlock()
		return false
	}
	return true
}

// upgraded is the body of a 101: the connection itself (as in net/http).
type upgraded struct {
	t *hookedTrip
	s *stream
}

// Read reads from the origin.
func (u upgraded) Read(p []byte) (int, error) { return u.s.Read(p) }

// Write writes to the origin.
func (u upgraded) Write(p []byte) (int, error) { return u.s.nc.Write(p) }

// CloseWrite ends the sending side, for those who wrap the connection and look for that.
func (u upgraded) CloseWrite() error { return u.s.closeWrite() }

// Close gives the connection up.
func (u upgraded) Close() error {
	u.s.close()
	return u.t.Close()
}

// stepOfTrip gives err its step if it is what the content of t, a request or a response, ended in;
// else it returns nil.
func (h *hookedExchange) stepOfTrip(t *hookedTrip, err error) error {
	if !t.mu.TryLock() {
		return nil
	}
	defer t.mu.Unlock()
	if t.uploaded == nil && t.uploadErr != nil && isGone(err) { // then the connection was reset
		return t.uploadStep()
	}
	came := t.body.err
	if inHTTP2 := t.failure.Load(); inHTTP2 != nil {
		came = *inHTTP2
	}
	if came == nil || came == io.EOF || !errors.Is(err, came) || t.wasCut() {
		return nil
	}
	return asOpError("read response", t.route.key.addr, err)
}

// uploadStep returns the error in which the content of the request ended, with its step.
func (t *hookedTrip) uploadStep() error {
	err := t.uploadErr
	if src, ok := t.source.(*readerSource); ok && src.direct != nil {
		return asOpError("read request", "", clientGone(err))
	}
	if came := t.h.requestErr(); came != nil && errors.Is(err, came) {
		return asOpError("read request", "", clientGone(err))
	}
	return asOpError("hook", "", err)
}

// RoundTrip implements http.RoundTripper: it makes one trip to an origin server.
func (h *hookedExchange) RoundTrip(req *http.Request) (*http.Response, error) {
	if h.answersHere(req) {
		return h.answer(req)
	}
	t, err := h.newTrip()
	if err != nil {
		return nil, err
	}
	defer h.tripReturned(t)
	h.settle(true, (*hookedTrip).isBound)
	t.route = h.routeOf(req.URL)
	if t.route.key.mayHTTP2() && h.inner == nil {
		t.ctx, t.endStream = h.streamContext(req)
		c, o, err := h.client.p.http2.get(t.ctx, t.route, h.origins)
		if err != nil {
			closeReplaced(req, h.own)
			return nil, asOpError("dial", t.route.key.addr, err)
		}
		if c != nil {
			return t.overHTTP2(c, req)
		}
		t.given = o
	}
	return t.overHTTP1(req)
}

// overHTTP1 sends req on a connection that it has for itself.
func (t *hookedTrip) overHTTP1(req *http.Request) (*http.Response, error) {
	err := t.prepare(req)
	if err != nil {
		err = t.h.stepOf(err)
	} else if err = t.run(req.Context()); err != nil {
		err = t.cause(req.Context(), err)
	}
	if err != nil && isNoProtocol(err) { // it speaks HTTP/2 by now; the next request finds out
		t.h.client.p.choices.forgetHTTP1(t.route.key)
	}
	if err != nil || t.source != nil && t.uploaded == nil {
		closeReplaced(req, t.h.own)
	}
	if src, ok := t.source.(*readerSource); ok && t.uploaded == nil {
		src.giveBack()
	}
	if t.uploaded != nil {
		t.h.uploads.Store(true)
	}
	if err != nil {
		t.request.done()
		return nil, err
	}
	return t.response(req), nil
}

// closeReplaced closes a Body that a hook put in and that nobody read to its end.
func closeReplaced(req *http.Request, own io.ReadCloser) {
	if req.Body != nil && req.Body != own {
		req.Body.Close()
	}
}

func (t *hookedTrip) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return because(err, context.Cause(ctx))
	}
	if t.uploadErr != nil {
		return t.uploadStep()
	}
	return err
}

func (h *hookedExchange) newTrip() (*hookedTrip, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asker == nil {
		return nil, errOver
	}
	t := &h.first
	if h.last != nil {
		t = new(hookedTrip)
	} else if x, ok := h.asker.(*exchange); ok { // memory that is there
		t.head.fields, t.far = x.trip.head.fields, &x.sides.far
	}
	t.h, t.previous, h.last = h, h.last, t
	h.running++
	t.running = true
	return t, nil
}

func (h *hookedExchange) tripReturned(t *hookedTrip) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.running = false
	h.running--
	h.returned.Signal()
}

// busy reports whether content is still being sent, or a call of the engine has not
// returned.
func (h *hookedExchange) busy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running > 0 || h.last != nil && h.last.uploadingStill()
}
