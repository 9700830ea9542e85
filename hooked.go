package mitm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// hookedExchange is what the hooks of one exchange can hold on to. It is reached through
// the context of the http.Request and never used again, unlike exchange.
type hookedExchange struct {
	flow    *Flow
	client  *client
	route   *route
	raw     rawHead // the request as it came
	control control
	minor   int
	target  string  // origin-form, byte for byte as it came
	url     url.URL // what hooks may change
	sent    url.URL // as the hooks got it
	req     *http.Request
	body    hookedBody

	mu       sync.Mutex
	x        *exchange   // nil when the exchange is over
	answered bool        // interim responses come too late
	last     *hookedTrip // the latest call of the engine
	first    hookedTrip  // most exchanges make one
}

// errOver is returned to hooks that use an exchange after its end.
var errOver = errors.New("mitm: the exchange is over")

// hooked runs the exchange through the hooks and the transport behind them.
func (x *exchange) hooked() {
	h := newHooked(x)
	watched := x.body.ended()
	if watched {
		x.client.watch.arm()
	}
	res, err := h.call()
	if watched {
		x.client.watch.disarm()
	}
	h.stopInterim()
	x.countUp(h.body.count)
	switch {
	case err == nil:
		h.pass(x, res)
	case errors.Is(err, http.ErrAbortHandler):
		x.err = &OpError{Op: "hook", Err: err}
		x.client.s.reset()
	default:
		h.drain()
		x.fail(asOpError(err))
	}
	h.end()
}

func newHooked(x *exchange) *hookedExchange {
	h := &hookedExchange{
		flow: x.flow, client: x.client, route: x.route, x: x,
		control: x.control, minor: x.line.minor,
	}
	h.raw = copyHead(&x.head)
	h.body.start(x.client.s, x.control.framing, x.client.p.limits.contentTime, x.client.p.limits.head)
	h.body.h, x.body = h, &h.body.body
	h.flow.origin = h
	h.req = h.newRequest(x)
	h.flow.Request, h.flow.RequestFields = h.req, h.raw.names()
	return h
}

// call calls the outermost hook.
func (h *hookedExchange) call() (res *http.Response, err error) {
	defer func() {
		if v := recover(); v == http.ErrAbortHandler {
			res, err = nil, http.ErrAbortHandler
		} else if v != nil {
			res, err = nil, h.client.panicked("hook", v)
		}
	}()
	res, err = h.client.p.sorted.http.RoundTrip(h.req)
	if err == nil && res == nil {
		err = &OpError{Op: "hook", Err: errors.New("neither a response nor an error")}
	}
	return res, err
}

// asOpError gives errors of hooks and foreign transports a step.
func asOpError(err error) error {
	if op := (*OpError)(nil); errors.As(err, &op) {
		return err
	}
	return &OpError{Op: "hook", Err: err}
}

// stopInterim sees to it that nothing is written to the client but the final response.
func (h *hookedExchange) stopInterim() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answered = true
}

// panicked implements tripOwner.
func (h *hookedExchange) panicked(v any) error { return h.client.panicked("hook", v) }

// interim passes a 1xx response of t on.
func (h *hookedExchange) interim(t *trip) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answered || h.x == nil {
		return nil
	}
	return h.x.interim(t)
}

// drain reads what little is left of the request, so that the connection can go on. A
// client that waits for 100 (Continue) may not send its content at all.
func (h *hookedExchange) drain() {
	const most = 256 << 10
	if h.control.expectContinue && h.body.count == 0 {
		return
	}
	for start := h.body.count; h.body.count-start < most; {
		if h.body.kind == knownLength && h.body.left > most {
			return
		}
		if _, err := h.body.next(); err != nil {
			return
		}
	}
}

// end makes the request's content unreadable. A hook that still reads it is interrupted.
func (h *hookedExchange) end() {
	if !h.body.mu.TryLock() {
		h.client.s.interrupt()
		h.body.mu.Lock()
		h.client.s.resume()
	}
	h.body.over = true
	h.body.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.x = nil
}

// hookedBody is the content of the client's request as hooks read it.
type hookedBody struct {
	body
	h    *hookedExchange
	mu   sync.Mutex
	over bool
}

// Read implements io.Reader.
func (b *hookedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.body.Read(p)
	if err == io.EOF {
		setTrailer(&b.h.req.Trailer, b.trailers)
	}
	return n, err
}

// Close implements io.Closer. What was not read is read by the proxy.
func (b *hookedBody) Close() error { return nil }

// hookedTrip is one call of the engine's RoundTrip, and the body of its response.
type hookedTrip struct {
	trip
	h      *hookedExchange
	raw    rawHead // the response as it came
	res    *http.Response
	mu     sync.Mutex
	closed bool
}

// Read implements io.Reader. At its end the origin connection is free for others.
func (t *hookedTrip) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed && !t.body.ended() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := t.body.Read(p)
	if err == io.EOF {
		setTrailer(&t.res.Trailer, t.body.trailers)
		t.close()
	}
	return n, err
}

// Close implements io.Closer. A response that was not read to its end costs the
// connection.
func (t *hookedTrip) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.close()
	return nil
}

func (t *hookedTrip) close() {
	if !t.closed {
		t.closed = true
		t.finish()
		t.request.done()
	}
}

// upgraded is the body of a 101: the connection itself (as in net/http).
type upgraded struct{ *hookedTrip }

// Read reads from the origin.
func (u upgraded) Read(p []byte) (int, error) { return u.o.s.Read(p) }

// Write writes to the origin.
func (u upgraded) Write(p []byte) (int, error) { return u.o.s.nc.Write(p) }

// Close gives the connection up.
func (u upgraded) Close() error {
	u.abandon()
	return nil
}

// RoundTrip implements http.RoundTripper: it makes one trip to an origin server.
func (h *hookedExchange) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := h.newTrip()
	if err != nil {
		return nil, err
	}
	if err := t.prepare(req); err != nil {
		t.request.done()
		return nil, &OpError{Op: "hook", Err: err}
	}
	if err := t.run(req.Context()); err != nil {
		t.request.done()
		return nil, t.cause(req.Context(), err)
	}
	return t.response(req), nil
}

func (t *hookedTrip) cause(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return &OpError{Op: "read response", Addr: t.route.key.addr, Err: context.Cause(ctx)}
}

func (h *hookedExchange) newTrip() (*hookedTrip, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.x == nil {
		return nil, errOver
	}
	t := &h.first
	if h.last != nil {
		t = &hookedTrip{}
	}
	t.h, h.last = h, t
	return t, nil
}

// unread says whether some of the request's content was not read, or is still being read.
func (h *hookedExchange) unread() bool {
	if h.last != nil && h.last.uploaded != nil {
		return h.last.uploadingStill()
	}
	return !h.body.ended()
}

// pass writes the response that came out of the hooks.
func (h *hookedExchange) pass(x *exchange, res *http.Response) {
	h.flow.Response, h.flow.Answered, h.flow.Status = res, time.Now(), res.StatusCode
	if res.Body == nil {
		res.Body = http.NoBody
	}
	defer func() { res.Body.Close() }()
	if h.last == nil || h.last.uploaded == nil {
		h.drain()
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		h.passUpgrade(x, res)
		return
	}
	out, err := h.outgoing(x, res)
	if err != nil {
		h.flow.Response = nil
		x.fail(&OpError{Op: "hook", Err: err})
		return
	}
	err = x.reply.send(out)
	x.countDown(out.count)
	if out.done(); out.r == nil && h.last != nil {
		setTrailer(&res.Trailer, h.last.body.trailers)
	}
	sent := !h.unread()
	res.Body.Close() // ends an upload that goes on
	x.countUp(h.body.count)
	x.conclude(err, x.route.key.addr, out.closing, sent)
}
