package mitm

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"time"
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
	if err != nil {
		x.fail(asOpError(err))
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
	if x.control.framing.empty() && req.ContentLength == 0 {
		req.Body = http.NoBody
		x.waiting.Store(0) // for the response, for which there is another limit
	} else {
		x.body = &http2Body{x: x, ReadCloser: x.req.Body}
		h.own, req.Body = x.body, x.body
	}
	h.req, h.flow.Request = req, req
	return h
}

// target is the request target for the origin.
func (x *http2Exchange) target() []byte {
	if path := x.line.path; len(path) > 0 && path[0] == '/' {
		return path
	}
	return x.line.appendOriginForm(nil)
}

// passHTTP2 writes the response that came out of the hooks. It returns an error if it has
// written nothing.
func (h *hookedExchange) passHTTP2(x *http2Exchange, res *http.Response) error {
	h.flow.Response = res
	if res.Body == nil {
		res.Body = http.NoBody
	}
	defer func() { h.closeBody(res.Body) }()
	src, f, err := h.outgoingHTTP2(x, res)
	if err != nil {
		h.flow.Response = nil
		return err
	}
	x.w.WriteHeader(res.StatusCode)
	err = x.send(h, src, f)
	if x.flow != nil {
		x.flow.down.Store(src.sent())
	}
	if err == nil {
		return nil
	}
	x.broken = true
	x.err = &OpError{Op: "read response", Addr: x.route.key.addr, Err: err}
	if isSendError(err) {
		x.err = &OpError{Op: "send response", Err: err}
	}
	if x.ctx.Err() != nil {
		x.err = &OpError{Op: "send response", Err: x.cause()}
	}
	return nil
}

// outgoingHTTP2 sets the header of res and returns its content.
func (h *hookedExchange) outgoingHTTP2(x *http2Exchange, res *http.Response) (src *readerSource, f framing, err error) {
	defer h.recovered(&err)
	if res.StatusCode < 200 || res.StatusCode > 999 {
		return nil, f, errHookStatus
	}
	w, err := h.responseRewrite(res)
	if err != nil {
		return nil, f, err
	}
	f, src, err = h.responseContent(res, x.req.Method)
	if err != nil {
		src.done()
		return nil, f, err
	}
	w.framing = f
	if f.kind == noContent && !w.control.hasLength { // which net/http read off
		w.control.readLength([]byte(res.Header.Get("Content-Length")))
	}
	x.setHeader(&w)
	x.answering(res.StatusCode)
	return src, f, nil
}

// setHeader puts the fields of a response where net/http looks for them.
func (x *http2Exchange) setHeader(w *rewrite) {
	h := x.w.Header()
	for f := range sendable(w.fields, w.control) {
		if f.kind != contentLengthField {
			name := http.CanonicalHeaderKey(string(f.name))
			h[name] = append(h[name], string(f.value))
		}
	}
	switch {
	case w.framing.kind == knownLength:
		h.Set("Content-Length", strconv.FormatInt(w.framing.length, 10))
	case w.framing.kind == noContent && w.describes() && w.control.hasLength:
		h.Set("Content-Length", strconv.FormatInt(w.control.length, 10))
	}
	for _, name := range [...]string{"Content-Type", "Content-Length"} {
		if _, ok := h[name]; !ok {
			h[name] = nil // or net/http makes one up
		}
	}
	if w.via != "" {
		h.Add("Via", w.version()+" "+w.via)
	}
}

// sendable are the fields that HTTP/2 can carry (RFC 9113, section 8.2.2).
func sendable(fields []field, c *control) iter.Seq[*field] {
	return func(yield func(*field) bool) {
		for i := range fields {
			f := &fields[i]
			switch f.kind {
			case transferEncodingField, connectionField, keepAliveField, proxyConnectionField,
				upgradeField, http2SettingsField, hostField, teField:
				continue
			}
			if !named(c.names, f) && !yield(f) {
				return
			}
		}
	}
}

// send passes content on, and holds nothing back when it has to wait. It survives the
// panic of a reader that a hook put in.
func (x *http2Exchange) send(h *hookedExchange, src *readerSource, f framing) (err error) {
	defer h.recovered(&err)
	defer src.done()
	if src.r == nil && src.direct == nil {
		return nil
	}
	rc := http.NewResponseController(x.w)
	for {
		if !src.ready() && !src.empty {
			if err := rc.Flush(); err != nil {
				return &sendError{err}
			}
		}
		p, err := src.next()
		x.touch()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if _, err := x.w.Write(p); err != nil {
			return &sendError{err}
		}
		x.touch()
	}
	if f.kind == knownLength && src.sent() < f.length {
		return errContentShort
	}
	header := x.w.Header()
	for _, f := range src.trailerFields() {
		header.Add(http.TrailerPrefix+http.CanonicalHeaderKey(string(f.name)), string(f.value))
	}
	return nil
}

// overHTTP2 sends req on a stream of c, where a place is reserved. A request of which an
// origin has seen nothing is sent again, once, on another connection.
func (t *hookedTrip) overHTTP2(c *http2Origin, req *http.Request) (*http.Response, error) {
	h := t.h
	out, body, err := t.forHTTP2(req)
	if err != nil {
		c.Release()
		return nil, err
	}
	res, err := c.RoundTrip(out)
	if err != nil && !body.touched.Load() && out.Context().Err() == nil && c.mayRepeat(err, req.Method) {
		other, o, _ := h.client.p.http2.get(out.Context(), t.route, h.origins, &h.client.p.choices)
		if o != nil { // it speaks HTTP/2 no more; the next request finds out
			h.origins.close(o)
		}
		if other != nil {
			c = other
			res, err = c.RoundTrip(out)
		}
	}
	c.reused.Store(true)
	if err != nil {
		body.end()
		if ctx := req.Context(); ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if isTimeout(err) {
			c.silent.Store(true)
			h.client.p.http2.rest(c, t.route.key)
		}
		return nil, &OpError{Op: "read response", Addr: t.route.key.addr, Err: err}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		res.Body.Close()
		return nil, &OpError{Op: "read response", Addr: t.route.key.addr, Err: errUpgrade}
	}
	t.control.framing = framing{kind: chunked}
	if res.ContentLength >= 0 {
		t.control.framing = framing{kind: knownLength, length: res.ContentLength}
	}
	res.Request, res.TLS = req, c.o.state
	if res.Body != http.NoBody {
		res.Body = &http2Content{res.Body, res}
	}
	return res, nil
}

// http2Content is the content of a response that came by HTTP/2.
type http2Content struct {
	io.ReadCloser
	res *http.Response
}

// forHTTP2 makes the request that net/http is to send.
func (t *hookedTrip) forHTTP2(req *http.Request) (*http.Request, *http2Upload, error) {
	h := t.h
	target, err := h.requestTarget(req)
	if err != nil {
		return nil, nil, err
	}
	w, err := h.requestRewrite(req, &t.asked)
	if err != nil {
		return nil, nil, err
	}
	f, src, err := h.requestContent(req)
	if err != nil {
		return nil, nil, err
	}
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		return h.interimHTTP2(http2Interim{code, header})
	}}
	out := (&http.Request{
		Method: req.Method,
		URL:    &url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host, Opaque: "//" + string(w.host) + target},
		Header: make(http.Header, len(w.fields)+1), Host: string(w.host), Trailer: req.Trailer,
	}).WithContext(httptrace.WithClientTrace(h.streamContext(req), trace))
	if target == "*" {
		out.URL.Opaque = target
	}
	w.setRequestHeader(out.Header)
	if src != nil {
		src.direct = nil // who reads it has to hold the lock of the client's content
		h.body.lent = req.Body == h.own
	}
	body := &http2Upload{h: h, src: src, framing: f, c: req.Body}
	if out.ContentLength = f.contentLength(); src != nil {
		out.Body = body
	}
	h.flow.Request = req
	return out, body, nil
}

// setRequestHeader puts the fields of a request where net/http looks for them.
func (w *rewrite) setRequestHeader(h http.Header) {
	h["User-Agent"] = nil // or net/http adds its own
	for f := range sendable(w.fields, w.control) {
		switch {
		case f.kind == contentLengthField, f.kind == proxyAuthorizationField, equalFold(f.name, "trailer"):
		case f.kind == maxForwardsField && w.forwards:
			h.Set("Max-Forwards", strconv.Itoa(w.control.maxForwards-1))
		default:
			name := http.CanonicalHeaderKey(string(f.name))
			h[name] = append(h[name], string(f.value))
		}
	}
	if w.control.trailers {
		h.Set("Te", "trailers")
	}
	if w.via != "" {
		h.Add("Via", w.version()+" "+w.via)
	}
}

// interimHTTP2 passes a 1xx response on.
func (h *hookedExchange) interimHTTP2(i http2Interim) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i.code == http.StatusSwitchingProtocols {
		return errUpgrade
	}
	if h.answered {
		return nil
	}
	switch x := h.asker.(type) {
	case *http2Exchange:
		if i.code != http.StatusContinue { // net/http says it when the content is read
			return x.pass(i)
		}
	case *exchange:
		if !h.continued || i.code != http.StatusContinue {
			return x.interimHTTP2(i)
		}
	}
	return nil
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
