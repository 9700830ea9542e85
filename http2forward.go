package mitm

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// forward runs the exchange through the hooks, if there are any, and the transport.
func (x *http2Exchange) forward() {
	h := newHTTP2Hooked(x)
	res, err := h.call()
	h.stopInterim()
	x.endInterim()
	if err == nil {
		err = h.passHTTP2(x, res)
	}
	h.endTrips()
	h.closeTrips()
	h.stopHandlers()
	if h.handlers != nil && x.body != nil {
		x.body.Close()
	}
	h.awaitHandlers()
	if err != nil {
		x.fail(h.stepOf(err))
	}
	if x.flow != nil {
		x.flow.up.Store(x.up.Load())
	}
}

func newHTTP2Hooked(x *http2Exchange) *hookedExchange {
	c := x.client
	h := &hookedExchange{
		flow: x.flow, client: c, route: x.route, asker: x, protocol: HTTP2,
		control: x.control, minor: 1, origins: &origins{pool: &c.p.pool, dialer: &c.p.dialer},
	}
	h.clock.limit = c.p.limits.contentTime
	h.returned.L = &h.mu
	if h.flow == nil || c.p.sorted.http == nil { // nobody is to see what the hooks leave
		h.flow = new(Flow)
	}
	h.flow.origin = h
	h.setURL(string(x.target()), x.route)
	req := x.req.WithContext(withFlow(x.ctx, h.flow))
	req.URL, req.RequestURI, req.TLS = &h.url, "", c.tls
	if req.Host == "" || x.route.host != "" {
		req.Host = x.route.hostField()
	}
	if isConnect := x.line.form == authorityForm; isConnect || x.control.framing.empty() && req.ContentLength == 0 {
		req.Body = http.NoBody
		if isConnect { // what follows is no content
			req.ContentLength = 0
		}
	} else {
		x.body = &http2Body{x: x, ReadCloser: x.req.Body}
		h.own, req.Body = x.body, x.body
	}
	h.req, h.flow.Request = req, req
	return h
}

// passHTTP2 writes the response that came out of the hooks. It returns an error if it has
// written nothing.
func (h *hookedExchange) passHTTP2(x *http2Exchange, res *http.Response) error {
	h.flow.Response = res
	if res.Body == nil {
		res.Body = http.NoBody
	}
	defer func() { h.closeBody(res.Body) }()
	defer h.untilGone(x.ctx, res.Body)()
	src, f, err := h.outgoingHTTP2(x, res)
	if err != nil {
		h.flow.Response = nil
		return h.ofTransport(res, err)
	}
	x.w.WriteHeader(res.StatusCode)
	clear(x.w.Header()) // of which it has a copy, or fields would come again as trailers that were announced
	err = x.send(h, src, f)
	if x.flow != nil {
		x.flow.down.Store(src.sent())
	}
	if err == nil {
		return nil
	}
	x.broken = true
	x.err = x.sendFailure(h, res, err)
	return nil
}

// sendFailure gives err, which cut the response, its step.
func (x *http2Exchange) sendFailure(h *hookedExchange, res *http.Response, err error) error {
	step := h.stepOf(h.ofTransport(res, err))
	if isSendError(err) {
		step = &OpError{Op: "send response", Err: err}
		if !isTimeout(err) { // net/http has no error of its own for it
			step = &OpError{Op: "send response", Err: fmt.Errorf("%w: %w", ErrClientGone, err)}
		}
	}
	switch {
	case x.ctx.Err() == nil:
		return step
	case errors.Is(x.cause(), errStill):
		return because(step, errStill)
	}
	return &OpError{Op: "send response", Err: x.cause()}
}

// outgoingHTTP2 sets the header of res and returns its content.
func (h *hookedExchange) outgoingHTTP2(x *http2Exchange, res *http.Response) (src *readerSource, f framing, err error) {
	defer h.recovered(&err)
	if res.StatusCode < 200 || res.StatusCode > 999 {
		return nil, f, errHookStatus
	}
	f, src, err = h.responseContent(res, x.req.Method)
	if err == nil {
		err = h.setHeader(x.w.Header(), res, f)
	}
	if err != nil {
		src.done()
		return nil, f, err
	}
	x.answered(res.StatusCode)
	return src, f, nil
}

// setHeader puts the fields of a response where net/http looks for them.
func (h *hookedExchange) setHeader(header http.Header, res *http.Response, f framing) error {
	var c control
	if err := c.carry(header, res.Header); err != nil {
		return err
	}
	if f.kind == noContent && mayDescribe(res.StatusCode) && h.response.first(transferEncodingField) == nil &&
		c.readLength([]byte(res.Header.Get("Content-Length"))) == nil {
		f = framing{kind: knownLength, length: c.length}
	}
	for _, name := range [...]string{"Content-Type", "Content-Length"} {
		if _, ok := header[name]; !ok {
			header[name] = nil // or net/http makes one up
		}
	}
	if f.kind == knownLength {
		header.Set("Content-Length", strconv.FormatInt(f.length, 10))
	}
	if via := h.client.p.Via; via != "" {
		header.Add("Via", viaVersion(res.ProtoMajor == 2, minorOf(res))+" "+via)
	}
	return nil
}

// send passes content on, and holds nothing back for long when it has to wait. It survives the
// panic of a reader that a hook put in.
func (x *http2Exchange) send(h *hookedExchange, src *readerSource, f framing) (err error) {
	defer h.recovered(&err)
	defer src.done()
	if src.r == nil && src.direct == nil {
		return nil
	}
	if x.out = newLateFlusher(x.w); h.empty {
		x.out.end() // so that the head says that it is all
	}
	err = x.sendContent(h, src)
	if err == nil && f.kind == knownLength && src.sent() < f.length {
		err = errContentShort
	}
	if err != nil {
		x.out.flushNow() // what came is there to be seen
		return err
	}
	x.addTrailers(src.trailerFields())
	return nil
}

// addTrailers puts what comes after the content where net/http looks for it.
func (x *http2Exchange) addTrailers(fields []field) {
	x.out.lock()
	defer x.out.unlock()
	header := x.w.Header()
	for i := range fields {
		header.Add(http.TrailerPrefix+http.CanonicalHeaderKey(string(fields[i].name)), string(fields[i].value))
	}
}

// sendContent returns nil at the proper end of src.
func (x *http2Exchange) sendContent(h *hookedExchange, src *readerSource) (err error) {
	defer h.recovered(&err)
	x.wait()
	defer x.moved()
	for {
		if !src.ready() {
			if err := x.out.pause(); err != nil {
				return err
			}
		}
		p, err := src.next()
		x.touch()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := x.out.Write(p); err != nil {
			return err
		}
		x.touch()
	}
}

// answerHere answers a request that may go no further, see exchange.answerHere.
func (x *http2Exchange) answerHere() {
	h := x.w.Header()
	var echo strings.Builder
	if x.req.Method == http.MethodTrace {
		h.Set("Content-Type", "message/http")
		echo.WriteString("TRACE " + x.req.RequestURI + " HTTP/2.0\r\n")
		for name, values := range x.req.Header {
			for _, value := range values {
				if !isSecret([]byte(name)) {
					echo.WriteString(name + ": " + value + "\r\n")
				}
			}
		}
		echo.WriteString("\r\n")
	}
	h.Set("Content-Length", strconv.Itoa(echo.Len()))
	x.answered(http.StatusOK)
	x.w.WriteHeader(http.StatusOK)
	x.w.Write([]byte(echo.String()))
}
