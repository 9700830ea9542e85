package mitm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"sync"
	"sync/atomic"
)

// hookedExchange is what the hooks of one exchange can hold on to, in one piece of memory. It is
// reached through the context of the http.Request and never used again, unlike exchange.
type hookedExchange struct {
	flow     *Flow
	client   *client
	origins  *origins
	route    *route
	near     *side   // of the exchange, until its end; nil in HTTP/2
	control  control // of the request as it came
	clock    clock
	reply    readerSource
	target   string    // origin-form, byte for byte as it came
	absolute *absolute // what is sent in its place; nil: nothing
	inner    *route    // of the tunnel that a CONNECT asks another proxy for; nil: it is no such request
	url      url.URL   // what hooks may change
	sent     url.URL   // as the hooks got it
	req      *http.Request
	request  http.Request // what req is in HTTP/1
	context  flowContext  // of request
	room     fieldRoom
	body     hookedBody    // the client's content in HTTP/1
	own      io.ReadCloser // the client's content

	minor    uint8    // HTTP/1.minor of the client
	protocol Protocol // of the client
	closing  bool     // the client connection ends with the response
	empty    bool     // the response has nothing but, perhaps, a trailer section

	continued bool          // the client was told to send its content
	answered  bool          // interim responses come too late
	uploads   atomic.Bool   // content was left to a goroutine
	running   int32         // calls of the engine that have not returned
	mu        sync.Mutex    // of all from continued on, but for uploads
	asker     asker         // nil when the exchange is over
	response  *rawHead      // the latest that a call of the engine returned, as it came in HTTP/1
	theirs    io.ReadCloser // the content of the latest response of Proxy.Transport
	last      *hookedTrip   // the latest call of the engine
	first     hookedTrip    // most exchanges make one
	streams   []context.CancelCauseFunc
	handlers  *handlerWriter // the latest
	returned  sync.Cond      // one of them has
}

// asker is the exchange as its client sees it.
type asker interface {
	// interim passes a 1xx response on to the client, interimHTTP2 one of HTTP/2.
	interim(*trip) error
	interimHTTP2(http2Interim) error
}

// errNoResult is that of a hook, or a Transport, that returned nothing at all.
var errNoResult = errors.New("neither a response nor an error")

// errOver is returned to hooks that use an exchange after its end.
var errOver = errors.New("mitm: the exchange is over")

// hooked runs the exchange through the hooks and the transport behind them.
func (x *exchange) hooked() {
	h := newHooked(x)
	if x.body.ended() {
		x.client.watch.arm()
	}
	defer x.client.watch.disarm()
	res, err := h.call()
	h.stopInterim()
	if err == nil && h.inner != nil && !isTunnel(res.StatusCode, x.method) {
		x.closeRefused(res.StatusCode)
	}
	if err == nil {
		err = h.pass(x, res)
	}
	err = h.stepOf(err)
	x.control.close = x.control.close || h.inner != nil && err != nil
	switch {
	case err == nil:
	case errors.Is(err, http.ErrAbortHandler):
		x.err = err
		x.client.s.reset()
	default:
		h.closeTrips()
		h.drain()
		x.control.close = x.control.close || h.unread()
		h.end()
		x.fail(err)
	}
	h.end()
	h.near, h.first.far = nil, nil
	x.countUp(h.body.count)
}

func newHooked(x *exchange) *hookedExchange {
	if x.sides == nil {
		x.sides = new(sides)
	}
	h := &hookedExchange{
		flow: x.flow, client: x.client, origins: &x.client.origins, route: x.route, asker: x, protocol: HTTP1,
		control: x.control, minor: uint8(x.line.minor), near: &x.sides.near, inner: x.inner,
	}
	h.returned.L = &h.mu
	if h.flow == nil || x.client.p.sorted.http == nil { // nobody is to see what the hooks leave
		h.flow = new(Flow)
	}
	h.body.start(x.client.s, &x.control, x.client.p.limits.contentTime, x.client.p.limits.head)
	h.body.h, h.own, x.body = h, &h.body, &h.body.body
	x.shareClock(&h.clock)
	h.flow.origin = h
	h.newRequest(x)
	return h
}

// call calls the outermost hook.
func (h *hookedExchange) call() (res *http.Response, err error) {
	defer h.recovered(&err)
	hooks := h.client.p.sorted.http
	if hooks == nil || h.route.action == Tunnel || h.route.pages || h.inner != nil && h.inner.action == Tunnel {
		hooks = h
	}
	res, err = hooks.RoundTrip(h.req)
	if err == nil && res == nil {
		err = &OpError{Op: "hook", Err: errNoResult}
	}
	return res, err
}

// recovered turns a panic of a hook into an error; http.ErrAbortHandler is one already.
// It is to be deferred.
func (h *hookedExchange) recovered(err *error) {
	if v := recover(); v == http.ErrAbortHandler {
		*err = http.ErrAbortHandler
	} else if v != nil {
		*err = h.client.panicked("hook", v)
	}
}

// asOpError returns err as an error of step, unless it has a step already.
func asOpError(step, addr string, err error) error {
	if op := (*OpError)(nil); err == nil || errors.As(err, &op) {
		return err
	}
	return &OpError{Op: step, Addr: addr, Err: err}
}

// stepOf gives an error that came out of the hooks, or of content that they left, its step. If
// content that hooks may have read ended in that error, the step is the client's or the origin's;
// otherwise it is the hook's.
func (h *hookedExchange) stepOf(err error) error {
	if err == nil {
		return nil
	}
	if came := h.requestErr(); came != nil && errors.Is(err, came) {
		return asOpError("read request", "", clientGone(err))
	}
	for t := h.lastReturned(); t != nil; t = t.previous {
		if step := h.stepOfTrip(t, err); step != nil {
			return step
		}
	}
	return asOpError("hook", "", err)
}

// requestErr returns why the client's content can't be read to its end, nil if it can, or if
// somebody is reading it yet.
func (h *hookedExchange) requestErr() error {
	if b, ok := h.own.(*http2Body); ok {
		if err := b.err.Load(); err != nil {
			return *err
		}
		return nil
	}
	if !h.body.mu.TryLock() {
		return nil
	}
	defer h.body.mu.Unlock()
	if h.body.failed() {
		return h.body.err
	}
	return nil
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
	if h.answered || h.asker == nil || h.continued && t.status.code == http.StatusContinue {
		return nil
	}
	return h.asker.interim(t)
}

// sayContinue tells a client that waits for it to send content that a hook wants to read
// before an origin could say so (RFC 9110, section 10.1.1).
func (h *hookedExchange) sayContinue() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, ok := h.asker.(*exchange)
	if h.continued || h.answered || !ok || h.minor == 0 || len(h.client.s.buffered()) > 0 {
		return nil
	}
	h.continued = true
	reply := &x.reply
	reply.start(h.client.s, framing{}, h.client.p.limits.contentTime)
	reply.out = append(reply.out, "HTTP/1.1 100 Continue\r\n\r\n"...)
	return reply.flush()
}

// drain reads what little is left of the request, so that the connection can go on, unless
// somebody else wants it: an upload that goes on, a reader of a hook, a transport that has
// not closed it. A client that waits for 100 (Continue) may not send its content at all. It returns
// false if it may do more once the upload has ended.
func (h *hookedExchange) drain() bool {
	if t := h.lastReturned(); h.busy() || t != nil && !t.joinUpload() {
		return false
	}
	if !h.body.mu.TryLock() {
		return true
	}
	defer h.body.mu.Unlock()
	h.body.claim()
	waits := h.control.expectContinue && h.body.count == 0
	if !waits && (h.client.p.Transport == nil && !h.body.lent || h.body.closed.Load()) {
		h.body.drain()
		h.body.watch()
	}
	return true
}

func (h *hookedExchange) end() {
	h.endTrips()
	h.closeTrips()
	h.stopHandlers()
	h.endBody()
	h.awaitHandlers()
}

// endBody makes the request's content unreadable, so that the client connection can be
// read for other purposes. A hook that still reads is interrupted.
func (h *hookedExchange) endBody() {
	if !h.body.mu.TryLock() {
		h.client.s.interrupt()
		h.body.mu.Lock()
		h.client.s.resume()
	}
	h.body.over = true
	h.body.mu.Unlock()
}

// unread reports whether some of the request's content was not read, or is still being
// read: the client connection can't serve another request.
func (h *hookedExchange) unread() bool {
	if h.busy() {
		return true
	}
	if !h.body.mu.TryLock() {
		return !h.lastReturned().uploads() // which has all of it by now, or it would be busy
	}
	defer h.body.mu.Unlock()
	return !h.body.ended()
}

// untilGone closes body, if a hook put it in place, when the client leaves or the proxy closes: its
// Read may wait for something that knows of neither. stop, called when body is no longer read, ends
// this.
func (h *hookedExchange) untilGone(ctx context.Context, body io.Closer) (stop func() bool) {
	switch body.(type) {
	case *hookedTrip, *hookedBody, *http2Content, *http2Body: // which end by themselves
		return func() bool { return true }
	}
	if body == http.NoBody {
		return func() bool { return true }
	}
	h.body.watchUnread()
	return onEnd(ctx, func() { h.closeBody(body) })
}

// pass writes the response that came out of the hooks. It returns an error if it has
// written nothing.
func (h *hookedExchange) pass(x *exchange, res *http.Response) error {
	h.flow.Response = res
	x.answered(res.StatusCode)
	if res.Body == nil {
		res.Body = http.NoBody
	}
	defer func() { h.closeBody(res.Body) }()
	drained := res.Body == h.own || h.drain() // or the answer is an echo
	if res.StatusCode == http.StatusSwitchingProtocols {
		return h.passUpgrade(x, res)
	}
	if h.inner != nil && isTunnel(res.StatusCode, x.method) {
		return h.passTunnel(x, res)
	}
	defer h.untilGone(h.req.Context(), res.Body)()
	out, err := h.outgoing(x, res, drained)
	if err != nil {
		h.flow.Response = nil
		return h.ofTransport(res, err)
	}
	err = h.sendResponse(x, out)
	x.countDown(out.sent())
	if out.direct != nil {
		setTrailer(&res.Trailer, out.direct.trailers)
	}
	sent := !h.unread()
	h.closeBody(res.Body)
	h.end()
	x.conclude(err, x.route.key.addr, h.closing, sent)
	switch {
	case err == nil || isSendError(err):
	case x.client.ctx.Err() == nil:
		x.err = h.stepOf(h.ofTransport(res, err))
	case out.direct == nil: // nobody has to wait for a hook that is late
		x.err = &OpError{Op: "send response", Err: context.Cause(x.client.ctx)}
	}
	return nil
}

// ofTransport gives err, in which the content of res ended, its step if that is content of
// Proxy.Transport as it came.
func (h *hookedExchange) ofTransport(res *http.Response, err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if theirs := reflect.ValueOf(h.theirs); theirs.IsValid() && theirs.Comparable() && h.theirs == res.Body {
		return asOpError("transport", addrOf(h.req), err)
	}
	return err
}

// sendResponse sends it, and waits for content of the request that goes on. It survives the panic of a
// reader that a hook put in.
func (h *hookedExchange) sendResponse(x *exchange, out *readerSource) (err error) {
	defer h.recovered(&err)
	defer out.done()
	defer h.refuse() // or a call that a Close begins would be in the way of the next exchange
	if err = x.reply.send(out); err == nil {
		if out.giveBack(); h.contentGoesOn() {
			x.endResponse()
		}
		h.awaitContent()
	}
	return err
}

// closeBody survives the panic of what a hook put in.
func (h *hookedExchange) closeBody(body io.Closer) {
	var err error
	defer h.recovered(&err)
	body.Close()
}
