package mitm

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// This file takes requests to origin servers that speak HTTP/2.

// overHTTP2 sends req on a stream of c, where a place is reserved. A request of which an
// origin has seen nothing is sent again, once, on another connection.
func (t *hookedTrip) overHTTP2(c *http2Origin, req *http.Request) (*http.Response, error) {
	out, body, err := t.forHTTP2(req)
	if err != nil {
		c.Release()
		return nil, err
	}
	if body.src != nil {
		body.sweeper.watch(body)
	}
	c, res, err := t.roundTrip(c, out, body)
	c.reused.Store(true)
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols {
		res.Body.Close()
		err = errUpgrade
	}
	if err != nil {
		body.end()
		return nil, t.failed(c, body, err)
	}
	if t.status.code = res.StatusCode; t.up != nil {
		t.h.clock.start(nil, true)
	}
	t.control.framing = framing{kind: chunked}
	if res.ContentLength >= 0 {
		t.control.framing = framing{kind: knownLength, length: res.ContentLength}
	}
	res.Request, res.TLS = req, c.o.state
	if res.Body == http.NoBody {
		body.ended.Store(true)
		body.sweeper.forget(body)
	} else {
		body.sweeper.watch(body)
		res.Body = &http2Content{ReadCloser: res.Body, res: res, up: body}
	}
	return res, nil
}

// roundTrip sends out on c, or, if it has to be sent again, on the connection that it returns.
func (t *hookedTrip) roundTrip(c *http2Origin, out *http.Request, body *http2Upload) (*http2Origin, *http.Response, error) {
	res, err := c.roundTrip(out)
	if err == nil || body.touched.Load() || out.Context().Err() != nil || !c.mayRepeat(err, out.Method) {
		return c, res, err
	}
	other, o, _ := t.h.client.p.http2.get(out.Context(), t.route, t.h.origins)
	if o != nil { // it speaks HTTP/2 no more; the next request finds out
		t.h.origins.close(o)
	}
	if other != nil {
		c = other
		res, err = c.roundTrip(out)
	}
	return c, res, err
}

// failed returns why there is no response. A connection on which none came in time may be gone.
func (t *hookedTrip) failed(c *http2Origin, body *http2Upload, err error) error {
	if cause := context.Cause(t.ctx); cause != nil {
		err = cause
	} else if came := body.failure.Load(); came != nil {
		return t.h.stepOf(*came)
	} else if isTimeout(err) {
		c.silent.Store(true)
		t.h.client.p.http2.rest(c, t.route.key)
	}
	return &OpError{Op: "read response", Addr: t.route.key.addr, Err: err}
}

// http2Content is the content of a response that came by HTTP/2.
type http2Content struct {
	io.ReadCloser
	res *http.Response
	up  *http2Upload // what it answers, whose motion is its own

	closed atomic.Bool
}

// Read implements io.Reader.
func (c *http2Content) Read(p []byte) (int, error) {
	c.up.wait()
	n, err := c.ReadCloser.Read(p)
	c.up.moved()
	if err != nil {
		c.up.ended.Store(err == io.EOF)
		c.up.sweeper.forget(c.up)
	}
	if err != nil && err != io.EOF {
		err = c.failed(err)
	}
	return n, err
}

// failed returns why the content ends in err, and remembers that if it is the origin's doing.
func (c *http2Content) failed(err error) error {
	if came := c.up.failure.Load(); came != nil { // so that net/http gave up the stream
		return *came
	}
	if c.up.expired.Load() {
		err = errStill
	}
	if !c.closed.Load() {
		c.up.trip.failure.CompareAndSwap(nil, &err)
	}
	return err
}

// Close implements io.Closer.
func (c *http2Content) Close() error {
	c.closed.Store(true)
	c.up.sweeper.forget(c.up)
	return c.ReadCloser.Close()
}

// blankRequest is to be copied. To begin with a copy on the stack would make all stacks larger.
var blankRequest http.Request

// forHTTP2 makes the request that net/http is to send.
func (t *hookedTrip) forHTTP2(req *http.Request) (*http.Request, *http2Upload, error) {
	h := t.h
	target, err := h.requestTarget(req)
	if err != nil {
		return nil, nil, err
	}
	header, err := h.requestHeader(req)
	if err != nil {
		return nil, nil, err
	}
	host, err := hostOf(req)
	if err != nil {
		return nil, nil, err
	}
	f, src, err := h.requestContent(req)
	if err != nil {
		return nil, nil, err
	}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		if !t.interims.more() {
			return errInterim
		}
		return h.interimHTTP2(http2Interim{code, header})
	}}
	out := blankRequest.WithContext(httptrace.WithClientTrace(t.ctx, trace))
	out.Method, out.Header, out.Host, out.Trailer = req.Method, header, host, soundTrailer(req.Trailer)
	out.URL = &url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Opaque: "//" + host + target}
	if target == "*" {
		out.URL.Opaque = target
	}
	if src != nil {
		if src.direct != nil { // it is read by net/http's goroutines
			src.giveBack()
			src.direct, src.r = nil, forwardedBody{&h.body}
		}
		h.body.lent = req.Body == h.own
	}
	body := &http2Upload{
		h: h, trip: t, sweeper: &h.client.p.http2.sweeper,
		src: src, framing: f, trailer: out.Trailer, left: req.Trailer, c: req.Body, through: make(chan struct{}),
	}
	if out.ContentLength = f.contentLength(); src != nil {
		out.Body, t.up = body, body
		h.uploads.Store(true)
	}
	h.sends(req)
	return out, body, nil
}

// requestHeader returns the fields of req as net/http is to send them.
func (h *hookedExchange) requestHeader(req *http.Request) (http.Header, error) {
	var c control
	header := make(http.Header, len(req.Header)+1)
	if err := c.carry(header, req.Header); err != nil {
		return nil, err
	}
	delete(header, "Trailer") // which net/http makes of the field names in Trailer
	if header["User-Agent"] == nil {
		header["User-Agent"] = nil // or net/http adds its own
	}
	if c.maxForwards > 0 && countsForwards(req.Method) {
		header.Set("Max-Forwards", strconv.Itoa(c.maxForwards-1))
	}
	if c.trailers {
		header.Set("Te", "trailers")
	}
	if via := h.client.p.Via; via != "" {
		header.Add("Via", viaVersion(h.protocol == HTTP2, int(h.minor))+" "+via)
	}
	return header, nil
}

// interimHTTP2 passes a 1xx response on.
func (h *hookedExchange) interimHTTP2(i http2Interim) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i.code == http.StatusSwitchingProtocols {
		return errUpgrade
	}
	if h.answered || h.asker == nil || h.continued && i.code == http.StatusContinue {
		return nil
	}
	return h.asker.interimHTTP2(i)
}

// interimHTTP2 passes a 1xx response of HTTP/2 to a client of HTTP/1. A client that does not take
// it is given up soon, since the streams of others wait for it.
func (x *exchange) interimHTTP2(i http2Interim) error {
	const patience = 2 * time.Second
	if x.line.minor == 0 {
		return nil
	}
	x.reply.start(x.client.s, framing{}, patience)
	b := appendStatusLine(x.reply.out, i.code, http.StatusText(i.code))
	for name, values := range i.header {
		for _, value := range values {
			if f, err := newField(name, value); err == nil && f.kind == endToEnd {
				b = append(append(b, f.line...), "\r\n"...)
			}
		}
	}
	x.reply.out = append(b, "\r\n"...)
	if x.reply.flush() != nil {
		x.client.leave()
		return ErrClientGone
	}
	return nil
}

// http2Upload is the content of a request on its way to an origin. As long as nothing of it
// was read the request can be sent again. It is read by net/http's goroutines, and survives
// the panic of a reader that a hook put in.
type http2Upload struct {
	motion  // of the stream, the response included
	sweeper *sweeper
	expired atomic.Bool

	h       *hookedExchange
	trip    *hookedTrip
	src     *readerSource
	framing framing
	trailer http.Header // as it is sent
	left    http.Header // as hooks left it
	rest    []byte
	c       io.Closer
	touched atomic.Bool
	closed  atomic.Bool
	through chan struct{}         // closed when it is
	ended   atomic.Bool           // the response came to its end
	sending atomic.Bool           // what was read waits for the origin's window
	failure atomic.Pointer[error] // why the content was not read to its end
}

// Read implements io.Reader.
func (u *http2Upload) Read(p []byte) (n int, err error) {
	n, err = u.read(p)
	if err != nil && err != io.EOF && !u.closed.Load() {
		u.failure.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (u *http2Upload) read(p []byte) (n int, err error) {
	defer u.h.recovered(&err)
	u.touched.Store(true)
	u.sent()
	if len(u.rest) == 0 {
		u.rest, err = u.src.next()
		if err == io.EOF {
			u.fillTrailers()
		}
		if err == io.EOF && u.framing.kind == knownLength && u.src.sent() < u.framing.length {
			err = errContentShort
		}
		if err != nil {
			return 0, err
		}
	}
	n = copy(p, u.rest)
	u.rest = u.rest[n:]
	u.wait()
	u.sending.Store(true)
	if u.closed.Load() {
		u.sent()
	}
	return n, nil
}

// soundTrailer returns trailer without what may be none, which net/http would not send a request with.
func soundTrailer(trailer http.Header) http.Header {
	sound := maps.Clone(trailer)
	maps.DeleteFunc(sound, func(name string, _ []string) bool { return !mayTrail(name) })
	return sound
}

// fillTrailers is called at the end of the content, when the trailers have come and hooks have set theirs.
func (u *http2Upload) fillTrailers() {
	fillTrailer(u.left, u.h.req.Trailer)
	for name, values := range u.left {
		if mayTrail(name) {
			u.trailer[name] = values
		}
	}
}

// sent is called when net/http is through with what it has read, which it tells by wanting more,
// or no more.
func (u *http2Upload) sent() {
	if u.sending.Swap(false) {
		u.moved()
	}
}

// Close implements io.Closer, for net/http, which does not want more.
func (u *http2Upload) Close() error {
	if !u.closed.Swap(true) {
		close(u.through)
	}
	u.sent()
	if u.touched.Load() {
		u.h.closeBody(u.c)
	}
	return nil
}

// end closes what is left.
func (u *http2Upload) end() {
	u.sweeper.forget(u)
	if u.src != nil {
		u.h.closeBody(u.c)
	}
}

// expire implements mover.
func (u *http2Upload) expire() {
	u.expired.Store(true)
	u.trip.endStream(errStill)
}

// over implements mover. Hooks may drop a response without a word.
func (u *http2Upload) over() bool { return u.trip.ctx.Err() != nil }

// http2StreamError has the shape of the error of a reset stream, which net/http does not
// export but converts to any type like this one.
type http2StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error implements error.
func (e http2StreamError) Error() string { return "stream error" }

// mayRepeat reports whether a request that ended in err, and of whose content nothing was read,
// may be sent again. A reset of the stream is an answer.
func (c *http2Origin) mayRepeat(err error, method string) bool {
	var reset http2StreamError
	return unprocessed(err) || c.reused.Load() && idempotent(method) && !isTimeout(err) && !errors.As(err, &reset)
}

// unprocessed reports whether an origin has said that it did nothing for a request (RFC 9113,
// sections 6.8 and 8.7).
func unprocessed(err error) bool {
	const refusedStream = 7
	var stream http2StreamError
	if errors.As(err, &stream) {
		return stream.Code == refusedStream
	}
	switch err.Error() { // of errors that net/http does not export
	case "http2: Transport received Server's graceful shutdown GOAWAY", "http2: client conn not usable":
		return true
	}
	return false
}
