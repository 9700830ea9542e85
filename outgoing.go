package mitm

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// This file turns what hooks leave behind into HTTP/1 messages again. Their framing and their
// hop-by-hop fields are decided by the same code as without hooks; those of HTTP/2 are in
// http2fields.go and http2trip.go.

// prepare makes t ready to send req.
func (t *hookedTrip) prepare(req *http.Request) error {
	h := t.h
	target, err := h.requestTarget(req)
	if err != nil {
		return err
	}
	if t.far == nil {
		t.far = new(side)
	}
	w, err := h.requestRewrite(req, &t.far.merged)
	if err != nil {
		return err
	}
	if a := h.absolute; a != nil && t.route == h.route {
		w.keepHost = req.Host == a.host
		target = a.of(target, req, target != h.target)
	}
	f, src, err := h.requestContent(req)
	if err != nil {
		return err
	}
	h.startTrip(t, req.Method)
	t.bound = w.control.connectionBound
	t.asks(&w)
	w.framing = f
	t.request.start(nil, f, h.client.p.limits.contentTime)
	t.request.out = appendRequestLine(t.request.out, req.Method, target)
	t.request.out = w.appendTo(t.request.out)
	h.sends(req)
	return t.attach(req, src)
}

// sends tells the flow which request goes out: the last one, of several.
func (h *hookedExchange) sends(req *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flow.Request = req
}

// startTrip gives t what it needs of the client. Of one that speaks HTTP/2 there is nothing
// to read but content, and its end is that of the request's context.
func (h *hookedExchange) startTrip(t *hookedTrip, method string) {
	t.owner, t.clock, t.request.clock = h, &h.clock, &h.clock
	if h.protocol == HTTP1 {
		h.client.startTrip(&t.trip, t.route, method)
		return
	}
	t.origins, t.limits, t.method = h.origins, &h.client.p.limits, method
}

// attach adds the content that is at hand to the head and leaves the rest to an upload.
func (t *hookedTrip) attach(req *http.Request, src *readerSource) error {
	switch {
	case src == nil:
		return nil
	case src.direct != nil && src.trailer == nil:
		all, err := t.request.collect(src.direct)
		if err != nil || all {
			src.giveBack()
		}
		if err != nil {
			return &OpError{Op: "read request", Err: clientGone(err)}
		}
		if all {
			t.watch.arm()
			return nil
		}
	case src.err == io.EOF && t.request.fits(src.n): // all was read ahead
		p, _ := src.next()
		err := t.request.piece(p)
		t.request.appendEnd(src.trailerFields())
		src.done()
		return err
	}
	t.source, t.content = src, src.direct
	t.expects = src.direct != nil && t.h.control.expectContinue && t.h.minor > 0
	t.stop = func() { t.h.closeBody(req.Body) }
	return nil
}

// requestTarget returns the target byte for byte as it came unless a hook changed it.
func (h *hookedExchange) requestTarget(req *http.Request) (string, error) {
	if h.inner != nil && req.Method == http.MethodConnect {
		return h.tunnelTarget(req)
	}
	if !isToken(req.Method) || req.Method == http.MethodConnect {
		return "", errHookMethod
	}
	if req.URL == nil || req.URL.Host == "" || req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return "", errHookTarget
	}
	was := h.sent
	was.Scheme, was.Host = req.URL.Scheme, req.URL.Host
	if was == *req.URL {
		return h.target, nil
	}
	target := req.URL.RequestURI()
	if req.URL.Opaque != "" || target[0] != '/' || checkTargetBytes([]byte(target)) != nil {
		return "", errHookTarget
	}
	return target, nil
}

// routeOf returns the exchange's own route unless a hook named another destination.
func (h *hookedExchange) routeOf(u *url.URL) *route {
	if u == nil || u.Scheme == h.sent.Scheme && u.Host == h.sent.Host { // nil is refused later
		return h.route
	}
	return h.routeTo(u)
}

// addrOfURL returns the host and port that u names.
func addrOfURL(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// routeTo returns a route to the destination that u names.
func (h *hookedExchange) routeTo(u *url.URL) *route {
	d := Destination{Addr: addrOfURL(u), TLS: u.Scheme == "https", Protocol: HTTP1}
	d.Source, d.Mark = h.route.key.options.source, h.route.key.options.mark // firewall rules may need them
	conn := h.client.newConn(d)
	conn.Protocol, conn.nest = HTTP1, nil
	key := conn.key()
	if d.TLS {
		key = key.forHTTP(h.protocol)
	}
	return h.client.p.identify(&route{conn: conn, key: key, once: true})
}

// requestRewrite merges the fields that hooks left with those that came.
func (h *hookedExchange) requestRewrite(req *http.Request, m *merged) (rewrite, error) {
	var raw *rawHead
	if h.near != nil {
		raw = &h.near.raw
	}
	if err := m.merge(req.Header, h.flow.RequestFields, raw); err != nil {
		return rewrite{}, err
	}
	c := &m.control
	if err := c.read(m.fields); err != nil {
		return rewrite{}, err
	}
	host, err := hostOf(req)
	if err != nil {
		return rewrite{}, err
	}
	return rewrite{
		fields: m.fields, control: c, minor: int(h.minor), http2: h.protocol == HTTP2, via: h.client.p.Via, host: m.bytes(host),
		forwards: c.maxForwards > 0 && countsForwards(req.Method),
	}, nil
}

// hostOf returns what the Host field of req is to be.
func hostOf(req *http.Request) (string, error) {
	host := cmp.Or(req.Host, req.URL.Host)
	if !validAuthority([]byte(host)) {
		return "", errHostValue
	}
	return host, nil
}

// responseRewrite merges the fields that hooks left with those that came.
func (h *hookedExchange) responseRewrite(res *http.Response) (rewrite, error) {
	m := &h.near.merged
	if err := m.merge(res.Header, h.flow.ResponseFields, h.response); err != nil {
		return rewrite{}, err
	}
	c := &m.control
	if err := c.read(m.fields); err != nil {
		return rewrite{}, err
	}
	return rewrite{
		fields: m.fields, control: c, response: true, status: res.StatusCode, minor: minorOf(res), http2: res.ProtoMajor == 2,
		via: h.client.p.Via,
	}, nil
}

// minorOf returns the minor version of res, which a hook may have made, in HTTP/1.
func minorOf(res *http.Response) int {
	if res.ProtoMajor == 1 && res.ProtoMinor == 0 {
		return 0
	}
	return 1
}

// outgoing puts the head of res into x.reply and returns its content. drained is what drain has reported.
func (h *hookedExchange) outgoing(x *exchange, res *http.Response, drained bool) (src *readerSource, err error) {
	defer h.recovered(&err)
	if res.StatusCode < 200 || res.StatusCode > 999 {
		return nil, errHookStatus
	}
	reason, err := reasonOf(res)
	if err != nil {
		return nil, err
	}
	w, err := h.responseRewrite(res)
	if err != nil {
		return nil, err
	}
	goesOn := h.contentGoesOn()
	if !goesOn && !drained { // what went on before was in the way of it
		h.drain()
	}
	f, src, err := h.responseContent(res, x.method)
	if err != nil {
		src.done()
		return nil, err
	}
	w.framing = x.forClient(f)
	w.close = x.control.close || w.control.close || res.Close || w.framing.kind == closeFramed ||
		!goesOn && h.unread() || x.client.p.closing.Load()
	h.closing = w.close
	x.reply.start(x.client.s, w.framing, x.client.p.limits.contentTime)
	x.reply.last = !goesOn && h.unread() && !h.busy()
	w.describe(res.Header)
	x.reply.out = appendStatusLine(x.reply.out, res.StatusCode, reason)
	x.reply.out = w.appendTo(x.reply.out)
	return src, nil
}

// describe adds the length that a hook gave for content that is not sent, as in an answer to HEAD.
func (w *rewrite) describe(header http.Header) {
	c := w.control
	if w.framing.kind == noContent && w.describes() && !c.hasLength && c.readLength([]byte(header.Get("Content-Length"))) == nil {
		w.framing = framing{kind: knownLength, length: c.length}
	}
}

// reasonOf returns the reason phrase of Status if that belongs to StatusCode.
func reasonOf(res *http.Response) (string, error) {
	var digits [20]byte
	code := strconv.AppendInt(digits[:0], int64(res.StatusCode), 10)
	reason, ok := strings.CutPrefix(res.Status, string(code))
	if !ok {
		reason = http.StatusText(res.StatusCode)
	}
	if reason = strings.TrimPrefix(reason, " "); !validValue(reason) {
		return "", errHookField
	}
	return reason, nil
}

// passUpgrade passes a 101 on and makes a tunnel of the connection.
func (h *hookedExchange) passUpgrade(x *exchange, res *http.Response) error {
	w, err := h.upgradeRewrite(res)
	if err != nil {
		return &OpError{Op: "hook", Err: err}
	}
	reason, err := reasonOf(res)
	rwc, ok := res.Body.(io.ReadWriteCloser)
	if err != nil || !ok || h.unread() { // what is left of the client's content is no tunnel
		return &OpError{Op: "hook", Err: cmp.Or(err, errUpgrade)}
	}
	x.client.watch.disarm()
	x.reply.start(x.client.s, framing{}, x.client.p.limits.contentTime)
	x.reply.out = appendStatusLine(x.reply.out, res.StatusCode, reason)
	x.reply.out = w.appendTo(x.reply.out)
	if err := x.reply.flush(); err != nil {
		x.err = x.client.blame(&OpError{Op: "send response", Err: clientGone(err)})
		return nil
	}
	res.Body = http.NoBody // it belongs to the tunnel now
	x.tunnel = &tunnel{route: x.route, flow: x.flow}
	if t := h.lastReturned(); t != nil && t.o != nil && t.status.code == http.StatusSwitchingProtocols {
		x.tunnel.o = t.takeOrigin()
		t.request.done()
	}
	if _, own := rwc.(upgraded); !own {
		x.tunnel.under = x.tunnel.o
		x.tunnel.o = &origin{s: newStream(bodyConn{rwc, h, x.tunnel.under}), key: x.route.key}
	}
	return nil
}

// upgradeRewrite is responseRewrite for a 101, which a client that did not ask does not get.
func (h *hookedExchange) upgradeRewrite(res *http.Response) (rewrite, error) {
	w, err := h.responseRewrite(res)
	if err != nil {
		return w, err
	}
	w.control.switches()
	w.protocol = onlyProtocol(h.near.raw.fields)
	named := w.protocol != "" || hasField(w.fields, upgradeField)
	if !h.control.upgrade || h.minor == 0 || !w.control.upgrade || !named {
		return w, errUpgrade
	}
	return w, nil
}

// bodyConn is the body of a 101, from another transport or as a hook wrapped it, as a
// connection.
type bodyConn struct {
	io.ReadWriteCloser
	h     *hookedExchange
	under *origin // what the engine got it from; nil: it is another transport's
}

// Read implements net.Conn. It survives the panic of a reader that a hook put in.
func (c bodyConn) Read(p []byte) (n int, err error) {
	defer c.h.recovered(&err)
	return c.ReadWriteCloser.Read(p)
}

// Write implements net.Conn. It survives the panic of a writer that a hook put in.
func (c bodyConn) Write(p []byte) (n int, err error) {
	defer c.h.recovered(&err)
	return c.ReadWriteCloser.Write(p)
}

// CloseWrite ends the sending side, if need be below what a hook put around the connection.
func (c bodyConn) CloseWrite() (err error) {
	defer c.h.recovered(&err)
	if half, ok := c.ReadWriteCloser.(halfCloseable); ok {
		return half.CloseWrite()
	}
	if c.under != nil {
		return c.under.s.closeWrite()
	}
	return errNoHalfClose
}

func (bodyConn) LocalAddr() net.Addr              { return nil }
func (bodyConn) RemoteAddr() net.Addr             { return nil }
func (bodyConn) SetDeadline(time.Time) error      { return nil }
func (bodyConn) SetReadDeadline(time.Time) error  { return nil }
func (bodyConn) SetWriteDeadline(time.Time) error { return nil }
